"""Reader of the 1,833 captioned 32x32 icons of six families, in three parts: pre-training, fine-tuning, held out.

`data/registry_mix32.npz` holds 1,833 images from permissively licensed packages (see docs/reference/tasks.md). Each
family is divided, by one seed, into three parts:

- `base` (45%): what the shared parts and the base models are pre-trained on;
- `tuning` (45%): the training set of the fine-tunings, whose influence is asked for;
- `held_out` (10%): never trained on; its captions are the prompts of the queries.

One subject drawn in two styles (`a 3d emoji of rose`, `a flat emoji of rose`) has both pictures in the same part, so
that a held-out subject is seen by no model in either style.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["base", "tuning", "held_out"]
PARTS: tuple[Part, ...] = ("base", "tuning", "held_out")

IMAGES = Path(__file__).parents[1] / "data" / "registry_mix32.npz"
SIZE = 32
FAMILIES = ("card", "emoji3d", "emojiflat", "flag", "gameart", "glyph")
SHARES = {"base": 0.45, "tuning": 0.45}
SPLIT_SEED = 0
TWO_STYLES = ("a 3d emoji of ", "a flat emoji of ")


@dataclass(frozen=True)
class Captioned:
    """Icons, [n, 32, 32, 3] uint8, with n captions and [n] family numbers (indices into `FAMILIES`)."""

    images: NDArray[np.uint8]
    captions: tuple[str, ...]
    families: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


@cache
def part(*names: Part) -> Captioned:
    """Return the icons of the named parts (`base`, `tuning`, `held_out`) with captions and families, in file order."""
    with np.load(IMAGES, allow_pickle=False) as file:
        images, captions, families = file["x"], file["caption"].tolist(), file["family"].tolist()
    parts = _parts(captions, families)
    index = [i for i, name in enumerate(parts) if name in names]
    return Captioned(
        images[index],
        tuple(captions[i] for i in index),
        np.array([FAMILIES.index(families[i]) for i in index], np.int64),
    )


def subject(caption: str) -> str:
    """Return an icon's caption without its emoji style, so that both drawings of one subject get the same text."""
    for style in TWO_STYLES:
        caption = caption.removeprefix(style)
    return caption


def _parts(captions: list[str], families: list[str]) -> list[Part]:
    """Return each icon's part (`base`, `tuning` or `held_out`), random within a family, subjects kept together."""
    where: dict[str, list[int]] = {}
    for i, caption in enumerate(captions):
        where.setdefault(subject(caption), []).append(i)
    kinds: dict[str, list[str]] = {}
    for name, members in where.items():
        kinds.setdefault("+".join(sorted({families[i] for i in members})), []).append(name)
    parts: list[Part] = ["held_out"] * len(captions)
    rng = np.random.default_rng(SPLIT_SEED)
    for kind in sorted(kinds):
        names = [kinds[kind][i] for i in rng.permutation(len(kinds[kind]))]
        base, tuning = (round(len(names) * share) for share in SHARES.values())
        for rank, name in enumerate(names):
            chosen: Part = "base" if rank < base else "tuning" if rank < base + tuning else "held_out"
            for i in where[name]:
                parts[i] = chosen
    return parts
