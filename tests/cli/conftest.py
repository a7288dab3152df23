"""Running the command line inside the test process, on the first items of digits-mini."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attrbench.cli.app import main
from tests.data.making import captioned
from tests.taskfile.making import write_task

SMALL = ("-t", "digits-mini:queries_per_group=1", "--limit-train", "128", "--device", "cpu")


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> list[str]:
        """The lines on standard error that report an error."""
        return [line for line in self.err.splitlines() if line.startswith("attrbench: error:")]


@pytest.fixture
def attrbench(monkeypatch, capfd):
    """Run a command; each folder of records has a cache of its own."""
    monkeypatch.delenv("ATTRBENCH_CACHE", raising=False)
    monkeypatch.setattr("attrbench.evaluation.folders.default_cache", lambda out: out / "cache")

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["attrbench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache for all tests that do not damage it; the generated queries are in it after the first."""
    return tmp_path_factory.mktemp("cache")


OWN_ITEMS = 10
"""Training images of the task file `own`."""


@pytest.fixture
def own(tmp_path, tiny_folder) -> Path:
    """A task file with a tiny DDPM and `OWN_ITEMS` captioned images."""
    captioned(tmp_path / "images", OWN_ITEMS)
    model = {"model": str(tiny_folder), "sampling_steps": 2}
    return write_task(tmp_path / "own.toml", model=model, train={"path": "images", "group_column": "family"})
