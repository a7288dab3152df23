"""Attribute single images: rank the training items by influence on them, with the code and cache of runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.seeds import check_seed
from attrbench.contracts.task import Items, OpenTask
from attrbench.data.open_dataset import make_items
from attrbench.data.pixels import refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation.checks import check_methods, check_requests
from attrbench.evaluation.config import RunSettings, make_folder
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.execute import compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world, with_queries
from attrbench.evaluation.meaningless import check_weights, equal_line, lost_line, without_equal
from attrbench.evaluation.memory import keep_freed_memory
from attrbench.evaluation.plan import check_disk, make_plan
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.requests import MethodRequest, TaskRequest, request_executor
from attrbench.evaluation.world import TaskWorld
from attrbench.reports.contact_sheet import ContactSheet, Heading
from attrbench.reports.sheet_files import encoded
from attrbench.taskfile.drawn_items import drawn_items
from attrbench.taskfile.prompts import Draw

if TYPE_CHECKING:
    from attrbench.contracts.model_description import ModelDescription
    from attrbench.contracts.ranking import Ranking
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True)
class Question:
    """The images to attribute (files, or prompts and a seed to generate them), and how many training items to list.

    Attributes:
        images: their files, or PIL images; where there are none, the model draws one picture for each prompt.
        prompts: one for each image, or one for all of them.
        seed: of drawn pictures; None for images, or for 0.
        k: how many training items are wanted.
    """

    images: Sequence[Path | Image.Image] = ()
    prompts: Sequence[str] = ()
    seed: int | None = None
    k: int = 20


@dataclass(frozen=True, repr=False)
class Attribution:
    """The training items that a method ranks first for given images; a notebook shows them as a contact sheet.

    Attributes:
        task, method: labels of the two; `task_name` is the task's name without options.
        queries: the pictures, as the model saw them.
        train: the training set.
        ranking: [m, k] ids and scores, strongest first; ids of -1 for a query whose scores are all equal.
        nonfinite: (split, item, timestep) of every gradient that was NaN or infinite.
        summary: the method in one line.
    """

    task: str
    task_name: str
    method: str
    queries: Items
    train: Items
    ranking: Ranking
    nonfinite: Sequence[tuple[str, int, float]]
    summary: str = ""

    @property
    def warnings(self) -> list[str]:
        """Return why scores mean less than they seem to, a line each; empty where all is well."""
        lines = [lost_line(self.nonfinite)] if self.nonfinite else []
        equal = np.flatnonzero((self.ranking.ids < 0).all(axis=1)).tolist()
        return lines + ([equal_line(equal, len(self.queries))] if equal else [])

    def sheet(self) -> ContactSheet:
        """Return the pages of the contact sheet: each query with its top-ranked training images."""
        heading = Heading(f"Method {self.method}, task {self.task}", self.summary, self.warnings)
        return ContactSheet(self.queries, self.train, self.ranking, heading)

    def picture(self) -> Image.Image:
        """Return the contact sheet's first page as an image; `sheet()` has all of them."""
        return self.sheet()[0]

    def _repr_png_(self) -> bytes:
        return encoded(self.picture())

    def __repr__(self) -> str:
        m, k = self.ranking.ids.shape
        return f"<Attribution of {m} {'picture' if m == 1 else 'pictures'} on {self.task} by {self.method}: k = {k}>"


def attribute(
    registry: Registry,
    task: TaskRequest,
    request: MethodRequest,
    question: Question,
    settings: RunSettings,
    reporter: Reporter,
) -> Attribution:
    """Return the k training items that a method ranks as most influential on each given or generated image.

    Training features come from the cache, or go there; so a second picture costs its own gradients only.

    Raises:
        UsageError: for a question that the task's model can't be asked.
        AttrbenchError: for a picture that can't be read, and whatever ends a run.
    """
    torch_device(settings.device)
    (request,) = check_requests(task, [request], settings, reporter.note)
    check_question(question)
    make_folder(settings.cache, "--cache")
    reference = TaskReference.of(task, settings)
    world = reference.open()
    with reporter.stage("model and pictures", 1) as advance:
        check_methods([request], len(world.opened.train), settings, reporter.note)
        queries = _queries(question, world.opened, settings.cache)
        reference = replace(reference, queries=queries)
        world = TaskWorld(task.task.meta, with_queries(world.opened, queries), settings)
        use_world(reference, world)
        plan = make_plan(world, [request])
        advance()
    if adapter := world.opened.model_description.adapter_summary:
        reporter.note(adapter)
    check_disk(plan, world)
    if plan.stages:
        check_weights(world.opened.denoiser.module)
        keep_freed_memory(world.opened.denoiser.module)
    with closing(request_executor(registry, settings.executor)) as executor:
        progress = compute(plan, world, reference, executor, reporter)
    with reporter.stage("scoring", 1) as advance:
        reader = FeatureReader(world, progress.features(request.label))
        scorer = request.method.fit(reader.train(), world.context(request, reader.fingerprint, question.k))
        ranking = scorer.top(reader.query(), min(question.k, world.count("train")))
        ranking = without_equal(scorer, reader.query(), ranking, reader.nonfinite())
        advance()
    return Attribution(
        task=task.label,
        task_name=task.task.meta.name,
        method=request.label,
        queries=queries,
        train=world.opened.train,
        ranking=ranking,
        nonfinite=reader.nonfinite(),
        summary=request.method.summary,
    )


def check_question(question: Question) -> None:
    """Raise an error for images, prompts and seed that don't fit together, or an image file that does not exist.

    Raises:
        UsageError: one line that says which option is too much or missing.
    """
    if question.seed is not None:
        check_seed(question.seed, "--seed")
    images, prompts = len(question.images), len(question.prompts)
    if images and question.seed is not None:
        raise UsageError("--seed is of a picture that the model draws: leave out either --image or --seed")
    if not images and not prompts and question.seed is None:
        raise UsageError(
            "nothing to attribute: give --image FILE, or --prompt (or --seed alone, for a model without prompts)"
        )
    if images and prompts not in (0, 1, images):
        raise UsageError(f"{prompts} prompts for {images} images: give one for each image, or one for all")
    for image in question.images:
        if isinstance(image, Path) and not image.is_file():
            raise UsageError(f"--image {image}: there is no such file")


def _queries(question: Question, opened: OpenTask, cache: Path) -> Items:
    prompts = _prompts(question, opened.model_description)
    if question.images:
        height, width, channels = opened.train.images.shape[1:]
        images = np.stack([read_picture(image, (height, width, channels)) for image in question.images])
        names = [
            str(image) if isinstance(image, Path) else f"picture {number}"
            for number, image in enumerate(question.images)
        ]
        return make_items(images, prompts, [""] * len(images), names)
    return drawn_items(opened, [Draw(prompt, question.seed or 0) for prompt in prompts], cache)


def _prompts(question: Question, model: ModelDescription) -> Sequence[str]:
    """Return one prompt for each image to attribute; raise an error if the model takes none or needs one."""
    count = len(question.images) or max(1, len(question.prompts))
    if not model.takes_prompts:
        if question.prompts:
            raise UsageError("the model takes no prompts: leave out --prompt")
        return [""] * count
    if not question.prompts:
        raise UsageError("the model takes prompts: give the picture's --prompt (--prompt '' for none)")
    return list(question.prompts) * (count if len(question.prompts) == 1 else 1)


def read_picture(picture: Path | Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as [H, W, C] uint8, converted by the rules for training images (attrbench.data.pixels).

    Raises:
        AttrbenchError: where it can't be read.
    """
    try:
        if isinstance(picture, Image.Image):
            return to_pixels(picture, shape)
        with refusing_bombs(), Image.open(picture) as image:
            return to_pixels(image, shape)
    except Exception as error:  # Pillow's plugins raise anything over broken files
        raise AttrbenchError(f"--image {picture} cannot be read: {what_is_wrong(error)}") from None
