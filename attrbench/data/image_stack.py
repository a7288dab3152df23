"""Images that lie in several memory-mapped files, used like one array that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

LARGE = 256 * 2**20
"""Bytes above which a slice stays on disk."""

Places = NDArray[np.int64]


class ImageStack(NDArrayOperatorsMixin):
    """The [n, H, W, C] uint8 images of a data set, read from the files that hold them when they are asked for.

    An image, a batch or a slice is a NumPy array, without a copy where its images lie side by side in one file. A slice
    of more than 256 MiB is a stack again. Everything else that arrays can do reads all images into memory first.

    Args:
        files: memory-mapped [k, H, W, C] arrays.
        file: [n] which of them holds each image.
        row: [n] its row there.
    """

    def __init__(self, files: Sequence[NDArray[np.uint8]], file: Places, row: Places) -> None:
        self._files, self._file, self._row = files, file, row
        self.shape = (len(file), *files[0].shape[1:])
        self.ndim = len(self.shape)
        self.dtype = files[0].dtype
        self.nbytes = self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: Any) -> Any:
        items, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if items is Ellipsis or items is None:
            return np.asarray(self)[index]
        if isinstance(items, SupportsIndex) and not isinstance(items, np.ndarray):
            return self._files[self._file[items]][self._row[items]][rest]
        part = ImageStack(self._files, self._file[items], self._row[items])
        if isinstance(items, slice) and part.nbytes > LARGE and not rest:
            return part
        images = part._gathered()
        return images[(slice(None), *rest)] if rest else images

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))

    @property
    def is_in_place(self) -> bool:
        """Return whether all images lie side by side in one file."""
        return len(np.unique(self._file)) == 1 and bool((np.diff(self._row) == 1).all())

    def _gathered(self) -> NDArray[np.uint8]:
        """Return all images as one array: a view where they lie side by side in one file, else a copy."""
        if self.is_in_place:
            side: NDArray[np.uint8] = self._files[self._file[0]][self._row[0] : self._row[0] + len(self)]
            return side
        images = np.empty(self.shape, np.uint8)
        for file in np.unique(self._file):
            here = np.flatnonzero(self._file == file)
            images[here] = self._files[file][self._row[here]]
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        images = self._gathered()
        return images if dtype is None else images.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = (np.asarray(each) if isinstance(each, ImageStack) else each for each in inputs)
        return getattr(ufunc, method)(*arrays, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def stacked(files: Sequence[NDArray[np.uint8]], file: Places, row: Places) -> NDArray[np.uint8]:
    """Return images of memory-mapped files as an array if they lie side by side in one, else as an `ImageStack`."""
    stack: Any = ImageStack(files, file, row)  # used like an array
    whole: NDArray[np.uint8] = stack._gathered() if stack.is_in_place else stack
    return whole
