"""Make the three pictures of the front page: an attribution page, the board on a terminal, and a report's gallery.

Run by hand, from the root of a checkout, where headless Chromium is: `python -m docs._site.front_pictures`. It runs
five methods on `sd14-lora-mini`, which takes minutes; what the cache holds is not computed again.
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
ASKED = {"prompts": "a flat emoji of rose", "picture_seed": 4, "k": 7}
WIDTH, HEIGHT = 1200, 720
COLUMNS = 100


def shown(window: Browser, page: Path, name: str, script: str = "") -> None:
    """Save what a window shows of a page as a WebP picture in docs/assets."""
    window.open(page, WIDTH, HEIGHT)
    window.run(script)
    window.picture(page.with_suffix(".png"))
    Image.open(page.with_suffix(".png")).convert("RGB").save(ASSETS / f"{name}.webp", quality=80, method=6)


def draw_board(board: Leaderboard) -> None:
    """Save a leaderboard as a terminal shows it, without the font that rich would load from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(board.to_rich(COLUMNS))
    layout = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="attrbench leaderboard", theme=MONOKAI, code_format=layout, unique_id="board")
    (ASSETS / "front-board.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Run the methods, and save the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        results = attrbench.run(METHODS, TASK, out=out)
        draw_board(results.leaderboard())
        attrbench.report(results, out / "report.html")
        answers = attrbench.attribute(["pixel", "d-trak"], TASK, out=out, **ASKED)
        (out / "attribution.html").write_text(answers.to_html(), encoding="utf-8")
        with browser() as window:
            shown(window, out / "attribution.html", "front-attribution")
            opened = "document.querySelector('.gallery').scrollIntoView()"
            shown(window, out / "report.html", "front-gallery", opened)


if __name__ == "__main__":
    main()
