"""Cells of a notebook, and a small task to run them on."""

from __future__ import annotations

import textwrap
import types

import pytest

from attrbench.conformance.toy_task import ToyTask


class Notebook:
    """Cells that run one after the other in a module without a file."""

    def __init__(self):
        self.module = types.ModuleType("a_notebook")

    def run(self, cell):
        exec(compile(textwrap.dedent(cell), "<cell>", "exec"), self.module.__dict__)
        return self.module


@pytest.fixture
def notebook():
    return Notebook()


@pytest.fixture
def toy():
    return ToyTask(ToyTask.Options())


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTRBENCH_CACHE", str(tmp_path / "results" / "cache"))
    monkeypatch.setenv("ATTRBENCH_OUT", str(tmp_path / "results"))
