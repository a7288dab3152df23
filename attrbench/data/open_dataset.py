"""Loading of an image data set (folder, hub id or table) as the items (images, prompts, groups) of a task."""

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
"""Number of unreadable images that a message names."""


def list_items(source: DatasetSource, cache: Path) -> Listing:
    """Return a data set's names, captions and groups; metadata is read and checked, images are not decoded yet.

    Captions that are empty are logged, a line for all.

    Raises:
        AttrbenchError: where the data set or part of it is missing; names file and row.
    """
    listing = _list(source, cache)
    empty = [index for index, caption in enumerate(listing.captions or ()) if not caption.strip()]
    if empty:
        first = listing.names[empty[0]]
        log.warning(
            "%d of the %d captions in %s are empty, first that of %s", len(empty), len(listing), listing.where, first
        )
    return listing


def _list(source: DatasetSource, cache: Path) -> Listing:
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
    """Return the items of a data set with images decoded to [n, resolution, resolution, channels] uint8.

    Args:
        source: data set, split, columns and limit.
        resolution: side of the square images in pixels.
        cache: cache folder, in which the decoded images are kept, memory-mapped.
        channels: 3 for RGB, 1 for gray.
        captions: whether captions are required, because the model takes prompts.

    Raises:
        AttrbenchError: where the data set, captions or images are missing or unreadable; names file and row.
    """
    listing = list_items(source, cache)
    if captions:
        need_captions(listing)
    return items_of(listing, source, (resolution, resolution, channels), cache).items


class Loaded(NamedTuple):
    """The items of a loaded data set, with a message about unreadable images that were left out (None if none were)."""

    items: Items
    left_out: str | None


def items_of(listing: Listing, source: DatasetSource, shape: tuple[int, int, int], cache: Path) -> Loaded:
    """Return a listed data set as items, its images decoded to `shape` (H, W, C) and kept in the cache."""
    decoded = kept_images(listing, shape, cache)
    left_out = _judge(listing, source, decoded.bad) if decoded.bad else None
    good = [index for index in range(len(listing)) if index not in decoded.bad]
    prompts = [""] * len(good) if listing.captions is None else [listing.captions[index] for index in good]
    groups = [""] * len(good) if listing.groups is None else [listing.groups[index] for index in good]
    names = [listing.names[index] for index in good]
    whole = fingerprint(list(decoded.digests))
    items = make_items(decoded.images, prompts, groups, names, digest=whole, digests=decoded.digests)
    return Loaded(items, left_out)


def need_captions(listing: Listing) -> None:
    """Raise an error if a data set has no captions, for a model that needs them as prompts.

    Raises:
        AttrbenchError: where it has none; says how to give them.
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
    digests: Sequence[str] = (),
) -> Items:
    """Return images with their prompts and groups as items; their fingerprint does not depend on the groups.

    Features therefore stay valid when only the groups change.

    Args:
        images: [n, H, W, C] uint8.
        prompts: n captions or prompts, empty strings for unconditional models.
        groups: n group names.
        names: n names for messages.
        seeds: n seeds of the initial noise that the images were generated from, if any.
        digest: hash of all images' pixels, if it is known already; else the sha256 of their bytes.
        digests: `attrbench.contracts.task.pixel_digest` of each image, if they are known already.
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
        digests=digests,
    )


def _judge(listing: Listing, source: DatasetSource, bad: dict[int, str]) -> str:
    """Raise an error about unreadable images; or, if they may be skipped, log and return a line about them."""
    named = "; ".join(f"{listing.names[index]}: {reason}" for index, reason in list(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    count = f"{len(bad)} of {len(listing)} images in {listing.where} cannot be read ({named}{more})"
    if source.on_bad_image == "refuse":
        raise AttrbenchError(f'{count}: repair or remove them, or leave them out with on_bad_image = "skip"')
    line = f"{count}: left out"
    log.warning(line)
    return line
