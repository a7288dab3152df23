"""The script of docs/explanation/ground-truth.md that scores the first items of a method alone gives what it says."""

import re
from pathlib import Path

import attrbench

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "ground-truth.md"


def test_the_first_items_of_pixel_alone_have_the_score_that_the_page_says(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"`head\.py`:\n\n```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    names = {"__name__": "head"}
    exec(compile(script, "head.py", "exec"), names)
    results = attrbench.run(
        ["pixel", names["head_of"]("pixel")], "digits-mini", cache=tmp_path / "cache", out=tmp_path / "out"
    )
    head, whole = re.search(r"`pixel` has (0\.\d{3}) in place of (0\.\d{3})", page).groups()
    found = {record.method.label: f"{record.metric('lds').value:.3f}" for record in results.records}
    assert found == {"pixel": whole, "pixel-head": head}
