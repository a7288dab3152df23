"""A graph of nearest neighbors that does not fit into memory is refused before anything is read or computed."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from attrbench.errors import AttrbenchError
from attrbench.evaluation.requests import request_methods
from attrbench.plugins.registry import registry
from attrbench.search.hnsw import HNSWGraph, HNSWSearch, check_memory


@pytest.fixture
def free(monkeypatch):
    def set_free(count):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    return set_free


def test_a_million_rows_say_what_they_need_and_what_needs_less(free):
    free(16e9)
    (method,) = request_methods(registry(), ["dmin:search=hnsw"])
    method.method.check(10_000)
    with pytest.raises(AttrbenchError, match=r"about 82\.2 GB, 16\.0 GB are free; .*rerank") as caught:
        method.method.check(1_000_000)
    assert "\n" not in str(caught.value)


def test_no_row_is_read_of_a_graph_that_does_not_fit(free, tmp_path):
    free(1e6)
    rows = SimpleNamespace(count=1_000, width=1_000, blocks=lambda: pytest.fail("rows are read"))
    with pytest.raises(AttrbenchError, match="in memory"):
        HNSWSearch(rows, None, True, HNSWGraph(), 10, tmp_path, "key")


def test_what_a_graph_is_said_to_need_is_about_what_hnswlib_writes(free, tmp_path):
    hnswlib = pytest.importorskip("hnswlib")
    count, width, graph = 2_000, 50, HNSWGraph(m=8)
    index = hnswlib.Index(space="ip", dim=width)
    index.init_index(count, 20, graph.m, graph.seed)
    index.add_items(np.random.default_rng(0).random((count, width), np.float32))
    free(index.index_file_size())
    with pytest.raises(AttrbenchError):
        check_memory(count, width, graph)
    free(1.5 * index.index_file_size())
    check_memory(count, width, graph)
