"""Measurement of the memory that an object such as a scorer holds: all arrays and tensors reachable from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.method import Context, Method
from attrbench.features.views import TrainRows
from attrbench.gradients.samples import NoisySamples

_NOT_HELD = (Context, Denoiser, Method, NoisySamples, ModuleType, torch.nn.Module, type, PurePath, str)
"""Types that belong to the run or hold no arrays; they are not followed."""
_INDEXES = ("faiss", "hnswlib")


@dataclass
class Holdings:
    """The memory of arrays and tensors reachable from an object: total bytes, the largest, and unmeasurable indexes.

    Attributes:
        bytes: size of arrays, tensors and byte strings, shared memory counted once; stored rows by their size on disk.
        largest: attribute path and bytes of the largest of them.
        indexes: attribute paths of search indexes, whose contents can't be measured.
    """

    bytes: int = 0
    largest: tuple[str, int] = ("nothing", 0)
    indexes: list[str] = field(default_factory=list)

    def add(self, path: str, size: int) -> None:
        """Count an array of `size` bytes that was found at an attribute path, and remember the largest."""
        self.bytes += size
        if size > self.largest[1]:
            self.largest = (path, size)


def holdings(root: object, name: str) -> Holdings:
    """Return the memory of all arrays reachable from `root` by attributes, containers and closures."""
    total = Holdings()
    seen: dict[int, object] = {}  # keeps what it has seen alive, so that no id comes twice
    todo: list[tuple[str, object]] = [(name, root)]
    while todo:
        path, value = todo.pop()
        if value is None or isinstance(value, _NOT_HELD) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, np.ndarray):
            owner = _owner(value)
            if owner is value or id(owner) not in seen:
                seen[id(owner)] = owner
                total.add(path, owner.nbytes)
        elif isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            if storage.data_ptr() not in seen:
                seen[storage.data_ptr()] = storage
                total.add(path, storage.nbytes())
        elif isinstance(value, bytes | bytearray):
            total.add(path, len(value))
        elif (rows := _as_rows(value)) is not None:
            total.add(path, rows.count * rows.row_bytes)
        elif type(value).__module__.partition(".")[0] in _INDEXES:
            total.indexes.append(path)
        else:
            todo += _within(path, value)
    return total


def _owner(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the array that owns the memory of a NumPy view, so that shared memory is counted once."""
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array


def _as_rows(value: Any) -> TrainRows | None:
    """Return the value if it has the attributes of `TrainRows` (stored gradient rows), else None."""
    names = ("row_bytes", "count", "width", "blocks", "take")
    return value if all(hasattr(value, name) for name in names) else None


def _within(path: str, value: Any) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(f"{path}[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, partial):
        return [(path, value.func), (path, value.args), (path, value.keywords)]
    if isinstance(value, MethodType):
        return [(path, value.__self__), (path, value.__func__)]
    if isinstance(value, FunctionType):
        ours = (value.__module__ or "").partition(".")[0] == "attrbench"
        return [] if ours else [(path, cell.cell_contents) for cell in value.__closure__ or () if _filled(cell)]
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    attributes = {name: getattr(value, name, None) for name in slots if not name.startswith("__")}
    attributes |= getattr(value, "__dict__", {})
    return [(f"{path}.{name}", part) for name, part in attributes.items()]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
