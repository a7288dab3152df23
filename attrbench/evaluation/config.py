"""Build the settings and the progress reporter of a run from user arguments and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrbench.contracts.feature import Engine
from attrbench.evaluation.folders import best_device, cache_folder, results_folder
from attrbench.evaluation.progress import Reporter, Silent, TerminalReporter
from attrbench.evaluation.requests import RunSettings


def run_settings(
    out: str | Path | None,
    cache: str | Path | None,
    device: str | None,
    batch_size: int | None,
    backend: str,
    **others: Any,
) -> RunSettings:
    """Return the settings of a run; None is the default of folders and device, and finds the batch size."""
    return RunSettings(
        out=results_folder(out),
        cache=cache_folder(cache, out),
        device=best_device() if device is None else device,
        engine=Engine(backend, batch_size),
        **others,
    )


def reporter(progress: bool | Reporter) -> Reporter:
    """Return the reporter that is given; for True one that shows stages on standard error, for False a silent one."""
    if isinstance(progress, bool):
        return TerminalReporter() if progress else Silent()
    return progress
