"""Tasks `sd14-lora`, `sd3-lora` and `sd3-full`: Stable Diffusion 1.4 and 3 Medium on the DMin paper's mixture.

A task is put together from its options and then opened as a task file would be (attrbench.taskfile).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Task, TaskMeta, Trainable, Workspace
from attrbench.data.hf_datasets import is_table_folder
from attrbench.data.manifest import Listing
from attrbench.data.open_dataset import list_items, need_captions
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import family_of, find_pipeline, load_denoiser, own_resolution
from attrbench.store.fingerprint import local_state
from attrbench.taskfile.contents import QueryTable
from attrbench.taskfile.file_task import OpenFileTask
from attrbench.taskfile.prompts import Draw, draws_of
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.dmin_paper.open_tasks import OpenPaperTask, OpenScaleTask, scale_draws, scale_listing
from attrbench_tasks.dmin_paper.task_options import FullPaperOptions, PaperOptions
from attrbench_tasks.dmin_paper.train_lora import PaperBase, train_paper_task
from attrbench_tasks.training.train_text_to_image import Family

FIRST_SEED = {"reported": 0, "tuning": 1_000_000}
STAND_INS = 10
"""Training captions drawn of each group, where no prompts are held out."""
HELD_OUT = "test"
ACCESS = f"accept the license at https://huggingface.co/{paper.SD3}, log in with `hf auth login`"
"""How to get Stable Diffusion 3, which is gated."""
LICENSE = "the model's and the data sets' own (docs/reference/tasks.md)"
SET = f"{paper.RELEASED_SET}: 8,846 captioned images of six sources"


class PaperTask(Task[PaperOptions], Trainable):
    """A task around a Stable Diffusion model that was fine-tuned on the mixture, wholly or with LoRA."""

    Options: ClassVar[type[PaperOptions]] = PaperOptions  # type: ignore[misc]
    tuning: ClassVar = {"query_set": "tuning"}
    base: ClassVar[str]
    """Id of the pipeline that was trained further."""
    has_lora: ClassVar[bool]
    released_lora: ClassVar[str | None] = None
    sampling: ClassVar[tuple[int, float]]
    """Sampling steps and guidance scale of the queries: diffusers' defaults, since the paper names none."""

    @property
    def scale(self) -> bool:
        """Return whether weights are random."""
        return self.options.weights == "random"

    @property
    def path(self) -> Path:
        """Return the name of the task, which messages show in place of a file's path."""
        return Path(self.meta.name)

    @property
    def query_source(self) -> DatasetSource | None:
        """Return None: queries are drawn, not read from files."""
        return None

    @property
    def train_source(self) -> DatasetSource:
        """Return the source of the training images; of a folder with a subfolder `train` only those in it."""
        return self._split("train" if (self._folder / "train").is_dir() else None)

    @property
    def _folder(self) -> Path:
        """Return the path of the data set, if it is a folder."""
        return Path(self.options.dataset).expanduser()

    def _split(self, split: str | None) -> DatasetSource:
        options = self.options
        return DatasetSource(
            path=options.dataset,
            revision=options.dataset_revision,
            split=split,
            caption_column=options.caption_column,
            group_column=options.group_column,
        )

    @property
    def model(self) -> ModelConfig:
        """Return the configuration of the model and its LoRA."""
        options = self.options
        steps, guidance = self.sampling
        lora = (options.lora or self.released_lora) if self.has_lora else None
        source = ModelConfig(
            model=options.model or self.base,
            revision=options.revision,
            lora="random" if self.scale and self.has_lora else lora,
            lora_revision=options.lora_revision,
            attributed=options.attributed,
            vae=options.vae,
            dtype=options.dtype,
            offload=options.offload,
            gradient_checkpointing=(
                self.scale if options.gradient_checkpointing is None else options.gradient_checkpointing
            ),
            sampling_steps=options.sampling_steps or steps,
            guidance_scale=guidance if options.guidance_scale is None else options.guidance_scale,
            weights=options.weights,
        )
        return source.model_copy(update={"resolution": options.resolution or self._resolution(source)})

    def _resolution(self, source: ModelConfig) -> int:
        if source.model == self.base:
            return paper.RESOLUTION
        folder, index = find_pipeline(source)
        if not family_of(index, source.model).takes_prompts:
            raise AttrbenchError(f"model {source.model} is a {index.get('_class_name')}, which takes no prompts")
        return min(paper.RESOLUTION, own_resolution(folder, index))

    def state(self) -> object:
        """Return names, sizes and times of the local files that the task is made of."""
        options = self.options
        return local_state((options.model, options.lora, options.dataset, options.prompts))

    def open(self, workspace: Workspace) -> OpenFileTask:
        """Return the open task, after checking that model and data set are within reach."""
        if self.scale:
            train, draws = scale_listing(self.options.scale_items), scale_draws()
            return OpenScaleTask(self, workspace, train=train, pictures=None, draws=draws)
        self._check_released()
        self.find_model()
        train = list_items(self.train_source, workspace.cache)
        draws, note = self._draws(train, workspace.cache)
        opened = OpenPaperTask(self, workspace, train=train, pictures=None, draws=draws)
        opened.said = [] if note is None else [note]
        return opened

    def _check_released(self) -> None:
        """Refuse a base model without the fine-tuned weights, which the paper's authors did not release.

        Raises:
            AttrbenchError: with the steps that lead to them.
        """
        name, options = self.meta.name, self.options
        given, option = (options.lora or self.released_lora, "lora") if self.has_lora else (options.model, "model")
        if given is not None:
            return
        raise AttrbenchError(
            f"task {name}: the paper's {'LoRA is' if self.has_lora else 'fine-tuned weights are'} not published:"
            f" {f'{ACCESS}, ' if self.base == paper.SD3 else ''}run `attrbench train {name} --out FOLDER` and then"
            f" `-t {name}:{option}=FOLDER`; any other {'LoRA' if self.has_lora else 'pipeline'} can be named likewise,"
            f" and `-t {name}:weights=random` measures time and memory without weights"
        )

    def find_model(self) -> None:
        """Check that the pipeline is within reach.

        Raises:
            AttrbenchError: where it is missing, with the steps that lead to it.
        """
        try:
            find_pipeline(self.model)
        except AttrbenchError as error:
            gated = self.options.model in (None, paper.SD3) and self.base == paper.SD3
            steps = f"; or, where the hub is in reach: {ACCESS}" if gated and "license" not in str(error) else ""
            raise AttrbenchError(f"task {self.meta.name}: {error}{steps}") from None

    def _draws(self, train: Listing, cache: Path) -> tuple[list[Draw], str | None]:
        """Return the prompts, seeds and groups of the queries, and a note where the prompts are not held out."""
        options, note = self.options, None
        if options.prompts is not None:
            pairs = [(d.prompt, d.group) for d in draws_of(QueryTable(prompts=options.prompts), Path())]
        else:
            need_captions(train)
            seen = set(train.captions or ())
            pairs = [pair for pair in _pairs(self._held_out(cache)) if pair[0] not in seen]
            if not pairs:
                note = (
                    f"{train.where} has no split '{HELD_OUT}' with captions of its own: queries are drawn for captions"
                    " of the training set, not for held-out prompts; name a CSV of those with prompts=FILE"
                )
                pairs = _pairs(train)
        per_group = options.queries_per_group or (None if note is None else STAND_INS)
        return choose_draws(pairs, per_group, FIRST_SEED[options.query_set]), note

    def _held_out(self, cache: Path) -> Listing | None:
        """Return the data set's split `test`, or None where it has none."""
        folder = self._folder
        if folder.is_dir() and not is_table_folder(folder):  # what is wrong with a split that is there must be said
            return list_items(self._split(HELD_OUT), cache) if (folder / HELD_OUT).is_dir() else None
        try:
            return list_items(self._split(HELD_OUT), cache)
        except AttrbenchError:
            return None

    def train(
        self,
        subset: NDArray[np.int64] | None,
        seed: int | None,
        out: Path,
        device: torch.device,
        report: Callable[[str], None],
    ) -> Path:
        """Train by the recipe of the paper's Table 7 (docs/reference/tasks.md); see `Trainable.train`."""
        if self.scale:
            raise UsageError(f"task {self.meta.name}: weights=random has nothing to train")
        self.find_model()
        return train_paper_task(self.training_base(), self.options, subset, seed, out, device, report)

    def training_base(self) -> PaperBase:
        """Return the base model, in float32 and without LoRA, with the training set."""
        model = self.model.model_copy(update={"lora": None, "attributed": "all", "dtype": "float32"})
        family: Family = "sd14" if self.base == paper.SD14 else "sd3"
        return PaperBase(self.path, model, family, self.has_lora, self.train_source)

    def trained(self, folder: Path, workspace: Workspace) -> Denoiser:
        """Return the base with the LoRA that `train` wrote, or the pipeline that it wrote."""
        weights = {"lora": str(folder), "lora_revision": None} if self.has_lora else {"model": str(folder)}
        return load_denoiser(self.model.model_copy(update=weights), workspace.device)


def _pairs(listing: Listing | None) -> list[tuple[str, str]]:
    """Return caption and group of each item; nothing where there are no captions."""
    if listing is None or listing.captions is None:
        return []
    return list(zip(listing.captions, listing.groups or [""] * len(listing), strict=True))


def choose_draws(pairs: Sequence[tuple[str, str]], per_group: int | None, first_seed: int) -> list[Draw]:
    """Return the queries for (prompt, group) pairs of the paper's three groups, or of all where none of them is there.

    Prompts occur once a group. Where `per_group` leaves some out, a hash of the prompt chooses, whatever their order.
    A prompt's seed is its place.
    """
    queried = [pair for pair in pairs if pair[1] in paper.QUERIED] or list(pairs)
    chosen: list[tuple[str, str]] = []
    for group in sorted({group for _, group in queried}):
        prompts = list(dict.fromkeys(prompt for prompt, of in queried if of == group))
        if per_group is not None:
            prompts = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())[:per_group]
        chosen += [(prompt, group) for prompt in prompts]
    return [Draw(prompt, first_seed + place, group) for place, (prompt, group) in enumerate(chosen)]


class SD14LoRA(PaperTask):
    """Task of the DMin paper: Stable Diffusion 1.4 with LoRA."""

    base = paper.SD14
    has_lora = True
    sampling = (50, 7.5)
    meta = TaskMeta(
        name="sd14-lora",
        version=1,
        summary="DMin's SD 1.4 with LoRA on the six-source mixture; train the LoRA first (it is not published)",
        model=f"{paper.SD14} with LoRA of rank 4",
        dataset=SET,
        license=LICENSE,
        train_items=None,
        memory="not measured; in float32 the UNet alone has 3.4 GB of weights",
    )


class SD3LoRA(PaperTask):
    """Task of the DMin paper: Stable Diffusion 3 Medium with LoRA."""

    base = paper.SD3
    has_lora = True
    released_lora = paper.SD3_LORA
    sampling = (28, 7.0)
    meta = TaskMeta(
        name="sd3-lora",
        version=1,
        summary="DMin's SD 3 Medium with the released LoRA on the released 8,846 images; the model is gated",
        model=f"{paper.SD3} with {paper.SD3_LORA}",
        dataset=SET,
        license=LICENSE,
        train_items=None,
        memory="not measured; in float32 the transformer alone has 8.1 GB of weights, T5 19 GB",
    )


class SD3Full(PaperTask):
    """Task of the DMin paper: Stable Diffusion 3 Medium with a fully fine-tuned transformer."""

    Options: ClassVar[type[PaperOptions]] = FullPaperOptions  # type: ignore[misc]
    base = paper.SD3
    has_lora = False
    sampling = (28, 7.0)
    meta = TaskMeta(
        name="sd3-full",
        version=1,
        summary="DMin's SD 3 Medium, fully fine-tuned on the mixture; train it first (it is not published)",
        model=f"{paper.SD3}, fine-tuned",
        dataset=SET,
        license=LICENSE,
        train_items=None,
        memory="not measured; in float32 the transformer alone has 8.1 GB of weights, T5 19 GB",
    )
