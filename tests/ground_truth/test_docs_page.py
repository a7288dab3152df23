"""The code on the page about ground truths runs, and the ground truth that it defines is measured on a task."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from attrbench.contracts.options import Options, Spec
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import Plugin, load_registry
from tests.ground_truth.tiny_trainable import QUERIES, TinyTrainable

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "ground-truth.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = [
    "\n" * TEXT[: found.start(1)].count("\n") + found[1]  # on the lines of the page, where pydantic reads
    for found in re.finditer(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
]


@pytest.fixture
def page(monkeypatch):
    """Everything that the page's code defines, in the module that it registers."""
    package, module = ModuleType("my_package"), ModuleType("my_package.without_top")
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), vars(module))
    monkeypatch.setitem(sys.modules, "my_package", package)
    monkeypatch.setitem(sys.modules, "my_package.without_top", module)
    return vars(module)


def test_the_ground_truth_of_the_page_is_measured_where_it_is_named(page, tmp_path):
    registry = load_registry()
    plugin = Plugin("page", "tests", "0")
    registry.load(plugin, lambda: SimpleNamespace(register_ground_truths=page["register_ground_truths"]))
    assert plugin.error is None
    request = TaskRequest(Spec("tiny-trainable", {}), TinyTrainable(Options()))
    settings = RunSettings(out=tmp_path, cache=tmp_path / "cache", ground_truths=("without-top:count=6",))
    run = TaskRun(registry, request, request_methods(registry, ["pixel"]), settings, Silent())
    (record,) = [result.record for result in run.results()]
    assert (record.status, record.error) == ("complete", None)
    rise = record.metrics[0]
    assert rise.metric == "loss-rise" and len(rise.per_query) == QUERIES and np.ptp(rise.per_query) > 0
    assert record.facts["removed"] == 6
    assert len(list((tmp_path / "cache" / "retrained").glob("*.safetensors"))) == 2
