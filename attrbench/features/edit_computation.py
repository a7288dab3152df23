"""Compute the losses of all training items under edited weights: for each query, a method edits a copy of the model."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attrbench.contracts.computation import Computation, Prepared, Scope, ShardWriter, SplitName, Stores, Unit, World
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.feature import Feature
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method_results import Edited
from attrbench.errors import FeatureFailed, Unavailable, UsageError
from attrbench.features.source_facts import grid_text, source_facts
from attrbench.gradients.batching import batch_size_file
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.shards import Timing, units

AnyFeature = Feature[Any, Any]
STATE_COSTS = ("state_bytes", "state_seconds")
"""Facts of an edit that go to the record's storage and latency."""


@dataclass(frozen=True)
class EditComputation(Computation[AnyFeature]):
    """The computation of all training items' losses, for each query under weights that a method changed for it.

    Attributes:
        source: what decides the losses.
        edit: names the edit.
    """

    source: GradientSource
    edit: str
    split: SplitName = "query"

    @property
    def title(self) -> str:
        """Return the title for progress bars, which names the method whose edit it is."""
        return f"edits of {self.edit.split()[0]}"

    def summary(self, features: Sequence[AnyFeature], scope: Scope) -> str:
        """Return one line for the plan: which losses are computed under weights edited for each query."""
        return (
            f"{self.source.output} of {scope.count('train')} train items under weights edited for each query"
            f" at {grid_text(self.source, scope)}"
        )

    def identity(self, scope: Scope) -> object:
        """Return what tells this computation from others, to name its locks: task, items, model, source, edit, seed."""
        facts, queries = source_facts(self.source, scope), scope.items_fingerprint("query")
        train = [scope.items_fingerprint("train"), scope.count("train")]
        source = self.source.model_dump(mode="json")
        return ["edit", scope.task, queries, train, facts["model"], source, self.edit, scope.seed]

    def units(self, scope: Scope) -> list[Unit]:
        """Return one unit of work for each query, as each takes an edit and a forward pass of its own."""
        return units(scope.count("query"), 1)

    def prepare(self, stores: Stores[AnyFeature], world: World) -> Prepared[AnyFeature]:
        """Return the computation made ready; raise an error if the model lacks what the source asks for."""
        edits = _Edits(self, world)
        return Prepared(lambda unit: edits.compute(unit, stores))


class _Edits:
    """A worker that, for each query, copies the model, lets the method edit it, and stores all items' losses.

    Args:
        computation: which.
        world: the open task.
    """

    def __init__(self, computation: EditComputation, world: World) -> None:
        self._world = world
        self._original = world.denoiser(computation.source.checkpoint)
        self._source = computation.source.model_copy(update={"checkpoint": "final"})  # the copy's own weights
        self._timesteps = self._original.timesteps(self._source.grid)
        self._batch_sizes = batch_size_file(world, [computation.identity(world), "edit"])
        self._original.attributed_parameters(self._source.parameters)  # raises where there are none of that name

    def compute(self, unit: Unit, stores: Stores[AnyFeature]) -> None:
        """Compute the missing losses of the queries in `unit`, each under its own edit, and write them to disk."""
        for (feature, _), store in stores.items():
            for shard in store.missing(unit):
                self._compute(shard.first, feature, store)

    def _compute(self, query: int, feature: AnyFeature, store: ShardWriter) -> None:
        started = time.perf_counter()
        model = copied(self._original)
        edited = self._edit(query, feature, model)
        losses = self._losses(model)
        finite = losses.isfinite()
        lost = [(query, self._timesteps[step]) for step in torch.nonzero(~finite.all(dim=0)).flatten().tolist()]
        seconds = edited.query_seconds(time.perf_counter() - started)
        timing = Timing([seconds], 1, lost, facts=edited.recorded())
        store.write(Unit(query, query + 1), {"losses": losses.where(finite, 0.0)[None].numpy()}, timing)

    def _edit(self, query: int, feature: AnyFeature, model: Denoiser) -> Edited:
        """Let the method change the copied model for one query; only attributed parameters require gradients.

        Raises:
            FeatureFailed: where the method does, whatever it raised.
        """
        samples = NoisySamples(self._source, model, Split("query", self._world.items("query")), 1, first=query)
        model.module.requires_grad_(False)
        for parameter in samples.parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                edited = self._world.edit(feature, model, samples)
        except (Unavailable, UsageError):
            raise
        except Exception as error:  # the method's own fault: the other methods go on
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise FeatureFailed(f"its edit for query {query} raised {text}") from error
        model.module.eval()
        return edited

    def _losses(self, model: Denoiser) -> Tensor:
        """Return the [n, T] float32 losses of all training items under `model`, in batches like those of `Outputs`."""
        world = self._world
        split = Split("train", world.items("train"))
        work = GradientPass(self._source, model, split, world.engine, batch_size_file=self._batch_sizes)
        count = world.count("train")
        losses = torch.zeros(count, len(self._timesteps))
        for unit in units(count):

            def keep(items: Tensor, steps: Tensor, outputs: Tensor, first: int = unit.first) -> None:
                losses[first + items, steps] = outputs.float().cpu()

            work.run(unit, [], keep)
        return losses


def copied(original: Denoiser) -> Denoiser:
    """Return a denoiser over a copy of the network, to be edited; encoders and samplers are the original's."""
    model = copy.copy(original)
    model.module = copy.deepcopy(original.module)
    model.fingerprint = f"{original.fingerprint}/edited"
    return model
