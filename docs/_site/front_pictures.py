"""Make the pictures of the front page and of the tutorial: attribution pages, a board on a terminal, reports.

Run by hand, from the root of a checkout, where headless Chromium is: `python -m docs._site.front_pictures`. It runs
methods on `sd14-lora-mini` and `digits-mini`, which takes minutes; what the cache holds is not computed again.
"""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

import attrbench
from attrbench.reports.leaderboard import Leaderboard
from tests.reports.browser import Browser, browser

ASSETS = Path(__file__).parent.parent / "assets"
TASK = "sd14-lora-mini"
METHODS = ["random", "pixel", "ssim", "dmin", "d-trak"]
ASKED = {"prompts": "a playing card, diamonds 2", "picture_seed": 0, "k": 7}
QUERY = 24
"""The query that the gallery shows, one on which methods differ."""
WIDTH = 1200
BOARD = ("lissa", "ekfac", "das", "dmin:v=4096", "caption", "d-trak", "pixel", "random")
"""The published runs that the board shows."""
COLUMNS = ["rank", "method", "score", "bar", "detection-rate@10", "query-p50"]
CHARACTERS = 102


def show(window: Browser, page: Path, name: str, height: int, script: str = "") -> None:
    """Save the upper part of a page, or where a script scrolls to, as a WebP picture in docs/assets."""
    window.open(page, WIDTH, height)
    window.run(script)
    window.picture(page.with_suffix(".png"))
    Image.open(page.with_suffix(".png")).convert("RGB").save(ASSETS / f"{name}.webp", quality=80, method=6)


def draw_board(board: Leaderboard) -> None:
    """Save a leaderboard as a terminal shows it, without the font that rich would load from elsewhere."""
    console = Console(record=True, width=CHARACTERS, file=io.StringIO(), force_terminal=True)
    console.print(board.to_rich(CHARACTERS, COLUMNS))
    layout = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="attrbench leaderboard", theme=MONOKAI, code_format=layout, unique_id="board")
    (ASSETS / "front-board.svg").write_text(svg, encoding="utf-8")


def front(out: Path, window: Browser) -> None:
    """Make the three pictures of the front page."""
    published = attrbench.read_records(f"leaderboards/{TASK}", rankings=False)
    draw_board(attrbench.leaderboard([record for record in published if record.method.label in BOARD]))
    results = attrbench.run(METHODS, TASK, out=out)
    answers = attrbench.attribute(["pixel", "d-trak"], TASK, out=out, **ASKED)
    (out / "attribution.html").write_text(answers.to_html(), encoding="utf-8")
    show(window, out / "attribution.html", "front-attribution", 740)
    attrbench.report(results, out / "report.html", format="html:k=8")
    chosen = f"s.value = '{QUERY}'; s.dispatchEvent(new Event('input', {{bubbles: true}}))"
    show(
        window,
        out / "report.html",
        "front-gallery",
        640,
        f"const s = document.querySelector('select'); {chosen}; {SEEN}",
    )


def tutorial(out: Path, window: Browser) -> None:
    """Make the pictures of the tutorial's page and report."""
    answers = attrbench.attribute(["dmin", "pixel"], "digits-mini", out=out, picture_seed=7, k=5)
    (out / "seven.html").write_text(answers.to_html(), encoding="utf-8")
    show(window, out / "seven.html", "which-training-images-page", 700)
    results = attrbench.run(["random", "pixel", "dmin"], "digits-mini", out=out)
    attrbench.report(results, out / "report.html")
    show(window, out / "report.html", "which-training-images-report", 980)


SEEN = "document.querySelector('.gallery').scrollIntoView()"


def main() -> None:
    """Run the methods, and save the pictures."""
    for make in (front, tutorial):
        with tempfile.TemporaryDirectory() as folder, browser() as window:
            make(Path(folder), window)


if __name__ == "__main__":
    main()
