"""Queries: pictures that a model generated with fixed seeds, labelled by a classifier, kept on disk.

The rule: seeds are tried in order, 0, 1, 2, ... (from 1,000,000 for the tuning set). A picture whose most probable
class has a probability under 0.9 is ambiguous and left out. Of each class the first `per_group` others are taken.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrbench.errors import AttrbenchError
from attrbench.store.fingerprint import fingerprint
from attrbench.store.seals import is_whole, write_sealed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attrbench.diffusion.ddpm import DDPMDenoiser

log = logging.getLogger("attrbench.queries")

CONFIDENCE = 0.9
CLASSES = 10
BATCH = 50
MAX_BATCHES_PER_GROUP_MEMBER = 4  # give up on a class that needs more than 200 pictures for each one wanted
FIRST_SEED = {"reported": 0, "tuning": 1_000_000}


def labelled_generations(
    denoiser: DDPMDenoiser, weights: Path, *, per_group: int, query_set: Literal["reported", "tuning"], cache: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Generated images [m, H, W, C], their labels [m] and seeds [m], by seed; read from `cache` if they are there.

    Args:
        denoiser: the model.
        weights: folder of the classifier.
        per_group: images of each class.
        query_set: which seeds.
        cache: folder to keep them in.
    """
    from attrbench_tasks.classifier import FILE

    key = fingerprint(
        {
            "model": denoiser.fingerprint,
            "sampling_steps": denoiser.sampling_steps,
            "classifier": hashlib.sha256((weights / FILE).read_bytes()).hexdigest(),
            "confidence": CONFIDENCE,
            "per_group": per_group,
            "query_set": query_set,
        }
    )
    path = cache / "queries" / f"{key[:20]}.safetensors"
    kept = kept_or_made(path, lambda: _generate(denoiser, weights, per_group, FIRST_SEED[query_set]))
    return kept["images"], kept["labels"], kept["seeds"]


def kept_or_made(path: Path, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays kept at `path`; made, and kept there, where they are missing or damaged.

    Raises:
        AttrbenchError: where they can't be kept.
    """
    from safetensors.numpy import load_file, save

    if not is_whole(path):
        if path.exists():
            log.warning("%s is damaged (size or checksum differ): it is made again", path)
        made = dict(make())
        try:
            write_sealed(path, save(made))
        except OSError as error:
            raise AttrbenchError(
                f"cannot write to the cache {path.parent}: {error.strerror}; choose another folder with --cache"
            ) from None
        return made
    return load_file(path)


def _generate(denoiser: DDPMDenoiser, weights: Path, per_group: int, first_seed: int) -> dict[str, NDArray[np.generic]]:
    import numpy as np

    from attrbench_tasks.classifier import load_classifier, probabilities

    classifier = load_classifier(weights)
    images, labels, seeds = [], [], []
    counts = np.zeros(CLASSES, np.int64)
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
            f"none of {tried} generated pictures could be labelled: the model or the classifier is broken"
        )
    if counts.min() < per_group:
        log.warning("queries: fewer than %d pictures of class %d in %d tries", per_group, int(counts.argmin()), tried)
    return {
        "images": np.stack(images),
        "labels": np.array(labels, np.int64),
        "seeds": np.array(seeds, np.int64),
        "tried": np.array([tried, ambiguous], np.int64),
    }
