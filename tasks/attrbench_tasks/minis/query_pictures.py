"""Generation of a task's queries: images that its model draws with fixed seeds, once, and keeps in a file.

The minis ship theirs beside their weights, so that all machines have the same queries; others lie in the cache.

Unconditional models: seeds are tried in order, 0, 1, 2, ... (from 1,000,000 for the tuning set). A picture whose most
probable class, by a classifier, has a probability under 0.9 is ambiguous and left out. Of each class the first
`per_group` others are taken.

Text-to-image models: of each group, the prompts in order (for the tuning set from the last), once more when they are
used up, each with a seed of its own; the label is the prompt's group, and no picture is left out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Items, ItemsOutline, OpenTask
from attrbench.errors import AttrbenchError
from attrbench.store.artifacts import Artifact, write_arrays
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.training.classifier import FILE, load_classifier, probabilities, recipe_of

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger("attrbench.queries")

QuerySet = Literal["reported", "tuning"]
CONFIDENCE = 0.9
BATCH = 50
MAX_BATCHES_PER_GROUP_MEMBER = 4  # give up on a class that needs more than 200 pictures for each one wanted
SHIPPED = "queries"
"""Folder beside a task's weights of the query pictures that ship with it."""
FIRST_SEED = {"reported": 0, "tuning": 1_000_000}


@dataclass(frozen=True)
class KeptPictures:
    """Query images that a model generates once and then reads from a file that ships with the task, or is cached.

    Attributes:
        artifact: the file in the cache; its name holds a hash of all that decides the pictures.
        most: how many pictures there will be, at most.
        draw: draws them.
        folder: where files of the same names may ship with the task; None where none do.
    """

    artifact: Artifact
    most: int
    draw: Callable[[], Arrays]
    folder: Path | None = None

    def arrays(self) -> Arrays:
        """Return the query images ([m, H, W, C] uint8) and labels or seeds by name; generate them if not kept."""
        shipped = self._shipped
        return self.artifact.arrays(self.draw).value if shipped is None else load_file(shipped.path)

    def ship(self) -> Path:
        """Write the query images to the folder of those that ship with the task, and return the file's path.

        Raises:
            AttrbenchError: where it can't be written.
        """
        place, arrays = self._place, self.arrays()
        if place is None:
            raise AttrbenchError(f"{self.artifact.summary}: no folder of shipped pictures")
        place.write(lambda part: write_arrays(part, arrays))
        return place.path

    @property
    def _place(self) -> Artifact | None:
        """Return where these pictures ship with the task, whether they are there or not; None for those that don't."""
        return None if self.folder is None else replace(self.artifact, path=self.folder / self.artifact.path.name)

    @property
    def _shipped(self) -> Artifact | None:
        """Return the file of these pictures that ships with the task; None where there is none, or it is damaged."""
        place = self._place
        if place is None or place.whole() is not None:
            return place
        place.report_damage("drawing the pictures again")
        return None

    def outline(self, items: Callable[[], Items]) -> ItemsOutline:
        """Return the queries' number and hash for planning, without generating images that are not cached.

        Args:
            items: returns the queries; called where their pictures are in the cache.
        """
        is_kept = self._shipped is not None or self.artifact.found() is not None
        return ItemsOutline.of(items()) if is_kept else ItemsOutline.to_draw(self.most)


@dataclass(frozen=True)
class Wanted:
    """Request for generated queries: how many per group, the reported or the tuning ones, and the cache folder.

    Attributes:
        per_group: pictures of each group.
        query_set: which seeds, and which prompts come first.
        cache: folder to keep them in.
        shipped: folder of the pictures that ship with the task; None where none do.
    """

    per_group: int
    query_set: QuerySet
    cache: Path
    shipped: Path | None = None


@dataclass(frozen=True)
class Prompted:
    """Prompt, seed and group of each image that a text-to-image model is to generate as a query.

    Attributes:
        groups, prompts, seeds: [m] of each picture.
    """

    groups: Sequence[str]
    prompts: Sequence[str]
    seeds: Sequence[int]

    @classmethod
    def of(cls, prompts: Mapping[str, Sequence[str]], wanted: Wanted) -> Prompted:
        """Return prompt, seed and group of each query, given the prompts of each group and the queries wanted."""
        groups = [group for group in prompts for _ in range(wanted.per_group)]
        forth = 1 if wanted.query_set == "reported" else -1
        ordered = [of_group[::forth] for of_group in prompts.values()]
        used = [of_group[i % len(of_group)] for of_group in ordered for i in range(wanted.per_group)]
        first = FIRST_SEED[wanted.query_set]
        return cls(groups, used, range(first, first + len(used)))

    def pictures(self, opened: OpenTask, wanted: Wanted) -> KeptPictures:
        """Return the cached or still to be generated images of these prompts and seeds, `images` [m, H, W, C] uint8."""
        model, prompts, seeds = opened.drawing_model, list(self.prompts), list(self.seeds)
        contents = {"model": model.fingerprint, "sampling": model.sampling, "prompts": prompts, "seeds": seeds}
        summary = f"{len(prompts)} pictures of {len(set(self.groups))} groups, {wanted.query_set}"
        artifact = _artifact(wanted.cache, contents, summary)
        return KeptPictures(
            artifact, len(prompts), lambda: {"images": opened.denoiser.generate(prompts, seeds)}, wanted.shipped
        )


def labeled_pictures(opened: OpenTask, weights: Path, wanted: Wanted) -> KeptPictures:
    """Return query images of an unconditional model, cached, each with the class that a classifier is sure of.

    Args:
        opened: the task whose model draws.
        weights: folder of the classifier.
        wanted: how many queries, of which set.

    Returns:
        `images`, [m, H, W, C] uint8, with their `labels`, [m], and `seeds`, [m].
    """
    model = opened.model_description
    contents = {
        "model": model.fingerprint,
        "sampling_steps": model.sampling["steps"],
        "classifier": hashlib.sha256((weights / FILE).read_bytes()).hexdigest(),
        "confidence": CONFIDENCE,
        "per_group": wanted.per_group,
        "query_set": wanted.query_set,
    }
    first = FIRST_SEED[wanted.query_set]
    artifact = _artifact(
        wanted.cache, contents, f"{wanted.per_group} labeled pictures of each class, {wanted.query_set}"
    )
    most = wanted.per_group * recipe_of(weights).classes
    return KeptPictures(
        artifact, most, lambda: _unambiguous(opened.denoiser, weights, wanted.per_group, first), wanted.shipped
    )


def _artifact(cache: Path, contents: dict[str, Any], summary: str) -> Artifact:
    """Return the cache file of generated queries, named by a hash of all that decides them."""
    return Artifact(cache / "queries" / f"{fingerprint(contents)[:20]}.safetensors", "generated queries", summary)


def _unambiguous(denoiser: Denoiser, weights: Path, per_group: int, first_seed: int) -> Arrays:
    classifier = load_classifier(weights)
    images, labels, seeds = [], [], []
    counts = np.zeros(recipe_of(weights).classes, np.int64)
    tried = ambiguous = 0
    while counts.min() < per_group and tried < BATCH * MAX_BATCHES_PER_GROUP_MEMBER * per_group:
        batch = list(range(first_seed + tried, first_seed + tried + BATCH))
        pictures = denoiser.generate([""] * BATCH, batch)
        for seed, picture, p in zip(batch, pictures, probabilities(classifier, pictures), strict=True):
            label = int(p.argmax())
            ambiguous += bool(p[label] < CONFIDENCE)
            if p[label] >= CONFIDENCE and counts[label] < per_group:
                counts[label] += 1
                images.append(picture)
                labels.append(label)
                seeds.append(seed)
        tried += BATCH
    log.info("queries: %d pictures generated, %d of them ambiguous, %d kept", tried, ambiguous, len(images))
    if not images:
        raise AttrbenchError(
            f"none of {tried} generated pictures could be labeled: the model or the classifier is broken"
        )
    if counts.min() < per_group:
        log.warning("queries: fewer than %d pictures of class %d in %d tries", per_group, int(counts.argmin()), tried)
    return {
        "images": np.stack(images),
        "labels": np.array(labels, np.int64),
        "seeds": np.array(seeds, np.int64),
        "tried": np.array([tried, ambiguous], np.int64),
    }
