"""The command line in this process, on caches whose queries are generated already."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attrbench.contracts.record import Record, read_records
from tests.cli.conftest import SMALL, attrbench

__all__ = ["attrbench"]


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    """A cache that holds the queries of `SMALL` and nothing else."""
    import torch

    from attrbench.contracts.task import Workspace
    from attrbench.evaluation.requests import request_tasks
    from attrbench.plugins.registry import registry

    folder = tmp_path_factory.mktemp("generated")
    (request,) = request_tasks(registry(), [SMALL[1]])
    assert len(request.task.open(Workspace(folder, torch.device("cpu"))).queries) == 10
    return folder


@pytest.fixture
def with_queries(generated) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        shutil.copytree(generated / "queries", folder / "queries", dirs_exist_ok=True)
        return folder

    return copy


def records_of(folder: Path) -> dict[str, Record]:
    """By label."""
    records, problems = read_records(folder)
    assert not problems
    return {record.method.label: record for record in records}


def results_of(folder: Path) -> dict[str, dict]:
    """What the records of a folder say, apart from times and memory."""
    kept = ("status", "error", "coverage", "metrics", "query_groups", "ranking", "storage", "task", "method")
    return {label: {name: getattr(record, name) for name in kept} for label, record in records_of(folder).items()}


def stamps(folder: Path, *left_out: Path) -> dict[Path, int]:
    """When each shard, its seal, each index and the queries below a cache were written."""
    files = [path for pattern in ("rows-*", "*.bin", "queries/*.safetensors") for path in folder.rglob(pattern)]
    return {path: path.stat().st_mtime_ns for path in files if path not in left_out}
