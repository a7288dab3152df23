"""Digests of the files of a data set, kept in the cache so that a file is read again only when it has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import stat_result
from pathlib import Path

from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

SETTLED_SECONDS = 2.0
"""A file changed within this time may change again without another time: its digest is not relied on."""


@dataclass(frozen=True)
class Contents:
    """The encoded contents of a data set's items, by which the cache finds what was decoded of them.

    Attributes:
        place: what tells the data set from others: an absolute path, or a hash of a table.
        states: JSON value for each item that changes when its content may have changed; None for one not to rely on.
        digest: returns the sha256 of an item's encoded bytes; raises OSError or ValueError where they can't be read.
    """

    place: str
    states: Sequence[object]
    digest: Callable[[int], str]


def digests_of(contents: Contents, names: Sequence[str], cache: Path) -> list[str | None]:
    """Return the digest of each item's encoded content; only items whose state has changed are read.

    Size and time tell only whether the file of that path has changed. Files of equal size and time (as archives unpack
    them) in different places have digests of their own, and a moved data set has the digests of before.

    Args:
        contents: how items are read.
        names: of the items, distinct.
        cache: the cache folder, which keeps the digests of each place.

    Raises:
        AttrbenchError: where the cache can't be written to.

    Returns:
        n digests; None for items that can't be read.
    """
    name = f"{fingerprint(contents.place)[:20]}.json"
    artifact = Artifact(cache / "digests" / name, "digests of files", f"of the images in {contents.place}")
    found = artifact.found()
    if found is None:
        artifact.report_damage("reading the images again")
    known = {} if found is None else json.loads(found.path.read_bytes())
    digests: list[str | None] = []
    for index, (name, state) in enumerate(zip(names, contents.states, strict=True)):
        kept = known.get(name)
        digests.append(kept[1] if kept and state is not None and kept[0] == state else _digest(contents, index))
    rows = {
        name: [state, digest] for name, state, digest in zip(names, contents.states, digests, strict=True) if digest
    }
    if rows != known:
        artifact.write_bytes(json.dumps(rows, separators=(",", ":")).encode())
    else:
        artifact.touch()
    return digests


def _digest(contents: Contents, index: int) -> str | None:
    try:
        return contents.digest(index)
    except (OSError, ValueError):
        return None


def file_state(status: stat_result) -> object:
    """Return size and time of a file's last change; None if that is so recent that another change might not show."""
    if abs(time.time() - status.st_mtime) < SETTLED_SECONDS:
        return None
    return [status.st_size, status.st_mtime_ns]


def digest_of(data: bytes) -> str:
    """Return 128 bits of the sha256 of an item's encoded bytes, as hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]
