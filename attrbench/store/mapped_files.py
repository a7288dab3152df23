"""Memory maps of safetensors files, of which nothing is read before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ODD_HEADER = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""Errors that `map_safetensors` raises over a header that is not what was written."""
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "U16": np.uint16, "U8": np.uint8, "I8": np.int8}


def map_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file as read-only memory maps, name -> array, without loading them."""
    data = np.memmap(path, np.uint8, "r")  # one map for all: Linux allows a process 65,530
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    header.pop("__metadata__", None)
    places = {name: slice(*(start + offset for offset in entry["data_offsets"])) for name, entry in header.items()}
    return {
        name: data[places[name]].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()
    }
