"""The task that a task file describes: a user's own model, training set and queries."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, TaskMeta, Workspace, without_paths
from attrbench.data.manifest import Listing
from attrbench.data.open_dataset import items_of, list_items, make_items, need_captions
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.model_fingerprint import models_state
from attrbench.models.peft_folder import peft_config
from attrbench.store.fingerprint import local_state
from attrbench.taskfile.contents import TaskFile
from attrbench.taskfile.drawn_items import drawn_items, generations
from attrbench.taskfile.paths import beside_data, beside_model
from attrbench.taskfile.prompts import Draw, common_query, draws_of, prompt_file

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser
    from attrbench.contracts.model_description import ModelDescription

log = logging.getLogger("attrbench.taskfile")


class Described(Protocol):
    """The interface of a task that `OpenFileTask` can load: its path, model, training set and query images."""

    @property
    def path(self) -> Path:
        """Return the path that error messages call the task by: its task file, or a shipped task's name as a path."""

    @property
    def model(self) -> ModelConfig:
        """Return the options that say which diffusion model to load and how."""

    @property
    def train_source(self) -> DatasetSource:
        """Return the data set (path, columns, limit) of the training images."""

    @property
    def query_source(self) -> DatasetSource | None:
        """Return the data set of images that are queries; None if all queries are generated."""


class FileTask(Task[TaskFile]):
    """A task with a user's own model, training set and queries, described by a TOML task file.

    Args:
        options: contents of the file.
        path: path of the file.
    """

    Options = TaskFile
    tuning: ClassVar = {"query_set": "tuning"}

    def __init__(self, options: TaskFile, path: Path) -> None:
        super().__init__(options)
        self.path = path
        self.folder = path.parent
        self.meta = TaskMeta(
            name=options.task.name,
            version=options.task.version,
            summary=options.task.summary,
            model=options.model.model,
            dataset=options.train.path,
            license="not stated",
            train_items=None,
            memory="as the model needs",
        )
        self.model = beside_model(self.folder, options.model)
        self.train_source = beside_data(self.folder, options.train)
        queries = options.queries
        pictures = None if queries is None else queries.images
        self.query_source = None if pictures is None else beside_data(self.folder, pictures)

    def state(self) -> object:
        """Return names, sizes and times of local data files and contents of the model's, to detect changes."""
        sources = (self.train_source, self.query_source)
        paths = [source.path for source in sources if source is not None]
        prompts = prompt_file(self.options.queries, self.folder)
        lora = self.model.lora
        return [*local_state((*paths, prompts)), *models_state((self.model.model, lora, peft_config(lora)))]

    def shared_options(self) -> dict[str, object]:
        """Return the contents of the file with a marker for the paths of local data, weights and prompts."""
        queries, prompts = self.options.queries, prompt_file(self.options.queries, self.folder)
        if queries is not None:
            given = queries.prompts if prompts is None else str(prompts)
            queries = queries.model_copy(update={"images": self.query_source, "prompts": given})
        update = {"model": self.model, "train": self.train_source, "queries": queries}
        return without_paths(self.options.model_copy(update=update).model_dump(mode="json"), self.folder)

    def with_tuning_queries(self) -> FileTask:
        """Return the same task with the queries of `[tuning]`, on which options are chosen.

        Raises:
            UsageError: where one of the tables is missing, or a query is in `[tuning]` and in `[queries]`.
        """
        queries, tuning = self.options.queries, self.options.tuning
        if tuning is None:
            raise UsageError(f"{self.path} has no table [tuning]; give it one, like [queries] but with other pictures")
        if queries is None:
            raise UsageError(
                f"{self.path} has no table [queries], on which to report what is chosen on those of [tuning]"
            )
        if common := common_query(queries, tuning, self.folder):
            raise UsageError(f"{self.path}: {common} is in [tuning] and in [queries]; options are chosen on others")
        return FileTask(self.options.model_copy(update={"queries": tuning, "tuning": None}), self.path)

    def with_weights(self, weights: Path) -> FileTask:
        """Return the same task with a checkpoint, another LoRA or another pipeline in place of the file's own.

        See `attrbench.models.other_weights`.
        """
        from attrbench.models.other_weights import with_weights  # torch and diffusers, as in `OpenFileTask`

        other = copy.copy(self)
        other.model = with_weights(self.model, weights)
        return other

    def open(self, workspace: Workspace) -> OpenFileTask:
        """Return the task ready to load: metadata, prompts and file names are read, the model is not."""
        queries = self.options.queries
        return OpenFileTask(
            self,
            workspace,
            train=list_items(self.train_source, workspace.cache),
            pictures=None if self.query_source is None else list_items(self.query_source, workspace.cache),
            draws=draws_of(queries, self.folder) if queries is not None and queries.draws else [],
        )


class OpenFileTask(OpenTask):
    """The loaded task of a task file: model, training set and queries, each loaded on first use."""

    def __init__(
        self, task: Described, workspace: Workspace, *, train: Listing, pictures: Listing | None, draws: Sequence[Draw]
    ) -> None:
        self._task = task
        self._workspace = workspace
        self._train = train
        self._pictures = pictures
        self._draws = draws
        self._notes: list[str] = []

    @property
    def model_config(self) -> ModelConfig:
        """Return how the model is loaded."""
        return self._task.model

    @property
    def notes(self) -> Sequence[str]:
        """Return warnings for the record: images that were left out, and prompts that were truncated."""
        return self._notes

    @cached_property
    def denoiser(self) -> Denoiser:
        """Return the task's diffusion model, loaded on the device on first use."""
        from attrbench.models.loading import load_denoiser  # torch and diffusers, which listing a task must not bring

        return load_denoiser(self._task.model, self._workspace.device)

    @cached_property
    def model_description(self) -> ModelDescription:
        """Return the model's shapes, parameters and fingerprint for planning; weights are hashed, but not loaded."""
        return _describe(self._task.model)

    @cached_property
    def drawing_model(self) -> ModelDescription:
        """Return the description by which pictures that the model draws are kept, whatever is differentiated."""
        model = self._task.model
        return self.model_description if model == model.drawing else _describe(model.drawing)

    @cached_property
    def train(self) -> Items:
        """Return the training images decoded at the model's size, with captions and groups."""
        return self._items(self._train, self._task.train_source)

    @cached_property
    def queries(self) -> Items:
        """Return the query items: images that the model generates, followed by those of the data set."""
        parts = [items for items in (self._drawn, self._given) if items is not None]
        if not parts:
            raise AttrbenchError(f"{self._task.path} has no table [queries], so there is nothing to run on")
        return parts[0] if len(parts) == 1 else _joined(*parts)

    @cached_property
    def query_outline(self) -> ItemsOutline:
        """Return the queries' metadata for planning; of images not generated yet, only the number."""
        if not self._draws or generations(self, self._draws, self._workspace.cache).are_kept:
            return ItemsOutline.of(self.queries)
        self._check_prompts()
        return ItemsOutline.to_draw(len(self._draws) + (0 if self._given is None else len(self._given)))

    @cached_property
    def _given(self) -> Items | None:
        """Return the query items that are images of a data set; None if there is no such data set."""
        source = self._task.query_source
        return None if self._pictures is None or source is None else self._items(self._pictures, source)

    def _items(self, listing: Listing, source: DatasetSource) -> Items:
        if self.model_description.takes_prompts:
            need_captions(listing)
        loaded = items_of(listing, source, self.model_description.image_shape, self._workspace.cache)
        self._notes += [] if loaded.left_out is None else [loaded.left_out]
        self._note_truncated(loaded.items, listing.where)
        return loaded.items

    @cached_property
    def _drawn(self) -> Items | None:
        """Return the query items that the model generates from prompts and seeds; None if there are none."""
        if not self._draws:
            return None
        self._check_prompts()
        items = drawn_items(self, self._draws, self._workspace.cache)
        self._note_truncated(items, f"the prompts of {self._task.path}")
        return items

    def _check_prompts(self) -> None:
        prompts = [draw.prompt for draw in self._draws]
        if self.model_description.takes_prompts and not any(prompts):
            raise AttrbenchError(f"{self._task.path}: [queries] lacks prompts, and the model takes them")
        if not self.model_description.takes_prompts and any(prompts):
            raise AttrbenchError(
                f"{self._task.path}: [queries] gives prompts, and the model takes none: give seeds alone"
            )

    def _note_truncated(self, items: Items, where: str) -> None:
        truncated = self.model_description.truncated(items.prompts)
        if truncated:
            line = (
                f"{len(truncated)} of {len(items)} prompts of {where} are longer than the text encoder takes and are"
                f" cut there, as in training; the first is that of {items.names[truncated[0]]}"
            )
            log.warning(line)
            self._notes.append(line)


def _describe(config: ModelConfig) -> ModelDescription:
    from attrbench.models.loading import describe_model  # torch and diffusers, as above

    return describe_model(config)


def _joined(drawn: Items, pictures: Items) -> Items:
    """Return generated and given query images as one set, without seeds, hence without sampler trajectories."""
    return make_items(
        np.concatenate([drawn.images, pictures.images]),
        [*drawn.prompts, *pictures.prompts],
        [*drawn.groups, *pictures.groups],
        [*drawn.names, *pictures.names],
    )
