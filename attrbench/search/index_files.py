"""Index files: built once, kept with the seconds that building took, loaded ever after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrbench.contracts.method import Scorer, StateSize
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.views import TrainRows
from attrbench.search.exact import ExactSearch
from attrbench.store.artifacts import Artifact, Kept

IndexT = TypeVar("IndexT")


def kept_index(
    path: Path,
    summary: str,
    build: Callable[[], IndexT],
    save: Callable[[IndexT, str], None],
    load: Callable[[str], IndexT],
) -> Kept[IndexT]:
    """Load the index at `path`; build and save it before, where it is missing or damaged.

    Args:
        path: of the index file.
        summary: one line for people that says which index it is.
        build: makes the index in memory, from which it is not loaded again.
        save: writes it to a file.
        load: reads it from there.

    Raises:
        AttrbenchError: where it can't be saved.
    """
    built: list[IndexT] = []

    def make(part: Path) -> None:
        built.append(build())
        try:
            save(built[0], str(part))
        except RuntimeError as error:  # how hnswlib and Faiss say that they can't write
            raise AttrbenchError(
                f"cannot write to the cache {path.parent}: {error}; choose another folder with --cache"
            ) from None

    index = Artifact(path, "index", summary)
    return index.kept(make, lambda file, _: built[0] if built else load(str(file)))


class IndexSearch(Scorer):
    """A search in a kept index: what its file costs, and the exhaustive search that it is measured against."""

    _rows: TrainRows
    _feature: GradientRows
    _normalize: bool
    _kept: Kept[Any]

    def size(self) -> StateSize:
        """The index file, which holds the rows or their codes."""
        return StateSize(index=self._kept.bytes)

    def build_seconds(self) -> float:
        """What building the index took, where it was loaded."""
        return self._kept.earlier_seconds

    def exact(self) -> ExactSearch:
        """Exhaustive search over the same rows."""
        return ExactSearch(self._rows, self._feature, self._normalize)
