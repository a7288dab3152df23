"""The contract of a computation, which computes features (gradient sketches, losses) of items and stores their shards.

Three views of a task and its surroundings: `ModelFacts` and `Scope`, which suffice for a plan; and `World`, the open
task, which a `Computation` works with. What it computes goes through a `ShardWriter` and is read back from `Shards`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.gradient_source import TimestepGrid
    from attrbench.contracts.method_results import Edited, Transformed
    from attrbench.contracts.samples import Samples
    from attrbench.contracts.task import Items, OpenTask, RowKey

SplitName = Literal["train", "query"]
FeatureT = TypeVar("FeatureT", bound=Hashable)


class Unit(NamedTuple):
    """One piece of a computation's work: the items first .. last - 1 of the training set or the queries."""

    first: int
    last: int


@dataclass(frozen=True)
class Engine:
    """Settings of gradient computation (back end, batches) that change results by rounding only; in no fingerprint.

    Attributes:
        backend: `hooks`, `vmap` or `loop` (attrbench.gradients.backends).
        batch_size: noisy samples in a backward pass; None finds it (attrbench.gradients.batching).
        queries_together: whether a batch may hold several queries; else each has its own, so that its time is measured.
    """

    backend: str = "hooks"
    batch_size: int | None = None
    queries_together: bool = False


class ModelFacts(Protocol):
    """Protocol of what plans and fingerprints need of a model (hash, timesteps, parameter sizes), not its weights."""

    @property
    def fingerprint(self) -> str:
        """Return the hash of the model's weights and of how they are used, which identifies its gradients."""

    @property
    def takes_prompts(self) -> bool:
        """Return whether the diffusion model is conditioned on prompts."""

    @property
    def sampling(self) -> Mapping[str, object]:
        """Return the settings besides the weights that decide the steps of the model's sampler, for fingerprints."""

    def timesteps(self, grid: TimestepGrid) -> Sequence[float]:
        """Return the diffusion timesteps that a timestep grid (a rule such as `uniform`) gives for this model."""

    def parameter_sizes(self, which: str) -> Mapping[str, int]:
        """Return name -> number of entries of each differentiated parameter, in the order of the whole gradient."""


class Scope(Protocol):
    """Protocol of what a plan needs of a task: item counts and fingerprints, without loading images or weights."""

    @property
    def task(self) -> str:
        """Return the name and version of the task (model, training set and queries) as text."""

    @property
    def seed(self) -> int:
        """Return the run's random seed, such as for random scores and bootstrap intervals."""

    def count(self, split: SplitName) -> int:
        """Return the number of items of the training set or of the queries that the run uses."""

    def items_fingerprint(self, split: SplitName) -> str:
        """Return the hash of the contents of all items of the training set or of the queries."""

    def model(self, checkpoint: str) -> ModelFacts:
        """Return the hash, timesteps and parameter sizes of the model at a training checkpoint, without its weights."""


class World(Scope, Protocol):
    """Protocol of what a computation works with in its process: loaded task, model, cache folder and method calls."""

    @property
    def opened(self) -> OpenTask:
        """Return the loaded task: model, training set and queries."""

    @property
    def engine(self) -> Engine:
        """Return the settings of gradient computation: back end and batch size."""

    @property
    def cache(self) -> Path:
        """Return the cache folder, which holds only files that can be computed again, such as features."""

    def items(self, split: SplitName) -> Items:
        """Return all items (images with prompts and groups) of the training set or of the queries."""

    def denoiser(self, checkpoint: str) -> Denoiser:
        """Return the diffusion model with the weights of a training checkpoint, such as `final`."""

    def transform(self, feature: Any, gradients: Tensor) -> Transformed:
        """Apply the transform of the method that declared `feature` to query gradients ([T, m, p]; T=1 for means)."""

    def edit(self, feature: Any, model: Denoiser, query: Samples) -> Edited:
        """Let the method that declared `feature` change the weights of `model` for one query (its noisy samples)."""


class Shards(Protocol):
    """Protocol of the stored arrays of one feature, of the training set or the queries, read back in item order."""

    @property
    def fingerprint(self) -> str:
        """Return the hash of all that decides the stored numbers (model, items, settings), which identifies them."""

    @property
    def ranges(self) -> Sequence[Unit]:
        """Return the item ranges of the shards in item order; reads no rows."""

    def block(self, number: int, rows: NDArray[np.int64] | None = None) -> Mapping[str, NDArray[Any]]:
        """Return the memory-mapped arrays by name of one of the `ranges`, of which `rows` will be used (None: all)."""

    def blocks(self) -> Iterator[tuple[int, Mapping[str, NDArray[Any]]]]:
        """Yield each shard in item order, as (index of its first item, memory-mapped arrays by name)."""

    def array(self, name: str) -> NDArray[Any]:
        """Return one named array of all items, concatenated from the shards."""

    def item_seconds(self) -> NDArray[np.float64]:
        """Return the seconds that computing each item's feature took, [items]."""

    @property
    def bytes(self) -> int:
        """Return the size of the shard files on disk, in bytes."""

    def nonfinite(self) -> list[tuple[int, float]]:
        """Return (item, timestep) of every gradient that was NaN or infinite."""

    def row_error(self) -> float:
        """Return the root mean square relative error that the storage type (such as int8) causes in stored rows."""

    def facts(self) -> dict[str, float]:
        """Return the numbers for the record, such as a damping, that the computation noted beside the first shard."""


class ShardWriter(Protocol):
    """Protocol by which a computation asks which shards of one feature are missing, and writes them to disk."""

    @property
    def fingerprint(self) -> str:
        """Return the hash of all that decides the stored numbers (model, items, settings), which identifies them."""

    @property
    def shard_items(self) -> int:
        """Return the number of items that one shard holds."""

    def lacks(self, unit: Unit) -> bool:
        """Return whether the row of an item of `unit` is not there or damaged; says nothing of it."""

    def lacking(self, unit: Unit) -> list[Unit]:
        """Return the ranges within `unit` that must be computed, each a shard; says nothing of damaged ones."""

    def missing(self, unit: Unit) -> list[Unit]:
        """Return the ranges within `unit` that must be computed, each a shard; damaged ones are reported."""

    def write(self, unit: Unit, arrays: Mapping[str, NDArray[Any]], timing: Any) -> None:
        """Write one finished shard to disk; its arrays have the leading dimension `unit.last - unit.first`."""


@dataclass(frozen=True)
class StoreSpec:
    """The specification of a feature's files on disk: what identifies them, bytes per item and items per shard.

    Attributes:
        description: everything that decides the numbers, as JSON can hold it.
        item_bytes: bytes of one item.
        shard_items: items of a shard, a power of two; it must follow from the description alone.
        rows: what a row depends on besides the description: `item`, its own item (`Items.keys_of`), so that it
            serves every set that the item is in; `image`, its pixels alone; `trajectory`, its own item and seed; `set`,
            the whole split, which the description must then identify.
        kind, summary: what it is and which one, in words; `attrbench cache ls` shows them.
    """

    description: Mapping[str, object]
    item_bytes: int
    shard_items: int = 64
    rows: RowKey | Literal["set"] = "set"
    kind: str = "feature"
    summary: str = ""


@dataclass(frozen=True)
class Costs:
    """The measured costs of a feature for the record: seconds, bytes, storage error and non-finite gradients.

    Attributes:
        cache_seconds: computing it for the training set, once.
        query_seconds: computing it for each query, [m] or one number for all.
        rows_on_disk: bytes of the files that hold the rows of the training set.
        shared_bytes: what a new query needs besides the rows, such as a dense projection.
        row_error: root mean square of the relative error that the storage type causes; None where no rows are kept.
        nonfinite: (split, item, timestep) of every NaN or infinite gradient.
        facts: numbers for the record.
    """

    cache_seconds: float = 0.0
    query_seconds: NDArray[np.float64] | float = 0.0
    rows_on_disk: int = 0
    shared_bytes: int = 0
    row_error: float | None = None
    nonfinite: Sequence[tuple[SplitName, int, float]] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared(Generic[FeatureT]):
    """A computation made ready in this process: a function that computes a unit, and the features that failed.

    Attributes:
        compute: computes the missing shards of a unit, and commits them.
        failures: features that can't be computed, with the reason; the others are.
    """

    compute: Callable[[Unit], None]
    failures: Mapping[FeatureT, Exception] = field(default_factory=dict)


Stores: TypeAlias = Mapping[tuple[FeatureT, SplitName], ShardWriter]
"""The store of each feature that a computation brings, for each split that it brings it for."""


class Computation(ABC, Generic[FeatureT]):
    """Base class of ways to compute features of the training set or queries; equal computations are shared.

    `FeatureT` is the kind of feature (attrbench.contracts.feature) that it computes.

    Attributes:
        split: whose items it goes over.
        order: computations of a smaller number come first.
        title: what a progress bar calls it.
    """

    split: SplitName
    order: int = 1

    @property
    def title(self) -> str:
        """Return the computation's short name for progress bars, such as `train features`."""
        return f"{self.split} features"

    @abstractmethod
    def summary(self, features: Sequence[FeatureT], scope: Scope) -> str:
        """Return one line for the printed plan of a run that says what is computed of which items."""

    @abstractmethod
    def identity(self, scope: Scope) -> object:
        """Return JSON-compatible data that tells this computation apart from others, for naming its locks."""

    @abstractmethod
    def units(self, scope: Scope) -> list[Unit]:
        """Return the item ranges to compute one at a time, from item counts alone, so that any worker can do any."""

    def items_of(self, unit: Unit, split: SplitName, scope: Scope) -> Unit:
        """Return the range of items of `split` whose stored rows a unit of work produces; by default the same range."""
        return unit

    def lacks(self, unit: Unit, stores: Stores[FeatureT], scope: Scope) -> bool:
        """Return whether any feature's shard for a unit of work is missing, so that the unit must be computed."""
        return any(store.lacks(self.items_of(unit, split, scope)) for (_, split), store in stores.items())

    @abstractmethod
    def prepare(self, stores: Stores[FeatureT], world: World) -> Prepared[FeatureT]:
        """Return a function that computes units of work, made ready in a process that has loaded the task.

        Args:
            stores: the stores of the features that are wanted.
            world: the open task and its surroundings.

        Raises:
            Unavailable, UsageError: where the model has not what the features ask of it.
        """
