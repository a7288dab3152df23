"""Silencing of log messages and progress bars of diffusers and transformers while models are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from attrbench.models.late import diffusers, transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages below errors and progress bars of diffusers and transformers inside the `with` block."""
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    verbosities, bars = [library.get_verbosity() for library in libraries], not are_progress_bars_disabled()
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
