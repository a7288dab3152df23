"""Encoding of gradient rows for storage as float32, float16, bfloat16, or int8 with scales of 1,024 numbers.

Decoding gives float32. bfloat16 is stored as the upper 16 bits of float32, in uint16 (numpy has no bfloat16).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RowType = Literal["float32", "float16", "bfloat16", "int8"]
SCALED = 1024
_BYTES: dict[RowType, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Codes:
    """A block of gradient rows as int8 stores them: numbers, with a scale for each group of up to 1,024 of them.

    Attributes:
        numbers: [items, T, w].
        scales: [items, T, groups].
    """

    numbers: NDArray[np.int8]
    scales: NDArray[np.float32]


def row_bytes(dtype: RowType, steps: int, width: int) -> int:
    """Return the bytes that one stored gradient row of [steps, width] numbers takes in a storage type."""
    scales = 4 * -(-width // SCALED) if dtype == "int8" else 0
    return steps * (_BYTES[dtype] * width + scales)


def encode_rows(rows: NDArray[np.float32], dtype: RowType) -> dict[str, NDArray[Any]]:
    """Encode gradient rows [items, T, w] in a storage type: `rows`, and for int8 `scales` [items, T, groups]."""
    if dtype == "float32":
        return {"rows": rows}
    if dtype == "float16":
        return {"rows": rows.astype(np.float16)}
    if dtype == "bfloat16":
        bits = rows.view(np.uint32)
        nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # ties to even
        return {"rows": (nearest >> np.uint32(16)).astype(np.uint16)}
    groups = _grouped(rows)
    scales = np.abs(groups).max(axis=-1) / np.float32(127)
    codes = np.rint(groups / np.where(scales == 0, np.float32(1), scales)[..., None])
    codes = codes.clip(-127, 127).astype(np.int8)  # a denormal scale may have been rounded down
    return {"rows": codes.reshape(*rows.shape[:-1], -1)[..., : rows.shape[-1]], "scales": scales}


def decode_rows(arrays: Mapping[str, NDArray[Any]], items: Any = slice(None)) -> NDArray[np.float32]:
    """Decode stored gradient rows to [items, T, w] float32; rows stored as float32 are not copied.

    Args:
        arrays: the arrays of `encode_rows`, as read from a shard.
        items: index into the first dimension that selects rows.
    """
    rows: NDArray[Any] = arrays["rows"][items]
    if rows.dtype in (np.float32, np.float16):
        return np.asarray(rows, np.float32)
    if rows.dtype == np.uint16:
        widened: NDArray[np.float32] = (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    decoded: NDArray[np.float32] = rows.astype(np.float32)
    scales = arrays["scales"][items]
    if decoded.shape[-1] % SCALED == 0:
        grouped = decoded.reshape(*scales.shape, SCALED)  # a view
        grouped *= scales[..., None]
        return decoded
    for group in range(scales.shape[-1]):
        decoded[..., group * SCALED : (group + 1) * SCALED] *= scales[..., group, None]
    return decoded


def relative_error(rows: NDArray[np.float32], arrays: Mapping[str, NDArray[Any]]) -> float:
    """Return the relative error of storing gradient rows: the root mean square of |decoded - row| / |row|."""
    if arrays["rows"].dtype == np.float32:
        return 0.0
    norms = np.linalg.norm(rows, axis=-1)
    errors = np.linalg.norm(decode_rows(arrays) - rows, axis=-1)
    there = norms > 0
    return float(np.sqrt(np.mean(np.square(errors[there] / norms[there])))) if there.any() else 0.0


def _grouped(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows padded with zeros and reshaped to [..., groups, 1024], one group for each int8 scale."""
    missing = -rows.shape[-1] % SCALED
    padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)]) if missing else rows
    return padded.reshape(*rows.shape[:-1], -1, SCALED)
