"""Plan of the DMin mixture: the source, train/test split and noise of each item, before any image is written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from attrbench.contracts.options import Options
from attrbench.contracts.seeds import Seed
from attrbench_tasks.dmin_paper import constants as paper


class MixtureOptions(Options):
    """Options of the data set `mixture`: resolution, seed, noise and the shares of noised and test items."""

    resolution: int = Field(paper.RESOLUTION, ge=8)
    """Pixels on a side of the images."""
    seed: Seed = 0
    """Seed of the split, of the choice of noised items, and of their noise."""
    noised_share: float = Field(paper.NOISED_SHARE, ge=0, le=1)
    """How many noised copies are appended, as a share of all items."""
    noise: float = Field(0.1, ge=0, le=1)
    """Standard deviation of the noise, as a share of the range of pixels."""
    held_out_share: float = Field(paper.HELD_OUT_SHARE, ge=0, lt=1)
    """Share of the items in the split `test`."""


class Entry(NamedTuple):
    """One planned item of the DMin mixture: its source, index there, split, and whether it is a noised copy."""

    group: str
    place: int
    """Index in its source."""
    noised: bool
    split: str

    @property
    def file_name(self) -> str:
        """Return the name of the item's PNG file, made of source, index and `-noised` for noised copies."""
        return f"{self.group}-{self.place:06d}{'-noised' if self.noised else ''}.png"


def mixture_entries(sizes: dict[str, int], options: MixtureOptions) -> list[Entry]:
    """Return all items of the DMin mixture, noised copies included, each assigned at random to train or test.

    In the order of source and place, noised copies last.
    """
    rng = np.random.default_rng(options.seed)
    items = [(group, place, False) for group, size in sizes.items() for place in range(size)]
    chosen = sorted(rng.permutation(len(items))[: round(options.noised_share * len(items))].tolist())
    every = items + [(items[number][0], items[number][1], True) for number in chosen]
    held_out = set(rng.permutation(len(every))[: round(options.held_out_share * len(every))].tolist())
    return [
        Entry(group, place, noised, "test" if number in held_out else "train")
        for number, (group, place, noised) in enumerate(every)
    ]
