"""Search indexes kept in the cache: an index is built once, then loaded from its file."""

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
    """Return the search index kept in the cache at `path`, built and saved first if missing or damaged.

    Args:
        path: path of the index file.
        summary: one line that describes the index.
        build: returns a new index.
        save: writes an index to a file name.
        load: returns the index stored under a file name.

    Raises:
        AttrbenchError: where the index can't be saved.
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
    """A base class of searches in an index file, with its storage costs and the exact search to compare with.

    Args:
        rows: gradient rows of the training set.
        feature: the feature of the query rows.
        normalize: whether gradients are scaled to unit norm at each timestep.
    """

    _kept: Kept[Any]

    def __init__(self, rows: TrainRows, feature: GradientRows, normalize: bool) -> None:
        self._rows = rows
        self._feature = feature
        self._normalize = normalize

    def size(self) -> StateSize:
        """Return the storage: bytes of the index file, which contains the gradient rows or their codes."""
        return StateSize(index=self._kept.bytes)

    def build_seconds(self) -> float:
        """Return the seconds that building the index took in an earlier run; 0 if this run built it."""
        return self._kept.earlier_seconds

    def exact(self) -> ExactSearch:
        """Return the exhaustive search over the same gradient rows, for comparison and re-ranking."""
        return ExactSearch(self._rows, self._feature, self._normalize)
