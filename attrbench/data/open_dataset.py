"""From a source of images to the items of a task."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.task import Items
from attrbench.data.hf_datasets import is_table_folder, list_table
from attrbench.data.image_cache import kept_images
from attrbench.data.image_folder import list_folder, missing_folder
from attrbench.data.manifest import Listing
from attrbench.errors import AttrbenchError
from attrbench.store.fingerprint import fingerprint

log = logging.getLogger("attrbench.data")

NAMED = 3
"""How many bad images an error names."""


def list_items(source: DatasetSource, cache: Path) -> Listing:
    """The items of a source, none decoded yet: metadata is read and checked, files are looked for.

    Raises:
        AttrbenchError: one line that names the file, and the row where there is one.
    """
    path = Path(source.path).expanduser()
    if path.is_dir():
        return list_table(source, path, cache) if is_table_folder(path) else list_folder(path, source)
    if path.exists():
        raise AttrbenchError(f"{path} is a file: a folder of images is needed")
    beside = path.parent != Path() and path.parent.is_dir()  # a hub id is OWNER/NAME: where OWNER is no folder here
    if path.is_absolute() or source.path.startswith((".", "~")) or source.path.count("/") > 1 or beside:
        raise AttrbenchError(missing_folder(path))
    return list_table(source, None, cache)


def load_items(
    source: DatasetSource, resolution: int, cache: Path, *, channels: int = 3, captions: bool = False
) -> Items:
    """The items of a source as a model of square pictures takes them.

    Args:
        source: where they come from.
        resolution: side in pixels.
        cache: folder in which the decoded images stay, memory-mapped.
        channels: 3 for RGB, 1 for gray.
        captions: whether the model needs them.

    Raises:
        AttrbenchError: one line that names the file, and the row where there is one.
    """
    listing = list_items(source, cache)
    if captions:
        need_captions(listing)
    return items_of(listing, source, (resolution, resolution, channels), cache).items


class Loaded(NamedTuple):
    """Items, and one line about the images that were left out, where there were any."""

    items: Items
    left_out: str | None


def items_of(listing: Listing, source: DatasetSource, shape: tuple[int, int, int], cache: Path) -> Loaded:
    """As `load_items`, of what `list_items` found, at any shape (H, W, C)."""
    kept = kept_images(listing, shape, cache)
    left_out = _judge(listing, source, kept.bad) if kept.bad else None
    good = [index for index in range(len(listing)) if index not in kept.bad]
    prompts = [""] * len(good) if listing.captions is None else [listing.captions[index] for index in good]
    groups = [""] * len(good) if listing.groups is None else [listing.groups[index] for index in good]
    names = [listing.names[index] for index in good]
    return Loaded(make_items(kept.images, prompts, groups, names, digest=kept.sha256), left_out)


def need_captions(listing: Listing) -> None:
    """Refuses a source without captions for a model that needs them.

    Raises:
        AttrbenchError: one line that says where they would have to be.
    """
    if listing.captions is None:
        raise AttrbenchError(
            f"{listing.where} has no captions, and the model takes prompts: give them in a column `text` (of"
            " metadata.csv, for a folder), or name their column with caption_column"
        )


def make_items(
    images: NDArray[np.uint8],
    prompts: Sequence[str],
    groups: Sequence[str],
    names: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    digest: str | None = None,
) -> Items:
    """Items whose fingerprint leaves out the groups, so that features outlive other groups.

    `digest` is the images' sha256, where it is known already.
    """
    if digest is None:
        digest = hashlib.sha256(images.tobytes()).hexdigest()
    return Items(
        images=images,
        groups=groups,
        prompts=prompts,
        fingerprint=fingerprint({"images": digest, "shape": list(images.shape), "prompts": list(prompts)}),
        seeds=seeds,
        names=names,
        grouping=fingerprint(list(groups)),
    )


def _judge(listing: Listing, source: DatasetSource, bad: dict[int, str]) -> str:
    """Refuses bad images, or says that they are left out, in one line."""
    named = "; ".join(f"{listing.names[index]}: {reason}" for index, reason in list(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    count = f"{len(bad)} of {len(listing)} images in {listing.where} cannot be read ({named}{more})"
    if source.on_bad_image == "refuse":
        raise AttrbenchError(f'{count}: repair or remove them, or leave them out with on_bad_image = "skip"')
    line = f"{count}: left out"
    log.warning(line)
    return line
