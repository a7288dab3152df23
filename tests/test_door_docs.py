"""The snippets of the pages on what a plugin can bring run as they stand, in the order of their page."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from attrbench.plugins.registry import Plugin, Registry
from tests.executors.tiny_methods import Losses, NoEdit
from tests.executors.tiny_task import compute_features, settings, shard_bytes

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"
PAGES = ("own-feature-kind", "edited-weights", "own-executor")


def blocks(page):
    text = (HOW_TO / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module", params=PAGES)
def ran(request, tmp_path_factory):
    """The page's name, and the names that its snippets leave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp(request.param))
        names = {"__name__": "a_page_without_file"}
        for block in blocks(request.param):
            exec(compile(block, f"{request.param}.md", "exec", dont_inherit=True), names)
        yield request.param, names


def test_the_snippets_of_the_page_run_and_do_what_it_says(ran, tmp_path):
    page, names = ran
    if page == "own-executor":
        executor = names["OneThread"](names["OneThread"].Options(patience=2))
        compute_features(settings(tmp_path, "threads"), [Losses(), NoEdit()], executor)
        compute_features(settings(tmp_path, "inline"), [Losses(), NoEdit()])
        assert shard_bytes(tmp_path / "threads") == shard_bytes(tmp_path / "inline")
        return
    (record,) = names["results"].records
    assert record.status == "limited"
    (scores,) = [names["results"].scores(record.method.label)]
    assert scores.shape == (2, 20) and np.isfinite(scores).all() and scores.std() > 0


@pytest.mark.parametrize("page", PAGES)
def test_hooks_on_the_page_are_hooks(page):
    for block in blocks(page):
        if "hookimpl" not in block:
            continue
        module = ModuleType("page")
        exec(compile(block, page, "exec", dont_inherit=True), vars(module))
        plugin = Plugin("page", "page", "0")
        Registry().load(plugin, lambda module=module: module)
        assert plugin.error is None
        assert any(plugin.provides.values())
