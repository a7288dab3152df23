"""`attrbench prepare mixture`: the six-source data set of the paper, as an image folder.

Paper, supplement 7.2: six data sets together; noise is added to 5% of the items, chosen at random, and these are
appended; 80% are for training. Neither the noise nor the seed nor the order is published: here all items, noised ones
included, are split by one seeded permutation, and the noise is Gaussian on the pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from attrbench.contracts.dataset_builder import Order, Preparation
from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError
from attrbench_tasks.dmin_paper import constants as paper

if TYPE_CHECKING:
    from attrbench.data.manifest import Listing

CAPTIONS = ("en_text", "prompt", "long_prompt", "short_prompt")
"""Columns of captions that are looked for where there is neither `text` nor `caption`."""


class MixtureOptions(Options):
    """Options of the mixture."""

    resolution: int = Field(paper.RESOLUTION, ge=8)
    """Pixels on a side of the images."""
    seed: int = Field(0, ge=0)
    """Of the split, of the choice of noised items, and of their noise."""
    noised_share: float = Field(paper.NOISED_SHARE, ge=0, le=1)
    """How many noised copies are appended, as a share of all items."""
    noise: float = Field(0.1, ge=0, le=1)
    """Standard deviation of the noise, as a share of the range of pixels."""
    held_out_share: float = Field(paper.HELD_OUT_SHARE, ge=0, lt=1)
    """Share of the items in the split `test`."""


class Entry(NamedTuple):
    """An item of the mixture before it is written."""

    group: str
    place: int
    """In its source."""
    noised: bool
    split: str

    @property
    def file_name(self) -> str:
        """Its file below the folder of its split."""
        return f"{self.group}-{self.place:06d}{'-noised' if self.noised else ''}.png"


class Mixture(Preparation[MixtureOptions]):
    """The data set on which the paper trains its text-to-image models."""

    name = "mixture"
    summary = "the six captioned sources of DMin with 5% noised copies, 80% for training: an image folder"
    sources: ClassVar = {name: DatasetSource(path=path) for name, path in paper.SOURCES.items()}
    Options = MixtureOptions

    def prepare(self, order: Order) -> None:
        """See `attrbench.contracts.dataset_builder.Preparation`."""
        from attrbench_tasks.datasets.mixture_writer import Started, write_mixture

        started = Started(order.out)
        started.refuse_other_contents()
        sources = {name: pinned(order.sources.get(name, source)) for name, source in self.sources.items()}
        found = {}
        for name, source in sources.items():
            found[name], sources[name] = listed(name, source, order.cache)
            order.report(f"{name}: {len(found[name])} items of {source.path}")
        entries = plan({name: len(listing) for name, listing in found.items()}, self.options)
        write_mixture(entries, found, sources, self.options, order, started)


def plan(sizes: dict[str, int], options: MixtureOptions) -> list[Entry]:
    """All items with their split, by source, then by place, noised copies last."""
    import numpy as np

    rng = np.random.default_rng(options.seed)
    items = [(group, place, False) for group, size in sizes.items() for place in range(size)]
    chosen = sorted(rng.permutation(len(items))[: round(options.noised_share * len(items))].tolist())
    every = items + [(items[number][0], items[number][1], True) for number in chosen]
    held_out = set(rng.permutation(len(every))[: round(options.held_out_share * len(every))].tolist())
    return [
        Entry(group, place, noised, "test" if number in held_out else "train")
        for number, (group, place, noised) in enumerate(every)
    ]


def pinned(source: DatasetSource) -> DatasetSource:
    """The source at the commit that the hub has now, where it answers and no revision is asked for."""
    if Path(source.path).exists() or source.revision is not None:
        return source
    from attrbench.hub import hub_or_cache

    with hub_or_cache() as answers:
        if not answers:
            return source
        try:
            from huggingface_hub import dataset_info

            return source.model_copy(update={"revision": dataset_info(source.path).sha})
        except Exception:  # whatever is wrong, loading it says so better
            return source


def listed(name: str, source: DatasetSource, cache: Path) -> tuple[Listing, DatasetSource]:
    """The items of a source, and the source with the columns that were taken.

    The sources' columns are not the same, and may change: where none is named, captions are looked for in the usual
    columns, then in `CAPTIONS`, and images in the only column there is, else in `image`.

    Raises:
        AttrbenchError: one line, where the source is out of reach or has no captions.
    """
    from attrbench.data.open_dataset import list_items

    images = [source.image_column] if source.image_column is not None else [None, "image"]
    captions = [source.caption_column] if source.caption_column is not None else [None, *CAPTIONS]
    first: AttrbenchError | None = None
    for image in images:
        for caption in captions:
            columns = {"image_column": image, "caption_column": caption}
            chosen = source.model_copy(update=columns)
            try:
                listing = list_items(chosen, cache)
            except AttrbenchError as error:
                first = first or error
                if "column" not in str(error):
                    raise _named(name, error) from None
                continue
            if listing.captions is not None:
                return listing, chosen
    lacking = AttrbenchError(f"{source.path} has no captions in text, caption, {', '.join(CAPTIONS)}")
    raise _named(name, first or lacking)


def _named(name: str, error: AttrbenchError) -> AttrbenchError:
    return AttrbenchError(
        f"source {name}: {error}; or take it from elsewhere: --source {name}=PATH[:image_column=...,caption_column=...]"
    )
