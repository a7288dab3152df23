"""Data set `mixture`: the six captioned image sets of the DMin paper (arXiv 2412.08637) as one image folder.

The paper's supplement 7.2: six data sets together; noise is added to 5% of the items, chosen at random, and these are
appended; 80% are for training. Neither the noise nor the seed nor the order is published: here all items, noised ones
included, are split by one seeded permutation, and the noise is Gaussian on the pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from huggingface_hub import dataset_info

from attrbench.contracts.dataset_builder import Order, Preparation
from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.manifest import Listing
from attrbench.data.open_dataset import list_items
from attrbench.errors import AttrbenchError
from attrbench.hub import hub_or_cache
from attrbench_tasks.datasets.mixture_entries import MixtureOptions, mixture_entries
from attrbench_tasks.datasets.mixture_writer import Started, write_mixture
from attrbench_tasks.dmin_paper import constants as paper

CAPTIONS = ("en_text", "prompt", "long_prompt", "short_prompt")
"""Columns to take captions from where there is neither `text` nor `caption`, the first that is there."""


class Mixture(Preparation[MixtureOptions]):
    """Builder of the DMin paper's training set for its text-to-image models, from six captioned sources, 5% noised."""

    name = "mixture"
    summary = "the six captioned sources of DMin with 5% noised copies, 80% for training: an image folder"
    sources: ClassVar = {name: DatasetSource(path=path) for name, path in paper.SOURCES.items()}
    Options = MixtureOptions

    def prepare(self, order: Order) -> None:
        """Load the six sources, choose noised copies and the train/test split, and write all as an image folder."""
        started = Started(order.out)
        started.refuse_other_contents()
        sources = {name: pinned(order.sources.get(name, source)) for name, source in self.sources.items()}
        found = {}
        for name, source in sources.items():
            found[name], sources[name] = listed(name, source, order.cache)
            order.report(f"{name}: {len(found[name])} items of {source.path}")
        entries = mixture_entries({name: len(listing) for name, listing in found.items()}, self.options)
        write_mixture(entries, found, sources, self.options, order, started)


def pinned(source: DatasetSource) -> DatasetSource:
    """Return the source with its revision set to the hub's current commit; unchanged if local, offline or set."""
    if Path(source.path).exists() or source.revision is not None:
        return source
    with hub_or_cache() as answers:
        if not answers:
            return source
        try:
            return source.model_copy(update={"revision": dataset_info(source.path).sha})
        except Exception:  # whatever is wrong, loading it says so better
            return source


def listed(name: str, source: DatasetSource, cache: Path) -> tuple[Listing, DatasetSource]:
    """Return a listing of a source's captioned images, and the source with the image and caption columns found.

    The sources' columns are not the same, and may change: where none is named, captions are looked for in the usual
    columns, then in `CAPTIONS`, and images in the only column there is, else in `image`.

    Raises:
        AttrbenchError: one line, where the source is out of reach or has no captions.
    """
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
