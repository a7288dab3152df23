"""Compute Gram matrices of gradients, saving partial sums after each pass, so that a crash loses one pass at most."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import load_file

from attrbench.contracts.computation import Computation, Prepared, Scope, SplitName, Stores, Unit, World
from attrbench.contracts.feature import Feature, QueryViewT, TrainViewT
from attrbench.contracts.gradient_source import GradientSource
from attrbench.errors import FeatureFailed, Unavailable, UsageError
from attrbench.features.pass_computation import differentiated
from attrbench.features.source_facts import grid_text, source_facts
from attrbench.gradients.batching import batch_size_file, ran_out_of_memory
from attrbench.gradients.gram_pass import SUMS_VERSION, GramPass, GramSums, Side, SideSums
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.artifacts import Artifact, write_arrays
from attrbench.store.fingerprint import fingerprint
from attrbench.store.shards import Timing


class GramFeature(Feature[TrainViewT, QueryViewT]):
    """Base class of features computed as a Gram matrix of training gradients and its products with queries."""

    @property
    @abstractmethod
    def query_source(self) -> GradientSource:
        """Return the gradient source of the queries, with whose gradients the training gradients are multiplied."""


AnyGramFeature = GramFeature[Any, Any]


@dataclass(frozen=True)
class GramOf:
    """Gram matrix declaration: source of training gradients, averaged over timesteps raw or scaled to unit norm.

    Attributes:
        source: declaration that decides the gradients of the training items.
        timesteps: whether raw or unit-norm gradients are averaged over timesteps.
    """

    source: GradientSource
    timesteps: Literal["mean", "mean-normalized"]


@dataclass(frozen=True)
class GramComputation(Computation[AnyGramFeature]):
    """The computation of a Gram matrix of training gradients and of its products with sets of query gradients.

    Attributes:
        matrix: declaration of the matrix.
    """

    matrix: GramOf
    split: SplitName = "train"
    order: int = 2

    @property
    def title(self) -> str:
        """Return `Gram matrix`, the title for progress bars."""
        return "Gram matrix"

    def summary(self, features: Sequence[AnyGramFeature], scope: Scope) -> str:
        """Return one line for the plan that says which gradients of which items are multiplied."""
        source = self.matrix.source
        return (
            f"Gram matrix of the {differentiated(source)} of train items and queries at {grid_text(source, scope)},"
            " by a pass or more"
        )

    def identity(self, scope: Scope) -> object:
        """Return what tells this computation from others, to name its locks: task, items, model, gradient source."""
        facts, items = source_facts(self.matrix.source, scope), scope.items_fingerprint("train")
        source = self.matrix.source.model_dump(mode="json")
        return ["gram", scope.task, items, facts["model"], source, self.matrix.timesteps]

    def units(self, scope: Scope) -> list[Unit]:
        """Return a single unit of work of all training items, because sums over parameters are kept, not rows."""
        return [Unit(0, scope.count("train"))]

    def items_of(self, unit: Unit, split: SplitName, scope: Scope) -> Unit:
        """Return all items of the split: the matrix has a row for each training item, the products for each query."""
        return Unit(0, scope.count(split))

    def prepare(self, stores: Stores[AnyGramFeature], world: World) -> Prepared[AnyGramFeature]:
        """Return the computation made ready, and the features whose queries lack what they need (trajectories)."""
        failures: dict[AnyGramFeature, Exception] = {}
        for feature in _features(stores):
            try:
                NoisySamples(feature.query_source, world.opened.denoiser, Split("query", world.items("query")))
            except (Unavailable, UsageError) as error:
                failures[feature] = error
        return Prepared(lambda unit: self._compute(stores, failures, world), failures)

    def _compute(self, stores: Stores[AnyGramFeature], failures: dict[AnyGramFeature, Exception], world: World) -> None:
        try:
            _Sums(self, stores, [feature for feature in _features(stores) if feature not in failures], world).add_up()
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            raise FeatureFailed(
                f"memory ran out over the Gram matrix of {world.count('train')} items: use a sketch (v=...) or fewer"
                " (--limit-train)"
            ) from None


def _features(stores: Stores[AnyGramFeature]) -> list[AnyGramFeature]:
    return list(dict.fromkeys(feature for feature, _ in stores))


class _Sums:
    """The partial sums of one Gram matrix and its products, resumed from where an earlier process stopped."""

    def __init__(
        self,
        computation: GramComputation,
        stores: Stores[AnyGramFeature],
        features: Sequence[AnyGramFeature],
        world: World,
    ) -> None:
        self._matrix = computation.matrix
        self._stores = stores
        self._features = features
        self._world = world
        self._rows, self._queries = Unit(0, world.count("train")), Unit(0, world.count("query"))

    def add_up(self) -> None:
        """Compute the missing Gram matrix and products, one parameter group per pass, and write them to disk."""
        if not self._features:
            return
        matrix = self._stores[self._features[0], "train"]
        known = not matrix.missing(self._rows)
        lacking = [feature for feature in self._features if self._stores[feature, "query"].missing(self._queries)]
        missing = list(self._features) if not known else lacking
        if not missing:
            return  # another process was quicker
        missing.sort(key=lambda feature: self._stores[feature, "query"].fingerprint)
        world, sources = self._world, [feature.query_source for feature in missing]
        work = GramPass(
            world.opened.denoiser,
            self._side("train", self._matrix.source),
            [self._side("query", source) for source in sources],
            self._matrix.timesteps == "mean-normalized",
            world.engine,
        )
        crosses = [self._stores[feature, "query"] for feature in missing]
        key = fingerprint([SUMS_VERSION, known, matrix.fingerprint, *(store.fingerprint for store in crosses)])[:20]
        saved = KeptSums(world.cache / "grams", key)
        sums = saved.latest() or work.start(known)
        work.compute(sums, saved.write, lambda: None)
        train, *queries = sums.sides
        count = len(crosses) + 1
        if train.products is not None:
            seconds = train.seconds + train.product_seconds / len(train.seconds)
            lost = self._lost(self._matrix.source, train)
            matrix.write(self._rows, {"gram": train.products}, Timing(seconds.tolist(), count, lost))
        for store, source, side in zip(crosses, sources, queries, strict=True):
            assert side.products is not None
            seconds = side.seconds + side.product_seconds / len(side.seconds) + train.seconds.sum()
            timing = Timing(seconds.tolist(), count, self._lost(source, side))
            store.write(self._queries, {"cross": side.products}, timing)
        saved.drop_before(None)

    def _lost(self, source: GradientSource, side: SideSums) -> list[tuple[int, float]]:
        timesteps = self._world.denoiser(source.checkpoint).timesteps(source.grid)
        return [(item, timesteps[place]) for item, place in side.lost.tolist()]

    def _side(self, split: SplitName, source: GradientSource) -> Side:
        world = self._world
        items = world.items(split)
        file = batch_size_file(world, [items.fingerprint, source.model_dump(mode="json"), "gram"])
        alone = split == "query" and not world.engine.queries_together
        return Side(source, Split(split, items, one_by_one=alone), world.count(split), file)


class KeptSums:
    """The saved partial sums of an unfinished Gram matrix: one file for each pass, of which the latest is kept.

    Args:
        folder: folder of the files.
        key: fingerprint of the computation.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def _artifact(self, name: str) -> Artifact:
        return Artifact(self._folder / name, "sums of a Gram matrix", "what an unfinished matrix has added up")

    def _artifacts(self) -> list[Artifact]:
        """Return the existing files of partial sums, the latest first."""
        names = sorted((path.name for path in self._folder.glob(f"{self._key}-*.safetensors")), reverse=True)
        return [self._artifact(name) for name in names]

    def latest(self) -> GramSums | None:
        """Return the latest intact partial sums, or None if there are none."""
        for kept in self._artifacts():
            if kept.whole() is not None:
                return GramSums.of(load_file(kept.path))
            kept.report_damage("adding up again")
        return None

    def write(self, sums: GramSums) -> None:
        """Save the partial sums after a pass, and remove those of earlier passes."""
        kept = self._artifact(f"{self._key}-{sums.stage:08d}.safetensors")
        kept.write(lambda part: write_arrays(part, sums.arrays()))
        self.drop_before(kept)

    def drop_before(self, last: Artifact | None) -> None:
        """Remove all saved partial sums except the file `last`."""
        for kept in self._artifacts():
            if kept != last:
                kept.drop()
