"""Records with rankings, and thumbnails of what they rank, to make HTML reports of."""

from __future__ import annotations

import numpy as np

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.report import Material
from attrbench.contracts.task import Items
from attrbench.contracts.thumbnails import Thumbnail, Thumbnails
from attrbench.data.thumbnail_pictures import thumbnail_picture
from attrbench.metrics.agreement import agreement
from attrbench.reports.contact_sheet import Strip
from attrbench.reports.html.attribution import Answered, Answers
from attrbench.reports.html.page import HtmlOptions, HtmlReport
from tests.reports.test_leaderboard import noisy, record

QUERIES, ITEMS, DEPTH = 6, 30, 12
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "<!--<script>",
    '"><svg onload=alert(3)>',
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m",
    "‮txt.exe‬",
    "=cmd()|' /C calc'!A0",
    "x" * 10_000,
    "javascript:alert(4)",
    "' onfocus='alert(5)",
)


def ranked(label, values, seed=0, **parts):
    """A record whose rankings are drawn at random."""
    rng = np.random.default_rng(seed)
    made = record(label, values, **parts)
    return made.model_copy(
        update={
            "ranking": [rng.permutation(ITEMS)[:DEPTH].tolist() for _ in values],
            "query_groups": [str(query % 2) for query in range(len(values))],
            "identity": f"{label}-identity",
            "command": f"attrbench run -m {label} -t t",
        }
    )


def records(**parts):
    """Three ranked runs and a failed one on one task."""
    means = {"good": 0.8, "fair": 0.5, "poor": 0.2}
    made = [
        ranked(label, noisy(mean, seed, QUERIES), seed, **parts) for seed, (label, mean) in enumerate(means.items())
    ]
    return [*made, failed(**parts)]


def failed(**parts):
    return ranked("broken", noisy(0.5, 9, QUERIES), **parts).model_copy(
        update={"status": "failed", "error": "boom", "metrics": [], "ranking": []}
    )


def thumbnails(of, caption="a picture", group=None):
    """Pictures of all that records rank, every one different."""
    shown = {
        item: Thumbnail(
            thumbnail_picture(np.full((8, 8, 1), item, np.uint8)),
            str(item % 2) if group is None else group,
            f"{caption} {item}" if caption == "a picture" else caption,
            f"{item}.png",
        )
        for item in range(ITEMS)
    }
    queries = {
        q: Thumbnail(thumbnail_picture(np.full((8, 8, 1), 200 + q, np.uint8)), str(q % 2)) for q in range(QUERIES)
    }
    fingerprint = of[0].task.fingerprint
    scores = {of[0].identity: [[round(1 - rank / 10, 2) for rank in range(10)] for _ in range(QUERIES)]}
    return {fingerprint: Thumbnails("t", fingerprint, queries, shown, scores)}


def make(given, pictures=None, metric=None, **options):
    """The HTML report of records as text."""
    report = HtmlReport(HtmlOptions(**options))
    return report.make(Material(given, metric, pictures or {})).decode()


def items(n, texts):
    images = np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), np.uint8)
    chosen = [texts[i % len(texts)] for i in range(n)]
    return Items(images, chosen, chosen, "f", names=chosen)


def answers(queries, train, heading, label="m", evidence=None):
    """Answers of two methods about two queries; the first has near-duplicates, and the second query one item of it."""
    first = Ranking(np.array([[3, 1, 2], [2, -1, -1]]), np.array([[1, 0.5, 0.25], [np.nan, 0, 0]], np.float32))
    second = Ranking(np.array([[4, 3, 2], [1, 0, 2]]), np.array([[9, 8, 7], [6, 5, 4]], np.float32))
    settings = {"options": {"v": 64, "text": HOSTILE[0]}, "gradients": [{"noise": "shared", "timesteps": [1.0, 2.0]}]}
    return Answers(
        queries,
        train,
        [Strip(first, f"by {label}", [{0: [2], 1: []}, {0: []}]), Strip(second, "by other")],
        heading,
        [Answered(label, 2, "its scores", settings, 3), Answered("other", 1, "others", {})],
        [agreement((label, "other"), (first.ids, second.ids), (None, None))],
        [("task", HOSTILE[1]), ("fingerprint of model", "abc")],
        evidence,
    )
