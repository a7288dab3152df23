"""Resumable writer of the DMin mixture as an image folder; `manifest.json` comes last and marks it complete."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.dataset_builder import Order
from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.manifest import Listing
from attrbench.data.pixels import refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.datasets.mixture_entries import Entry, MixtureOptions

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished.json"
COLUMNS = ("file_name", "text", "group", "split", "source", "source_index", "noised")
EVERY = 500
"""Images between two lines of progress."""


@dataclass(frozen=True)
class Started:
    """Folder of a mixture that is being written; a mark file in it tells which sources and options it is for."""

    folder: Path

    def refuse_other_contents(self) -> None:
        """Raise an error unless the folder is empty, missing or holds a mixture, finished or to go on with.

        Raises:
            AttrbenchError: where the folder holds anything else.
        """
        ours = any((self.folder / name).exists() for name in (MANIFEST, UNFINISHED))
        if self.folder.is_file() or (self.folder.is_dir() and any(map(_is_other, self.folder.iterdir())) and not ours):
            raise AttrbenchError(f"{self.folder} is not empty: name another folder with --out")

    def is_finished(self, settled: Mapping[str, Any]) -> bool:
        """Return whether the folder holds the finished mixture of these sources and options.

        Raises:
            AttrbenchError: where it holds that of others.
        """
        manifest = self.folder / MANIFEST
        if not manifest.exists() or (self.folder / UNFINISHED).exists():
            return False
        try:
            there = json.loads(manifest.read_bytes())
        except ValueError:
            there = {}
        if {name: there.get(name) for name in settled} != json.loads(json.dumps(settled)):
            raise AttrbenchError(
                f"{self.folder} holds another data set already: remove it, or name another folder with --out"
            )
        return True

    def begin(self, key: str) -> None:
        """Mark the folder as unfinished, for these sources and options; refuse a mark of other ones.

        Args:
            key: hash of sources and options.

        Raises:
            AttrbenchError: where another data set was begun there, or the folder can't be written to.
        """
        mark = self.folder / UNFINISHED
        if not mark.exists():
            try:
                write_atomically(mark, json.dumps({"fingerprint": key}).encode())
            except OSError as error:
                raise AttrbenchError(
                    f"cannot write to {self.folder}: {error.strerror}; name another with --out"
                ) from None
        if _key_in(mark) != key:
            raise AttrbenchError(
                f"{self.folder} was begun with other sources or options: run that command again, remove the folder, or"
                " name another one with --out"
            )


def _key_in(mark: Path) -> object:
    """Return the hash of sources and options in the mark of an unfinished mixture; None if it is damaged."""
    try:
        content = json.loads(mark.read_bytes())
    except ValueError:
        return None
    return content.get("fingerprint") if isinstance(content, dict) else None


def _is_other(path: Path) -> bool:
    """Return whether a file is no part of the mark of an unfinished mixture, which a kill may have left."""
    return not path.name.startswith(f"{UNFINISHED}.part-")


def write_mixture(
    entries: Sequence[Entry],
    found: Mapping[str, Listing],
    sources: Mapping[str, DatasetSource],
    options: MixtureOptions,
    order: Order,
    started: Started,
) -> None:
    """Write the mixture's images, then a table of captions for each split, then the manifest; resume if cut off."""
    settled = {
        "options": options.model_dump(mode="json"),
        "sources": {name: source.model_dump(mode="json") for name, source in sources.items()},
        "items": {name: fingerprint([listing.stamp, list(listing.names)]) for name, listing in found.items()},
    }
    if started.is_finished(settled):
        order.report("it is there already")
        return
    started.begin(fingerprint(settled))
    left_out: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        reason = _write_image(entry, found[entry.group], options, order.out)
        if reason is not None:
            left_out[f"{entry.split}/{entry.file_name}"] = reason
        if number % EVERY == 0 or number == len(entries):
            order.report(f"{number} of {len(entries)} images")
    kept = [entry for entry in entries if f"{entry.split}/{entry.file_name}" not in left_out]
    for split in sorted({entry.split for entry in kept}):
        rows = [_row(entry, found[entry.group], sources[entry.group]) for entry in kept if entry.split == split]
        write_atomically(order.out / split / "metadata.csv", _csv(rows))
    manifest = {**settled, "counts": _counts(kept), "left_out": left_out, "columns": COLUMNS}
    write_atomically(order.out / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    (order.out / UNFINISHED).unlink()


def _write_image(entry: Entry, listing: Listing, options: MixtureOptions, out: Path) -> str | None:
    """Write an item's PNG file unless it exists; return None, or the reason where its source cannot be read."""
    path = out / entry.split / entry.file_name
    if path.exists():
        return None
    try:
        with refusing_bombs(), listing.open(entry.place) as image:
            pixels = to_pixels(image, (options.resolution, options.resolution, 3))
    except Exception as error:
        return what_is_wrong(error)
    if entry.noised:
        pixels = noised(pixels, options, entry)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise AttrbenchError(f"cannot write {path}: {error.strerror}; run the same command again to go on") from None
    return None


def noised(pixels: NDArray[np.uint8], options: MixtureOptions, entry: Entry) -> NDArray[np.uint8]:
    """Return an image ([H, W, 3] uint8) with reproducible Gaussian noise added, for a noised copy of the mixture.

    The noise follows from the seed, the source and the index there; values are clipped to 0 .. 255.
    """
    words = fingerprint(["noise", options.seed, entry.group, entry.place])
    noise = np.random.default_rng(int(words[:16], 16)).normal(0, 255 * options.noise, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def _row(entry: Entry, listing: Listing, source: DatasetSource) -> dict[str, Any]:
    assert listing.captions is not None
    return {
        "file_name": entry.file_name,
        "text": listing.captions[entry.place],
        "group": entry.group,
        "split": entry.split,
        "source": source.path,
        "source_index": entry.place,
        "noised": str(entry.noised).lower(),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _counts(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Return the numbers of items and of noised items by source and split, for the manifest."""
    counts = Counter((entry.group, entry.split) for entry in entries)
    copies = Counter((entry.group, f"{entry.split}, noised") for entry in entries if entry.noised)
    table: dict[str, dict[str, int]] = {}
    for (group, column), count in (counts + copies).items():
        table.setdefault(group, {})[column] = count
    return table
