"""Index files: built once, kept with the seconds that building took, loaded ever after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from attrbench.errors import AttrbenchError
from attrbench.files import write_atomically

IndexT = TypeVar("IndexT")


@dataclass(frozen=True)
class KeptIndex(Generic[IndexT]):
    """An index and its file.

    Attributes:
        index: the index, in memory.
        bytes: size of its file.
        earlier_seconds: what building took in an earlier run; 0 where it was built just now.
    """

    index: IndexT
    bytes: int
    earlier_seconds: float


def kept_index(
    path: Path, build: Callable[[], IndexT], save: Callable[[IndexT, str], None], load: Callable[[str], IndexT]
) -> KeptIndex[IndexT]:
    """Loads the index at `path`, or builds and saves it.

    The sidecar is written last, so that a file cut off by a kill is never loaded.
    """
    sidecar = path.with_suffix(".json")
    if path.exists() and sidecar.exists():
        about = json.loads(sidecar.read_bytes())
        if path.stat().st_size == about["bytes"]:
            return KeptIndex(load(str(path)), about["bytes"], about["seconds"])
    started = time.perf_counter()
    index = build()
    seconds = time.perf_counter() - started
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save(index, str(part))
        part.replace(path)
        size = path.stat().st_size
        write_atomically(sidecar, json.dumps({"bytes": size, "seconds": seconds}).encode())
    except (OSError, RuntimeError) as error:
        raise AttrbenchError(
            f"cannot keep the index in {path.parent}: {error}; choose another folder with --cache"
        ) from None
    return KeptIndex(index, size, 0.0)
