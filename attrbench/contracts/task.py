"""The contract of a task: a trained model, its training set, and queries that the model generated."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.options import Options
from attrbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from attrbench.contracts.denoiser import Denoiser

OptionsT = TypeVar("OptionsT", bound=Options)
RowKey = Literal["item", "image", "trajectory"]
"""What besides model and noise a row depends on: pixels and prompt, pixels alone, or pixels, prompt and seed."""


class TaskMeta(BaseModel):
    """The description of a task (model, data set, size, main metric, license), readable without loading the task.

    Attributes:
        name: the name by which `-t` selects it.
        version: raised whenever the training set, the weights or the queries change; never mixed on a leaderboard.
        summary: one line, which `attrbench list` shows.
        model: the model, with id and revision where it has one.
        dataset: the training set, with id and revision where it has one.
        license: of data and weights.
        train_items: size of the training set; None where only opening the task can tell.
        memory: peak memory of a run, in words.
        main_metric: the metric that ranks the leaderboard, such as `detection-rate@10`; without a cut-off (`@k`) where
            it is that of a ground truth.
        notes: what a reader of the numbers must know, such as how queries were labeled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    summary: str
    model: str
    dataset: str
    license: str
    train_items: int | None
    memory: str
    main_metric: str = "detection-rate@10"
    notes: str = ""


@dataclass(frozen=True)
class Items:
    """The images of a training set or of queries, with groups, prompts, seeds and names; an item's id is its index.

    Attributes:
        images: [n, H, W, C] uint8; may be memory-mapped and read-only, and larger than the memory.
        groups: the group of each item, which the detection rate compares; an empty string for an item without one.
        prompts: the prompt of each item, an empty string for unconditional models.
        fingerprint: hash of the contents.
        seeds: for pictures that `Denoiser.generate` made: the seed of each, from which its sampling trajectory can be
            run again; None for pictures from elsewhere.
        names: the name of each item for people, such as that of its file; empty where items have no names.
        grouping: hash of the groups, where `fingerprint` leaves them out, so that features outlive other groups.
        digests: `pixel_digest` of each image, where they are known already; empty where not.
    """

    images: NDArray[np.uint8]
    groups: Sequence[str]
    prompts: Sequence[str]
    fingerprint: str
    seeds: Sequence[int] | None = None
    names: Sequence[str] = ()
    grouping: str = ""
    digests: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each item, a hash of its pixels and prompt, by which its noise is drawn and its rows are stored.

        Equal for equal items of any task, split and place; items that are equal to an earlier one of the set are
        counted, so that no two of a set share a key.
        """
        return self._keys(self.prompts)

    @cached_property
    def image_keys(self) -> tuple[str, ...]:
        """Return the key of each item without its prompt, for rows and noise of models that are given none."""
        return self._keys([""] * len(self))

    def keys_of(self, row: RowKey) -> tuple[str, ...]:
        """Return the keys by which rows of a kind are stored."""
        if row == "trajectory":
            return self.trajectory_keys
        return self.keys if row == "item" else self.image_keys

    def _keys(self, prompts: Sequence[str]) -> tuple[str, ...]:
        shape = "x".join(map(str, self.images.shape[1:]))
        counts: Counter[str] = Counter()
        keys = []
        for digest, prompt in zip(self._digests, prompts, strict=True):
            content = f"{shape}/{digest}/{prompt}"
            keys.append(_key(f"{content}/{counts[content]}" if counts[content] else content))
            counts[content] += 1
        return tuple(keys)

    @cached_property
    def _digests(self) -> Sequence[str]:
        return self.digests or [pixel_digest(image) for image in self.images]

    @cached_property
    def trajectory_keys(self) -> tuple[str, ...]:
        """The key of each item with its seed, for rows along its sampling trajectory; equal to `keys` without seeds."""
        if self.seeds is None:
            return self.keys
        return tuple(_key(f"{key}/seed {seed}") for key, seed in zip(self.keys, self.seeds, strict=True))


def pixel_digest(image: NDArray[np.uint8]) -> str:
    """Return 128 bits of the sha256 of an image's pixels ([H, W, C] uint8), as hex digits."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:32]


def _key(content: str) -> str:
    """Return 96 bits of a hash, as hex digits."""
    return hashlib.sha256(content.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class ItemsOutline:
    """The number and content hash of a split's items, as far as a plan can know them before queries are generated.

    Attributes:
        count: how many items; of pictures that are still to be drawn, the most that there will be.
        fingerprint: `Items.fingerprint`; of pictures that are still to be drawn, a hash that no items have.
        keys_of: `Items.keys_of`; of pictures that are still to be drawn, gives keys that no items have.
        is_drawn: whether the items are there; False for pictures that the model has yet to draw.
    """

    count: int
    fingerprint: str
    keys_of: Callable[[RowKey], Sequence[str]]
    is_drawn: bool = True

    @classmethod
    def of(cls, items: Items) -> ItemsOutline:
        """Return the outline of items that are there."""
        return cls(len(items), items.fingerprint, items.keys_of)

    @classmethod
    def to_draw(cls, count: int) -> ItemsOutline:
        """Return the outline of pictures that are still to be drawn."""
        keys = [f"to be drawn {number}" for number in range(count)]
        return cls(count, "to be drawn", lambda row: keys, is_drawn=False)


@dataclass(frozen=True)
class Workspace:
    """The cache folder in which a task and a run may keep files, and the torch device on which they compute.

    Attributes:
        cache: folder for generated queries, feature shards and index files.
        device: where the network runs.
    """

    cache: Path
    device: torch.device


class OpenTask(ABC):
    """A task made ready for a run: training set, queries and model, each loaded on first use and then kept."""

    @property
    @abstractmethod
    def train(self) -> Items:
        """Return the training set: images with prompts and groups."""

    @property
    @abstractmethod
    def queries(self) -> Items:
        """Return the queries: images that the model generated with fixed seeds."""

    @property
    @abstractmethod
    def denoiser(self) -> Denoiser:
        """Return the trained diffusion model."""

    @property
    def model_description(self) -> ModelDescription:
        """Return the model's hash, shapes and parameters for a plan; override to avoid loading the model."""
        return ModelDescription(self.denoiser)

    @property
    def drawing_model(self) -> ModelDescription:
        """Return the description by which the pictures that the model draws are kept, whatever is differentiated."""
        return self.model_description

    @property
    def model_config(self) -> ModelConfig | None:
        """Return how the model is loaded, where it is a diffusers pipeline; override for the LoRA's fingerprint."""
        return None

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the number and hash of the queries for a plan; override so that a plan generates no images."""
        return ItemsOutline.of(self.queries)

    @property
    def notes(self) -> Sequence[str]:
        """Return notes for readers of the record, one string each, such as on images that were left out."""
        return ()


def without_paths(options: dict[str, object], folder: Path) -> dict[str, object]:
    """Return options with `LOCAL` for each text that has a separator of paths and is a file or folder that is there.

    Args:
        options: name -> value, as JSON has them, with dicts and lists in them.
        folder: what paths are relative to.
    """

    def shared(value: object) -> object:
        if isinstance(value, dict):
            return {name: shared(part) for name, part in value.items()}
        if isinstance(value, list):
            return [shared(part) for part in value]
        if not isinstance(value, str) or not any(sign in value for sign in ("/", os.sep)):
            return value
        try:
            return LOCAL if (folder / Path(value).expanduser()).exists() else value
        except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user, a NUL
            return value

    return {name: shared(value) for name, value in options.items()}


LOCAL = "(local)"
"""Stands for a local path among the options of a task that are compared across machines."""


class Task(ABC, Generic[OptionsT]):
    """Base class of tasks: a trained model, its training set and generated queries; nothing is loaded before `open`.

    Attributes:
        meta: its description; a class attribute of a registered task.
        tuning: options that give the task other queries, on which options of methods may be chosen (`attrbench tune`);
            empty where there are none.
    """

    meta: TaskMeta
    tuning: ClassVar[Mapping[str, str]] = {}
    Options: type[OptionsT]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def open(self, workspace: Workspace) -> OpenTask:
        """Check that the task's data and model are available, and return the task made ready for a run."""

    def state(self) -> object:
        """Return data that decides the task besides its version and options, such as hashes of the user's own files.

        Returns:
            Anything that JSON can hold; a record of another state is not taken for an answer.
        """
        return None

    def with_weights(self, weights: Path) -> Task[OptionsT]:
        """Return the same task with other weights of its model, such as a checkpoint of its training or another LoRA.

        Args:
            weights: a file or folder, as training scripts leave them.

        Raises:
            UsageError: where the task can't be had with others, or these are none of its model.
        """
        raise UsageError(f"task {self.meta.name} can't be asked with other weights than its own (--checkpoint)")

    def shared_options(self) -> dict[str, object]:
        """Return the options as they are on any machine: a marker stands for each path that is there on this one."""
        return without_paths(self.options.model_dump(mode="json"), Path())

    @property
    def scale(self) -> bool:
        """Return whether the task measures only time, memory and storage (random weights) and is never ranked."""
        return False


class Trainable(ABC):
    """Mixin of tasks whose model can be trained again: on all of the training set or a subset, with any seed.

    A task class lists it beside `Task` among its bases; `attrbench train` and ground truths build on it.
    """

    @abstractmethod
    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train the model on a subset of the training set into the folder `out`, and return the folder of the weights.

        The weights are a function of (subset, seed). A call with the same arguments resumes where an earlier one was
        cut off, and returns at once where it has finished.

        Args:
            subset: [k] sorted, distinct indices into the training set; None for all of it.
            seed: of initial weights, batch order and noise; None for the recipe's own.
            out: folder for the weights and, until training ends, for the state to resume from.
            device: where to train.
            report: called with a line of progress now and then.

        Raises:
            AttrbenchError: where `out` holds another training, or what the training needs is missing.
            UsageError: for a subset that is empty, unsorted or out of range.
        """

    @abstractmethod
    def trained(self, folder: Path, workspace: Workspace) -> Denoiser:
        """Return the diffusion model with the weights that an earlier call of `train` wrote.

        Args:
            folder: what `train` returned.
            workspace: the device, and the cache in which parts of the model may be put together.
        """

    def training_recipe(self) -> Mapping[str, object]:
        """Return what decides a training besides items and seed, as JSON can hold it; empty where unknown."""
        return {}
