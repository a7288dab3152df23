"""The contract of an attribution method: the features it needs of each item, and how it scores training items.

A method says what is kept of each item (`features`), builds its global state from the training set (`fit`), and
gets back a `Scorer` that ranks the training set for a query. Everything between (gradients, shards, resuming,
timing, metrics, records) is the framework's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, final

from attrbench.code_digest import class_digest
from attrbench.contracts.feature import FeatureRequest, QueryFeatures, TrainFeatures
from attrbench.contracts.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import GradientSource
    from attrbench.contracts.method_results import Edited, Transformed
    from attrbench.contracts.ranking import Ranking
    from attrbench.contracts.samples import Samples

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class StateSize:
    """The bytes that a scorer keeps to answer a new query: rows of training items, shared state, search index.

    Attributes:
        rows: what is kept for each training item.
        shared: what is kept once: projections, permutations, factors.
        index: a search index, beside or instead of the rows.
        rows_if_kept: for methods that keep no rows and pass over the training set again for each query: what
            keeping them would take. None for all others.
    """

    rows: int = 0
    shared: int = 0
    index: int = 0
    rows_if_kept: int | None = None


@dataclass(frozen=True)
class Context:
    """The tools that `Method.fit`, `transform` and `edit` get besides features: seed, folder, model, noisy samples.

    Attributes:
        seed: the run's seed.
        depth: how many items the metrics look at, at most the size of the training set.
        workspace: a folder of this method's own, kept between runs; for index files.
        fingerprint: identifies the training features; an index file is valid for one fingerprint only.
        denoiser: gives the network, for methods that need more than gradients.
        training: gives the noisy samples of the training set under a source, ready for the network, for methods that
            need more of it than the features (curvature).
        queries: gives those of the queries.
    """

    seed: int
    depth: int
    workspace: Path
    fingerprint: str
    denoiser: Callable[[], Denoiser]
    training: Callable[[GradientSource], Samples]
    queries: Callable[[GradientSource], Samples]


class Scorer(ABC):
    """Base class of fitted methods, which rank training items by influence: larger scores first, then smaller index."""

    @abstractmethod
    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """Return the k most influential training items of each query with their scores, strongest first."""

    @abstractmethod
    def size(self) -> StateSize:
        """Return the bytes that this scorer keeps to answer a new query: rows, shared state and search index."""

    def build_seconds(self) -> float:
        """Return the seconds that building state loaded from an earlier run took then, so that no cost is hidden."""
        return 0.0

    def facts(self) -> Mapping[str, float]:
        """Return numbers that the record reports beside the metrics: a damping, a step size, a residual."""
        return {}

    def exact(self) -> Scorer | None:
        """Return, for an approximate search, the exhaustive scorer over the same rows, to measure recall; else None."""
        return None


class ExhaustiveScorer(Scorer):
    """Base class of scorers that give every training item a score, instead of searching for the top items."""

    @abstractmethod
    def scores(self, query: QueryFeatures) -> NDArray[np.float32]:
        """Return the influence of each training item on each query as [m, n] scores; larger is stronger."""

    @final
    def top(self, query: QueryFeatures, k: int) -> Ranking:
        """Return the k highest-scored training items of each query; of equal scores, the smaller index first."""
        from attrbench.contracts.ranking import top_k  # NumPy comes with it, and wrong names are refused before

        return top_k(self.scores(query), k)


class Method(ABC, Generic[OptionsT]):
    """Base class of training-data attribution methods: declares features, and fits a scorer of training items.

    Attributes:
        name: what `-m` takes.
        summary: one line for `attrbench list`.
        citation: paper or code that the method follows.
        version: raised whenever the same options give other scores than before.
        Options: the options, a nested pydantic model.
        self_first: True where an item must rank first for itself; False where its own score need not be high. A method
            for which options decide sets it in `__init__`.
        control: whether the scores mean nothing by design.
        quick: option strings for runs whose numbers mean nothing (`attrbench check`): fewer draws, fewer steps.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str] = ""
    version: ClassVar[int] = 1
    Options: type[OptionsT]
    self_first: bool | None = None
    control: ClassVar[bool] = False
    quick: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @property
    def key(self) -> str:
        """Return name, version and options as one line, to identify features whose numbers depend on the method.

        They hold it in `GradientProducts.transform` and `LossesUnderEdit.edit`. For a class without a file
        (attrbench.code_digest) it ends in the digest of its code, so that what an earlier version of the class made is
        not taken for that of this one.
        """
        code = class_digest(type(self))
        return f"{self.name} v{self.version} {self.options.model_dump_json()}" + (f" code {code}" if code else "")

    @abstractmethod
    def features(self) -> FeatureRequest:
        """Return the features (such as gradient sketches) that the method needs of training items and of queries."""

    def check(self, train_items: int) -> None:
        """Raise an error, before anything is computed, if the method can't run on a training set of this size.

        Raises:
            UsageError: for options that a training set of this size cannot meet.
            Unavailable: where something is missing without which the method cannot work.
        """

    def transform(self, gradients: Tensor, context: Context) -> Transformed:
        """Return transformed query gradients, such as H^-1 g, with which training gradients are multiplied.

        Called for a `GradientProducts` whose `transform` is set, before its pass over the training set.

        Args:
            gradients: [T, m, p] whole gradients of the queries (T = 1 for means), zeros where one was not finite.
            context: as for `fit`; its fingerprint is that of the products.
        """
        raise NotImplementedError(f"{type(self).__name__} declares a transform and does not implement it")

    def edit(self, model: Denoiser, query: Samples, context: Context) -> Edited | None:
        """Change the weights of `model.module` in place for one query: an unlearning step, fine-tuning, a Newton step.

        Called for a `LossesUnderEdit`, once for each query, before the losses of all training items are taken under
        the changed weights. What is drawn must follow from `context.seed` and `query.first` alone.

        Args:
            model: a copy of the network; whatever becomes of it, the task's own model keeps its weights.
            query: the noisy samples of one query, bound to that copy: `query.batches(size)` yields the batches that
                the source describes, `query.parameters` are its attributed parameters by name.
            context: as for `fit`; `denoiser` and `training` are at the original weights, and its fingerprint is that
                of the losses.

        Returns:
            What the record is to know of it; None for nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} declares losses under an edit and does not implement it")

    def depth(self, wanted: int) -> int:
        """Return how many top items to request of the scorer where metrics want `wanted`; a method may give fewer."""
        return wanted

    @abstractmethod
    def fit(self, train: TrainFeatures, context: Context) -> Scorer:
        """Build the state from the training features and return the scorer; heavy imports belong in here."""
