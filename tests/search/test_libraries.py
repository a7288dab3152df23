"""Without hnswlib or Faiss everything works but the searches that need them, and these say what is missing."""

import sys

import pytest

from attrbench.contracts.options import build_options, parse_spec
from attrbench.errors import Unavailable
from attrbench.plugins.registry import registry
from attrbench.search.faiss_index import make_index
from attrbench.search.hnsw import HNSWGraph, HNSWSearch
from attrbench.search.libraries import search_library
from tests.cli.conftest import SMALL, attrbench

__all__ = ["attrbench"]


@pytest.fixture
def without(monkeypatch):
    """Make libraries as if they were not installed."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def method(text):
    (spec,) = parse_spec(text)
    kind = registry().method(spec.name)
    return kind(build_options("method", spec, kind.Options))


@pytest.mark.parametrize(("search", "library"), [("hnsw", "hnswlib"), ("faiss", "faiss")])
def test_the_line_names_the_library_and_how_to_get_it(without, search, library):
    without("hnswlib", "faiss")
    expected = f"{library}, which is not installed: `pip install {library}.*exact"
    with pytest.raises(Unavailable, match=expected) as raised:
        method(f"dmin:search={search}").check(100)
    assert "\n" not in str(raised.value)


def test_a_library_that_fails_while_it_is_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "hnswlib.py").write_text("raise OSError('wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hnswlib", raising=False)
    with pytest.raises(Unavailable, match=r"does not import \(.*wrong ELF class"):
        search_library("hnswlib")


def test_indexes_refuse_at_the_latest_when_they_are_built(without, tmp_path):
    without("hnswlib", "faiss")
    with pytest.raises(Unavailable, match="faiss"):
        make_index("Flat", 4)
    rows = type("Rows", (), {"count": 3, "width": 4})()
    with pytest.raises(Unavailable, match="hnswlib"):
        HNSWSearch(rows, None, True, HNSWGraph(), 10, tmp_path, "key")


def test_the_exact_search_needs_neither(without):
    without("hnswlib", "faiss")
    method("dmin").check(100)


def test_the_command_line_refuses_before_anything_is_computed(without, attrbench, tmp_path):
    without("hnswlib")
    done = attrbench("run", "-m", "dmin:search=hnsw", *SMALL, "--out", tmp_path / "out")
    assert done.code == 1
    (line,) = done.complaint
    assert "hnswlib" in line
    assert not (tmp_path / "out").exists()
