"""The loaded task of a run for plans, computations and methods: items, limits, models, feature stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.contracts.computation import Computation, Engine, Prepared, SplitName
from attrbench.contracts.feature import Feature
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.method import Context
from attrbench.contracts.method_results import Edited, Transformed
from attrbench.contracts.task import ItemsOutline
from attrbench.errors import AttrbenchError
from attrbench.evaluation.owners import errors_of_task
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.item_store import ItemStore
from attrbench.store.shards import FeatureStore

if TYPE_CHECKING:
    from torch import Tensor

    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.model_description import ModelDescription
    from attrbench.contracts.samples import Samples
    from attrbench.contracts.task import Items, OpenTask, TaskMeta
    from attrbench.evaluation.config import RunSettings
    from attrbench.evaluation.requests import MethodRequest

AnyFeature = Feature[Any, Any]
SPLITS: tuple[SplitName, ...] = ("train", "query")


@dataclass(frozen=True)
class PreparedFor:
    """A computation that was prepared in this process, kept so that later jobs can reuse it.

    Attributes:
        computation: which.
        features: what is wanted of it.
        ready: what computes its units.
    """

    computation: Computation[Any]
    features: frozenset[tuple[AnyFeature, SplitName]]
    ready: Prepared[Any]


@dataclass(frozen=True)
class ModelAt:
    """The hash, timesteps and parameter sizes of a task's model with the weights of one training checkpoint.

    Attributes:
        described: the final model.
        checkpoint: whose facts.
    """

    described: ModelDescription
    checkpoint: str

    @property
    def fingerprint(self) -> str:
        """Return the hash of the checkpoint's weights and of the options that decide their gradients."""
        return self.described.fingerprint_at(self.checkpoint)

    @property
    def takes_prompts(self) -> bool:
        """Return whether the diffusion model is conditioned on prompts."""
        return self.described.takes_prompts

    @property
    def sampling(self) -> Mapping[str, object]:
        """Return the settings besides the weights that decide the steps of the model's sampler."""
        return self.described.sampling

    def timesteps(self, grid: TimestepGrid) -> tuple[float, ...]:
        """Return the diffusion timesteps that a grid (a rule such as `uniform`) gives for this model."""
        return self.described.timesteps(grid)

    def parameter_sizes(self, which: str) -> dict[str, int]:
        """Return name -> number of entries of each differentiated parameter."""
        return {name: math.prod(shape) for name, shape in self.described.parameters(which).items()}


@dataclass
class TaskWorld:
    """The loaded task of a run in one process, with the run's settings, models and feature stores.

    Attributes:
        meta: of the task.
        opened: the task.
        settings: of the run.
        declarers: the method that declared each feature whose computation calls it.
    """

    meta: TaskMeta
    opened: OpenTask
    settings: RunSettings
    declarers: dict[AnyFeature, MethodRequest] = field(default_factory=dict)
    _stores: dict[tuple[AnyFeature, SplitName], FeatureStore] = field(default_factory=dict)
    _known: Mapping[tuple[AnyFeature, SplitName], FeatureStore] = field(default_factory=dict)
    _models: dict[str, ModelAt] = field(default_factory=dict)
    _denoisers: dict[str, Denoiser] = field(default_factory=dict)
    prepared: PreparedFor | None = None

    def __post_init__(self) -> None:
        with errors_of_task(self.task, self.opened, "can't give its training set"):
            expected, found = self.meta.train_items, len(self.opened.train)
        if expected not in (None, found):
            raise AttrbenchError(f"task {self.meta.name}: its meta promises {expected} training items, it has {found}")

    def asked(self, opened: OpenTask) -> TaskWorld:
        """Return the same world with other queries, given as the task with these.

        Models that are loaded stay so, and stores of the training set go on knowing which rows there are.
        """
        known = {key: store for key, store in self._stores.items() if key[1] == "train"}
        return replace(self, opened=opened, _stores={}, _known=known, prepared=None)

    @property
    def task(self) -> str:
        """Return the name and version of the task as text, such as `NAME v1`."""
        return f"{self.meta.name} v{self.meta.version}"

    @property
    def seed(self) -> int:
        """Return the run's random seed, such as for random scores and bootstrap intervals."""
        return self.settings.seed

    @property
    def engine(self) -> Engine:
        """Return the settings of gradient computation: back end and batch size."""
        return self.settings.engine

    @property
    def cache(self) -> Path:
        """Return the cache folder of the run."""
        return self.settings.cache

    def items(self, split: SplitName) -> Items:
        """Return all items (images with prompts and groups) of the training set or of the queries."""
        return self.opened.train if split == "train" else self.opened.queries

    @cached_property
    def outlines(self) -> Mapping[SplitName, ItemsOutline]:
        """Return the number and hash of training items and queries; for a dry run, queries are not generated."""
        with errors_of_task(self.task, self.opened, "can't give its queries"):
            planned = self.opened.query_outline if self.settings.dry_run else ItemsOutline.of(self.opened.queries)
        return {"train": ItemsOutline.of(self.opened.train), "query": planned}

    def count(self, split: SplitName) -> int:
        """Return the number of items of the training set or of the queries that the run uses, within its limits."""
        total = self.outlines[split].count
        limit = self.settings.limit_train if split == "train" else self.settings.limit_queries
        return min(total, limit or total)

    @property
    def is_limited(self) -> bool:
        """Return whether the run uses fewer training items or queries than the task has."""
        return any(self.count(split) < self.outlines[split].count for split in SPLITS)

    def items_fingerprint(self, split: SplitName) -> str:
        """Return the hash of the contents of all items of the training set or of the queries."""
        return self.outlines[split].fingerprint

    def model(self, checkpoint: str) -> ModelAt:
        """Return the hash, timesteps and parameter sizes of the model at a training checkpoint, without loading it."""
        if checkpoint not in self._models:
            with errors_of_task(self.task, self.opened, "can't give its model"):
                self._models[checkpoint] = ModelAt(self.opened.model_description, checkpoint)
        return self._models[checkpoint]

    def denoiser(self, checkpoint: str) -> Denoiser:
        """Return the diffusion model with the weights of a training checkpoint, loaded once."""
        if checkpoint not in self._denoisers:
            with errors_of_task(self.task, self.opened, "can't give its model"):
                self._denoisers[checkpoint] = self.opened.denoiser.at(checkpoint)
        return self._denoisers[checkpoint]

    def store(self, feature: AnyFeature, split: SplitName) -> FeatureStore:
        """Return the on-disk store of the shards of a feature, for the training set or the queries."""
        if (feature, split) not in self._stores:
            spec = feature.store(split, self)
            about = spec.shard_items, spec.summary or feature.summary(), spec.kind, f"{self.task} {split}"
            if spec.rows == "set":
                store = FeatureStore(self.cache, dict(spec.description), *about)
            else:
                keys = self.outlines[split].keys_of(spec.rows)[: self.count(split)]
                store = ItemStore(self.cache, dict(spec.description), keys, *about)
            known = self._known.get((feature, split))
            self._stores[feature, split] = known if known and known.fingerprint == store.fingerprint else store
        return self._stores[feature, split]

    def transform(self, feature: AnyFeature, gradients: Tensor) -> Transformed:
        """Let the method that declared `feature` transform query gradients (NaN as 0); else return them as is."""
        request = self.declarers.get(feature)
        if request is None:
            return Transformed(gradients)
        context = self.context(request, self.store(feature, "train").fingerprint, self.count("train"))
        return request.method.transform(gradients.nan_to_num(0.0), context)

    def edit(self, feature: AnyFeature, model: Denoiser, query: Samples) -> Edited:
        """Let the method that declared `feature` change the weights of `model` for one query.

        Args:
            feature: whose losses are asked for.
            model: a copy of the network.
            query: the samples of one query, bound to that copy.
        """
        request = self.declarers[feature]
        context = self.context(request, self.store(feature, "query").fingerprint, self.count("train"))
        return request.method.edit(model, query, context) or Edited()

    def context(self, request: MethodRequest, fingerprint: str, depth: int) -> Context:
        """Return the context for a method's `fit`, `transform` or `edit`: seed, depth, folder, model, noisy samples.

        Args:
            request: the method.
            fingerprint: of its training features.
            depth: how many items it may have to rank.
        """
        return Context(
            seed=self.seed,
            depth=request.method.depth(min(depth, self.count("train"))),
            workspace=self.cache / "methods" / request.spec.name,
            fingerprint=fingerprint,
            denoiser=lambda: self.opened.denoiser,
            training=lambda source: self._samples("train", source),
            queries=lambda source: self._samples("query", source),
        )

    def _samples(self, split: SplitName, source: Any) -> NoisySamples:
        return NoisySamples(
            source, self.denoiser(source.checkpoint), Split(split, self.items(split)), self.count(split)
        )
