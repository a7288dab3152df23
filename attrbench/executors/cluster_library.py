"""Import of the libraries of clusters (Ray, submitit), which are extras, with a clear error where one is missing."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from attrbench.errors import AttrbenchError, import_fault

EXTRAS = {"ray": "ray", "submitit": "slurm"}
"""The extra of attrbench that installs each library."""


def cluster_library(name: Literal["ray", "submitit"]) -> Any:
    """Import and return Ray or submitit.

    Raises:
        AttrbenchError: where the import fails; it says how to install the library.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AttrbenchError(
            f"this executor needs {name}, which {import_fault(name, error)}: pip install 'attrbench[{EXTRAS[name]}]'"
        ) from None
