"""Import of the libraries of approximate search (hnswlib, Faiss), with a clear error if one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal

from attrbench.errors import Unavailable, import_fault

INSTALLATION = {
    "hnswlib": "`pip install hnswlib` compiles it, with a C++ compiler",
    "faiss": "`pip install faiss-cpu`",
}


def search_library(name: Literal["hnswlib", "faiss"]) -> ModuleType:
    """Import and return hnswlib or Faiss; if that fails, raise an error that says how to install it.

    Raises:
        Unavailable: where the import fails; names the library, the reason and how to install it.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library built for another machine fails in many ways
        reason = import_fault(name, error)
        raise Unavailable(
            f"this search needs {name}, which {reason}: {INSTALLATION[name]}; or take search=exact"
        ) from error
