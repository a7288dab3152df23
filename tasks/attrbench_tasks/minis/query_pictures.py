"""Draw the queries of a task, pictures that its model generates with fixed seeds, and keep them in the cache.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Denoiser
from attrbench.errors import AttrbenchError
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.training.classifier import FILE, load_classifier, probabilities, recipe_of

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger("attrbench.queries")

QuerySet = Literal["reported", "tuning"]
CONFIDENCE = 0.9
BATCH = 50
MAX_BATCHES_PER_GROUP_MEMBER = 4  # give up on a class that needs more than 200 pictures for each one wanted
FIRST_SEED = {"reported": 0, "tuning": 1_000_000}


@dataclass(frozen=True)
class Wanted:
    """A request for queries: how many, of which set, and where they are kept.

    Attributes:
        per_group: pictures of each group.
        query_set: which seeds, and which prompts come first.
        cache: folder to keep them in.
    """

    per_group: int
    query_set: QuerySet
    cache: Path


def prompted_generations(
    denoiser: Denoiser, prompts: Mapping[str, Sequence[str]], wanted: Wanted
) -> tuple[NDArray[np.uint8], list[str], list[str], list[int]]:
    """Return generated images, [m, H, W, C] uint8, with their groups, prompts and seeds, drawn or from the cache.

    Args:
        denoiser: the model.
        prompts: those of each group, by its name.
        wanted: how many queries, of which set.
    """
    groups = [group for group in prompts for _ in range(wanted.per_group)]
    forth = 1 if wanted.query_set == "reported" else -1
    ordered = [of_group[::forth] for of_group in prompts.values()]
    used = [of_group[i % len(of_group)] for of_group in ordered for i in range(wanted.per_group)]
    first = FIRST_SEED[wanted.query_set]
    seeds = list(range(first, first + len(used)))
    contents = {"model": denoiser.fingerprint, "sampling": denoiser.sampling, "prompts": used, "seeds": seeds}
    summary = f"{len(used)} pictures of {len(prompts)} groups, {wanted.query_set}"
    kept = _kept(wanted.cache, contents, summary, lambda: {"images": denoiser.generate(used, seeds)})
    return kept["images"], groups, used, seeds


def labeled_generations(
    denoiser: DDPMDenoiser, weights: Path, wanted: Wanted
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return generated images, [m, H, W, C] uint8, with their labels, [m], and seeds, [m], drawn or from the cache.

    Args:
        denoiser: the model.
        weights: folder of the classifier.
        wanted: how many queries, of which set.
    """
    contents = {
        "model": denoiser.fingerprint,
        "sampling_steps": denoiser.sampling_steps,
        "classifier": hashlib.sha256((weights / FILE).read_bytes()).hexdigest(),
        "confidence": CONFIDENCE,
        "per_group": wanted.per_group,
        "query_set": wanted.query_set,
    }
    first = FIRST_SEED[wanted.query_set]
    summary = f"{wanted.per_group} labeled pictures of each class, {wanted.query_set}"
    kept = _kept(wanted.cache, contents, summary, lambda: _unambiguous(denoiser, weights, wanted.per_group, first))
    return kept["images"], kept["labels"], kept["seeds"]


def _kept(cache: Path, contents: dict[str, Any], summary: str, build: Callable[[], Arrays]) -> Arrays:
    """Return the pictures that are a function of `contents`, from the cache, or drawn and kept there."""
    path = cache / "queries" / f"{fingerprint(contents)[:20]}.safetensors"
    return Artifact(path, "generated queries", summary).arrays(build).value


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
