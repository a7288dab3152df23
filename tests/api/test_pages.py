"""What docs/how-to/python-api.md and the example notebook show is what happens."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
HOW_TO = DOCS / "how-to"
PAGE = (HOW_TO / "python-api.md").read_text(encoding="utf-8")


def test_every_snippet_of_the_page_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 9
    names = {"__name__": "a_page_without_file"}
    for snippet in snippets:
        exec(compile(snippet, "docs/how-to/python-api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "thumbnail:side=1" in printed
    assert "passed []" in printed
    assert (tmp_path / "pixel.png").is_file() and (tmp_path / "attributed.png").is_file()
    assert (tmp_path / "evidence.png").is_file()
    assert (tmp_path / "attributed.html").read_text(encoding="utf-8").count("data:image/png") >= 5
    assert names["answer"].ranking.ids[0, 0] == 7


def test_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links
    assert [link for link in links if not (HOW_TO / link).is_file()] == []


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs the notebook: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="ipykernel runs the notebook: pip install nbclient ipykernel")
    import nbformat

    notebook = nbformat.read(DOCS / "notebooks" / "first-method.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ATTRBENCH_OUT", raising=False)
        patch.setenv("ATTRBENCH_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    return notebook


def outputs(notebook, kind):
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def test_the_notebook_runs_and_its_edited_method_gives_other_results(executed):
    printed = "".join(o.text for cell in executed.cells for o in cell.get("outputs", ()) if o.get("name") == "stdout")
    found = re.search(r"detection rate: (\S+) before, (\S+) after; the rankings differ: True", printed)
    assert found is not None, printed
    assert found[1] != found[2]
    assert "True" in outputs(executed, "text/plain")  # the record of the same run was there


def test_the_notebook_draws_its_leaderboards(executed):
    tables = [html for html in outputs(executed, "text/html") if "<table" in html]
    assert len(tables) == 2
    assert all("profile" in table and "pixel" in table and "<script" not in table for table in tables)


def test_the_notebook_shows_three_rankings_as_a_picture(executed):
    (png,) = outputs(executed, "image/png")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
    framed = np.all(picture == (0xC0, 0x30, 0x30), axis=2).any(axis=1)
    assert np.count_nonzero(np.diff(framed.astype(int)) == 1) == 3  # three queries, each in its frame
    assert picture.std() > 20
