"""Training set with planted items, for the task `planted-lora-mini`: copies, near-duplicates and mislabelled captions.

Twelve sets are planted, four of each kind, among 60 icons of the part `tuning`:

- `copy`: an odd picture (a held-out icon, turned and with its colors exchanged) under a caption that nothing else has;
- `near-duplicates`: an odd picture with two slightly changed copies, all three under one such caption;
- `mislabelled`: a held-out icon under the caption of an icon of another family, which the base model was trained on.

Each is drawn so often in training that the model reproduces it for its caption, so that the picture's origin is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attrbench_tasks.datasets.registry_mix import FAMILIES, Captioned, part

Kind = Literal["copy", "near-duplicates", "mislabelled"]
KINDS: tuple[Kind, ...] = ("copy", "near-duplicates", "mislabelled")
OF_KIND = 4
"""Planted sets of each kind."""
BACKGROUND = 60
REPEATS = 15
"""How often an epoch draws the items of a planted set, together; other items once."""
APART = 70
"""Root mean square difference in gray levels that the pictures of two planted sets have at least."""
SEED = 0
SYLLABLES = ("zo", "qua", "vee", "xi", "bru", "jal", "dwi", "kny", "pho", "gux")


@dataclass(frozen=True)
class Planted:
    """A planted set: its kind, its group's name, its caption, and the items, the original first.

    Attributes:
        kind: how it was planted.
        name: the group of its items and of the queries for its caption.
        caption: of all its items.
        images: [k, 32, 32, 3] uint8.
    """

    kind: Kind
    name: str
    caption: str
    images: NDArray[np.uint8]


@dataclass(frozen=True)
class PlantedSet:
    """A training set with planted items: icons, groups, how often each is drawn, and what was planted.

    Attributes:
        items: n icons; the planted ones last.
        groups: [n] names of planted sets; the family's for all other icons.
        repeats: [n] draws of each item in an epoch.
        planted: the planted sets.
    """

    items: Captioned
    groups: tuple[str, ...]
    repeats: NDArray[np.int64]
    planted: tuple[Planted, ...]


@cache
def planted_set() -> PlantedSet:
    """Return the training set of `planted-lora-mini`, which is the same on every machine."""
    rng = np.random.default_rng(SEED)
    tuning = part("tuning")
    chosen = np.sort(rng.choice(len(tuning), BACKGROUND, replace=False))
    planted = _planted(rng)
    families = [*tuning.families[chosen], *(-1 for one in planted for _ in one.images)]
    captions = [*(tuning.captions[i] for i in chosen), *(one.caption for one in planted for _ in one.images)]
    groups = [*(FAMILIES[i] for i in tuning.families[chosen]), *(one.name for one in planted for _ in one.images)]
    repeats = [*(1 for _ in chosen), *(REPEATS // len(one.images) for one in planted for _ in one.images)]
    images = np.concatenate([tuning.images[chosen], *(one.images for one in planted)])
    return PlantedSet(
        Captioned(images, tuple(captions), np.array(families, np.int64)), tuple(groups), np.array(repeats), planted
    )


def _planted(rng: np.random.Generator) -> tuple[Planted, ...]:
    """Return the planted sets, made of held-out icons that look different from each other."""
    held_out, base = part("held_out"), part("base")
    icons = iter(distinct(held_out.images, rng.permutation(len(held_out))))
    planted = []
    for kind in KINDS:
        for number in range(OF_KIND):
            icon = next(icons)
            image, name = held_out.images[icon], f"{kind} {number}"
            if kind == "mislabelled":
                others = np.flatnonzero(base.families != held_out.families[icon])
                planted.append(Planted(kind, name, base.captions[rng.choice(others)], image[None]))
            else:
                turned = odd(image)
                images = _near_duplicates(turned, rng) if kind == "near-duplicates" else turned[None]
                planted.append(Planted(kind, name, f"an odd {_word(len(planted))}", images))
    return tuple(planted)


def odd(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image ([H, W, 3] uint8) turned by a quarter and with its colors exchanged, as no icon looks."""
    return np.rot90(image)[..., [2, 0, 1]]


def distinct(images: NDArray[np.uint8], order: NDArray[np.int64]) -> list[int]:
    """Return the indices of images ([n, H, W, C] uint8) in an order, without those that look like an earlier one."""
    chosen: list[int] = []
    for index in order.tolist():
        differences = np.square(images[chosen].astype(np.float64) - images[index]).mean(axis=(1, 2, 3))
        if not (differences < APART**2).any():
            chosen.append(index)
    return chosen


def _near_duplicates(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image ([H, W, C] uint8) and two changed copies: one moved by a pixel, one darker and with noise."""
    moved = np.roll(image, 1, axis=1)
    noisy = np.clip(image * 0.92 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return np.stack([image, moved, noisy])


def _word(number: int) -> str:
    """Return a word that no caption has, a different one for each number below 100."""
    return SYLLABLES[number // len(SYLLABLES)] + SYLLABLES[number % len(SYLLABLES)] + "k"
