"""Tasks `ddpm-mnist` and `ddpm-cifar10`: published DDPMs on MNIST and CIFAR-10, as in the DMin paper.

How the paper labels its generated queries is not published. Here a classifier does it, which is trained on the
training images when the task is first opened and stays in the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.options import Options
from attrbench.contracts.task import Items, ItemsOutline, OpenTask, Task, TaskMeta, Workspace
from attrbench.data.manifest import Listing
from attrbench.data.open_dataset import items_of, list_items, make_items
from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.models.loading import describe_model, find_pipeline, load_denoiser
from attrbench.models.model_fingerprint import models_state
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint, local_state
from attrbench_tasks.datasets.labeled_arrays import list_arrays
from attrbench_tasks.dmin_paper import constants as paper
from attrbench_tasks.minis.query_pictures import Wanted, labeled_pictures
from attrbench_tasks.training.classifier import ClassifierRecipe, Labeled, accuracy_of, train_classifier

log = logging.getLogger("attrbench.queries")

HELD_OUT = 10
"""One in so many training images tests the classifier, which is trained on the others."""
LABELS = (
    "The paper does not say how queries are labeled. Here a classifier does it: a small CNN, trained on nine tenths of"
    " the training images and tested on the rest (its accuracy is in the record's notes); pictures that it gives less"
    " than 0.9 to are left out."
)


class PaperDDPMOptions(Options):
    """Options of the tasks `ddpm-mnist` and `ddpm-cifar10`; a local path can stand for every hub id."""

    needs: ClassVar = {"group_column": "dataset"}
    model: str | None = None
    """Pipeline: id on the hub, or a folder as `DDPMPipeline.save_pretrained` writes it."""
    revision: str | None = None
    """Branch, tag or commit of the model."""
    dataset: str | None = None
    """Training images: id on the hub; a folder of images with groups; or an .npz file with `x_train`, `y_train`."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the data set."""
    group_column: str | None = None
    """The column of classes; of the paper's data sets `label`, else `group`."""
    queries_per_group: int = Field(10, ge=1, le=500)
    """Generated queries for each class."""
    query_set: Literal["reported", "tuning"] = "reported"
    """`tuning`: queries of other seeds, for choosing options; nothing may be chosen on the reported ones."""
    sampling_steps: int = Field(50, ge=1, le=1000)
    """DDIM steps of the queries."""
    gradient_checkpointing: bool = False
    """Activations are computed twice instead of kept."""


class PaperDDPMTask(Task[PaperDDPMOptions]):
    """Base of tasks with a published DDPM, its training set, and generated queries that a classifier labels."""

    Options: ClassVar[type[PaperDDPMOptions]] = PaperDDPMOptions  # type: ignore[misc]
    tuning: ClassVar = {"query_set": "tuning"}
    base: ClassVar[str]
    images: ClassVar[DatasetSource]
    epochs: ClassVar[int]
    """Epochs of the classifier's training."""

    @property
    def train_source(self) -> DatasetSource:
        """Return where the training images come from: the task's own hub data set, or the one in the options."""
        options = self.options
        if options.dataset is None:
            return self.images.model_copy(update={"revision": options.dataset_revision})
        return DatasetSource(path=options.dataset, revision=options.dataset_revision, group_column=options.group_column)

    @property
    def model(self) -> ModelConfig:
        """Return the configuration to load the published DDPM with: its id, revision and sampling steps."""
        options = self.options
        return ModelConfig(
            model=options.model or self.base,
            revision=options.revision,
            sampling_steps=options.sampling_steps,
            gradient_checkpointing=options.gradient_checkpointing,
        )

    def state(self) -> object:
        """Return names, sizes and times of local data files and contents of the model's, to detect changes."""
        return [*local_state((self.options.dataset,)), *models_state((self.options.model,))]

    def open(self, workspace: Workspace) -> OpenPaperDDPM:
        """Return the loaded task, after checking that the model and a data set with classes can be found."""
        source = self.train_source
        try:
            find_pipeline(self.model)
            arrays = source.path.endswith(".npz")
            train = list_arrays(Path(source.path).expanduser()) if arrays else list_items(source, workspace.cache)
        except AttrbenchError as error:
            raise AttrbenchError(f"task {self.meta.name}: {error}") from None
        if train.groups is None:
            raise AttrbenchError(
                f"task {self.meta.name}: {train.where} has no groups, and queries are labeled by them: name their"
                " column with group_column, or sort the images into a folder a class"
            )
        return OpenPaperDDPM(self, workspace, train)

    def classifier(self, size: int, channels: int, classes: int) -> ClassifierRecipe:
        """Return the training recipe of the CNN that labels the queries, for square images of `size` pixels."""
        return ClassifierRecipe(
            size=size,
            epochs=self.epochs,
            shift=2,
            channels=channels,
            classes=classes,
            widths=(16, 32) if channels == 1 else (64, 128),
            edge="black" if channels == 1 else "copy",
        )


class OpenPaperDDPM(OpenTask):
    """A loaded DDPM task of the DMin paper; training set, queries and model are loaded on first use."""

    def __init__(self, task: PaperDDPMTask, workspace: Workspace, train: Listing) -> None:
        self._task = task
        self._workspace = workspace
        self._listing = train
        self._notes: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        """Return the accuracy of the classifier that labels the queries, as text; empty before queries exist."""
        return self._notes

    @cached_property
    def denoiser(self) -> DDPMDenoiser:
        """Return the published DDPM, loaded to the run's device on first use."""
        return self._ddpm(load_denoiser(self._task.model, self._workspace.device))

    @cached_property
    def model_description(self) -> ModelDescription:
        """Return the published DDPM's shapes and hash for planning; its weights file is hashed, but not loaded."""
        return ModelDescription(self._ddpm(describe_model(self._task.model).outline))

    def _ddpm(self, denoiser: Denoiser) -> DDPMDenoiser:
        if not isinstance(denoiser, DDPMDenoiser):
            raise AttrbenchError(f"task {self._task.meta.name}: model {self._task.model.model} is no DDPM")
        return denoiser

    @cached_property
    def train(self) -> Items:
        """Return the training images at the model's size; each item's group is its class."""
        shape = self.model_description.image_shape
        return items_of(self._listing, self._task.train_source, shape, self._workspace.cache).items

    @cached_property
    def queries(self) -> Items:
        """Return the queries: images that the DDPM generates, labeled by a classifier; ambiguous ones are left out.

        See `query_pictures`.
        """
        kept = labeled_pictures(self, self._trained_classifier(), self._wanted).arrays()
        groups = [self._classes[label] for label in kept["labels"].tolist()]
        seeds = kept["seeds"].tolist()
        names = [f"seed {seed}" for seed in seeds]
        return make_items(kept["images"], [""] * len(groups), groups, names, seeds=seeds)

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the queries' number and hash for planning, without training a classifier or generating images."""
        classifier = self._classifier.found()
        if classifier is None:
            return ItemsOutline.to_draw(self._wanted.per_group * len(self._classes))
        return labeled_pictures(self, classifier.path, self._wanted).outline(lambda: self.queries)

    @property
    def _wanted(self) -> Wanted:
        options = self._task.options
        return Wanted(options.queries_per_group, options.query_set, self._workspace.cache)

    @cached_property
    def _classes(self) -> list[str]:
        """Return the sorted class names of the training set; the classifier's label is an index into them."""
        return sorted(set(self.train.groups))

    @property
    def _recipe(self) -> ClassifierRecipe:
        _, size, channels = self.train.images.shape[1:]
        return self._task.classifier(size, channels, len(self._classes))

    @property
    def _classifier(self) -> Artifact:
        """Return the cache entry of the classifier that labels the queries, which may not be trained yet."""
        train = self.train
        contents = [train.fingerprint, train.grouping, self._recipe.model_dump(mode="json"), HELD_OUT]
        path = self._workspace.cache / "classifiers" / fingerprint(contents)[:20]
        return Artifact(path, "classifier", f"{len(self._classes)} classes, trained on {len(train):,} images")

    def _trained_classifier(self) -> Path:
        """Return the cached classifier's folder, after training it if missing, and note its accuracy."""

        def build(part: Path) -> None:
            log.info("training the classifier of the queries on %d images", len(self.train))
            train_classifier(self._recipe, *self._labeled(), part, self._workspace.device)

        folder = self._classifier.kept(build, lambda folder, _: folder).value
        accuracy, tested = accuracy_of(folder)
        self._notes.append(
            f"queries are labeled by a classifier that is right on {accuracy:.1%} of {tested} training images that it"
            " was not trained on; the paper does not say how it labels them"
        )
        return folder

    def _labeled(self) -> tuple[Labeled, Labeled]:
        """Return images and class numbers to train the classifier on, and every tenth item to test it on."""
        numbers = {group: number for number, group in enumerate(self._classes)}
        labels = np.array([numbers[group] for group in self.train.groups], np.int64)
        tested = np.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
        images = self.train.images
        return (images[~tested], labels[~tested]), (images[tested], labels[tested])


class DDPMMnist(PaperDDPMTask):
    """Task `ddpm-mnist`: the DMin paper's published DDPM on the 60,000 MNIST training images."""

    base = paper.DDPM_MNIST
    images = DatasetSource(path=paper.MNIST, split="train", image_column="image", group_column="label")
    epochs = 3
    meta = TaskMeta(
        name="ddpm-mnist",
        version=1,
        summary="DMin's DDPM on the 60,000 training images of MNIST",
        model=paper.DDPM_MNIST,
        dataset=f"{paper.MNIST}, split train",
        license="images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0); weights: see the model's page",
        train_items=None,
        memory="not measured",
        notes=LABELS,
    )


class DDPMCifar10(PaperDDPMTask):
    """Task `ddpm-cifar10`: the DMin paper's published DDPM on the 50,000 CIFAR-10 training images."""

    base = paper.DDPM_CIFAR10
    images = DatasetSource(path=paper.CIFAR10, split="train", image_column="img", group_column="label")
    epochs = 8
    meta = TaskMeta(
        name="ddpm-cifar10",
        version=1,
        summary="DMin's DDPM on the 50,000 training images of CIFAR-10",
        model=paper.DDPM_CIFAR10,
        dataset=f"{paper.CIFAR10}, split train",
        license="images: CIFAR-10 (Krizhevsky 2009; no license given); weights: Apache-2.0",
        train_items=None,
        memory="not measured",
        notes=LABELS,
    )
