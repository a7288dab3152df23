"""The parts of the HTML report: scales, Pareto fronts, labels, strips, differences and agreement."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr

from attrbench.contracts.ranking import Ranking
from attrbench.contracts.record import TrainingNoise
from attrbench.errors import UsageError
from attrbench.metrics.comparisons import better_runs
from attrbench.metrics.intervals import paired_difference
from attrbench.reports.contact_sheet import Heading, Strip
from attrbench.reports.html.agreement import FEWEST, agreement, make_agreement
from attrbench.reports.html.attribution import MOST_IN_NOTEBOOK, attribution_fragment, attribution_page
from attrbench.reports.html.board import make_board
from attrbench.reports.html.plot import BOTTOM, CHARACTER, LEFT, LINE, RIGHT, TOP, WIDTH, Guide, Mark, place_labels
from attrbench.reports.html.plots import criterion_plots, curve_plots, pareto_plots
from attrbench.reports.html.queries import CELL, HEAD, ROW, SHADES, make_differences, make_strip
from attrbench.reports.html.scale import Scale, linear, logarithmic
from attrbench.reports.html.templates import breakable
from attrbench.reports.html_table import to_html
from attrbench.reports.leaderboard import rank_records
from attrbench.reports.ranking import build_tables
from tests.reports.html_material import HOSTILE, QUERIES, answers, items, ranked, records
from tests.reports.test_leaderboard import noisy


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.013), (-3, 7), (120, 900), (0.5, 0.50001)])
def test_ticks_of_a_linear_scale_are_round_inside_and_equally_far_apart(low, high):
    ticks = Scale(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert np.allclose(np.diff(ticks, 2), 0)


@pytest.mark.parametrize(("low", "high"), [(1, 1e9), (2.1, 4.9), (1e-5, 3e-5), (16, 3e8)])
def test_ticks_of_a_logarithmic_scale_are_inside_and_few(low, high):
    ticks = Scale(low, high, 0, 100, logarithmic=True).ticks()
    assert 1 <= len(ticks) <= 7 and all(low <= tick <= high for tick in ticks)


def test_a_scale_is_monotonous_from_end_to_end():
    for scale in (linear([0.2, 0.9], 10, 90), logarithmic([3, 5000], 10, 90), linear([-1, -1], 10, 90)):
        assert scale.at(scale.low) == 10 and scale.at(scale.high) == 90
        places = [scale.at(v) for v in np.linspace(scale.low, scale.high, 20)]
        assert places == sorted(places)
        assert scale.at(scale.high * 100 + 100) == 90  # beyond its end


def test_the_line_of_a_pareto_plot_goes_through_runs_that_no_other_beats_in_both():
    runs = [
        ranked("cheap", noisy(0.3, 1, QUERIES), rows=10),
        ranked("middle", noisy(0.5, 2, QUERIES), rows=1000),
        ranked("wasteful", noisy(0.4, 3, QUERIES), rows=5000),
        ranked("best", noisy(0.9, 4, QUERIES), rows=100_000),
    ]
    (table,) = build_tables(runs)
    plot = pareto_plots(table)[0]
    place = {mark.title.split(":")[0]: (mark.x, mark.y) for mark in plot.marks}
    points = [tuple(map(float, point.split(","))) for point in plot.lines[0].points.split()]
    assert [point for point in points if point in place.values()] == [place[n] for n in ("cheap", "middle", "best")]
    assert points[-1] == (RIGHT, place["best"][1])
    assert place["cheap"][0] < place["middle"][0] < place["wasteful"][0] < place["best"][0]
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in place.values())


def test_a_run_that_stores_nothing_has_a_place_of_its_own_at_the_left():
    (table,) = build_tables([ranked("none", noisy(0.5, 1, QUERIES), rows=0), ranked("some", noisy(0.4, 2, QUERIES))])
    plot = pareto_plots(table)[0]
    assert (plot.x_ticks[0].at, plot.x_ticks[0].text) == (LEFT, "none")
    assert {mark.title.split(":")[0]: mark.x for mark in plot.marks}["none"] == LEFT
    assert all(tick.at >= LEFT + 40 for tick in plot.x_ticks[1:])


@pytest.mark.parametrize("kind", ["random", "ceiling"])
def test_no_label_covers_the_name_of_a_guide(kind):
    guide = Guide(150.0, "no change", kind)
    mark = Mark(RIGHT - 190.0, 150.0 + (8 if kind == "random" else -8), "other", "")
    ((beside,), (away,)) = (place_labels([(mark, "class-matched random")], [mark], g) for g in ((), (guide,)))
    assert abs(beside.y - guide.text_y) < LINE  # where nothing else is, it stands beside its mark
    assert abs(away.y - guide.text_y) >= LINE - 4 or away.anchor == "end"


def test_labels_cover_neither_marks_nor_each_other_nor_leave_the_plot():
    rng = np.random.default_rng(0)
    marks = [Mark(float(x), float(y), "other", "") for x, y in rng.uniform((LEFT, TOP), (RIGHT, BOTTOM), (40, 2))]
    labels = place_labels([(mark, "a-method:damping=0.01") for mark in marks], marks)
    assert len(labels) > 5
    boxes = []
    for label in labels:
        width = len(label.text) * CHARACTER
        left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
        boxes.append((left, label.y - 4 - LINE / 2, left + width, label.y - 4 + LINE / 2))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= LEFT and right <= WIDTH and bottom <= BOTTOM
        assert not any(left < mark.x < right and top < mark.y < bottom for mark in marks)
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_curves_and_criteria_need_several_cut_offs_and_several_metrics():
    (table,) = build_tables(records())
    assert curve_plots(table) == [] and criterion_plots(table) == []
    more = []
    for run in records()[:3]:
        first = run.metrics[0]
        others = [
            first.model_copy(update={"k": 5, "value": first.value / 2}),
            first.model_copy(update={"metric": "lds", "k": None}),
        ]
        more.append(run.model_copy(update={"metrics": [first, *others]}))
    (table,) = build_tables(more)
    (curves,) = curve_plots(table)
    assert [tick.text for tick in curves.x_ticks] == ["1", "5"]
    (criteria,) = criterion_plots(table)
    assert criteria.title == "d@1 against lds" and "rank correlation 1.00" in criteria.description


def test_a_strip_has_one_cell_for_each_run_and_query_and_the_shade_of_its_value():
    (table,) = build_tables(records())
    strip = make_strip(table)
    cells = {}
    for shade in strip.shades:
        for part in shade.path.split("z")[:-1]:
            x, rest = part.removeprefix("M").split(" ")
            y, width = rest.split("v")[0].split("h")
            for step in range(int(width) // CELL):
                cells[(int(y) - HEAD) // ROW, int(x) // CELL + step] = shade.number
    assert cells.keys() == {(row, query) for row in range(3) for query in range(QUERIES)}
    order = sorted(range(QUERIES), key=lambda query: (query % 2, query))  # by group
    values = np.array([row.record.metrics[0].per_query for row in table.ranked])[:, order]
    expected = np.rint((values - values.min()) / np.ptp(values) * SHADES)
    assert all(cells[place] == expected[place] for place in cells)
    assert list(strip.names) == ["good", "fair", "poor"]
    assert [group for _, group in strip.groups] == ["0", "1"]


def test_paired_differences_are_those_of_the_leaderboards_comparison():
    (table,) = build_tables(records())
    differences = make_differences(table)
    best = table.ranked[0].record.metrics[0]
    assert differences.best == "good"
    for row, ranked_row in zip(differences.rows, table.ranked[1:], strict=True):
        own = ranked_row.record.metrics[0]
        low, high = paired_difference(own.per_query, best.per_query)
        assert math.isclose(row.value, own.value - best.value)
        assert row.interval == f"[{low:+.3f}, {high:+.3f}]" and row.separated == (high < 0)
        assert row.wins + row.equal + row.losses == QUERIES
        assert row.losses == sum(a < b for a, b in zip(own.per_query, best.per_query, strict=True))


def test_differences_of_retrained_models_cover_the_training_seeds_as_the_ranks_do():
    def retrained(label, mean, seed):
        made = ranked(label, noisy(mean, seed, 8))
        part = {"clusters": 2, "noise": TrainingNoise(error=0.02, freedom=4)}
        return made.model_copy(update={"metrics": [made.metrics[0].model_copy(update=part)]})

    for gap in (0.0, 0.05, 0.1, 0.15, 0.3):
        (table,) = build_tables([retrained("a", 0.6, 1), retrained("b", 0.6 - gap, 2)])
        (row,) = make_differences(table).rows
        results = [each.record.metrics[0] for each in table.ranked]
        assert row.separated == (better_runs(results).sum() == 1)


def test_agreement_is_overlap_of_the_top_and_correlation_of_shared_ranks():
    rng = np.random.default_rng(1)
    rankings = [[rng.permutation(25)[:20].tolist() for _ in range(4)] for _ in range(3)]
    overlap, correlation = agreement(rankings)
    for a in range(3):
        for b in range(3):
            shares, known = [], []
            for one, two in zip(rankings[a], rankings[b], strict=True):
                shares.append(len({*one[:10]} & {*two[:10]}) / 10)
                both = sorted({*one} & {*two})
                known.append(pearsonr([one.index(i) for i in both], [two.index(i) for i in both]).statistic)
            assert math.isclose(overlap[a, b], np.mean(shares))
            assert math.isclose(correlation[a, b], np.mean(known), abs_tol=1e-9)
    assert np.allclose(np.diag(correlation), 1) and np.allclose(np.diag(overlap), 1)


def test_rankings_that_share_too_little_have_no_correlation_and_missing_items_count_for_nothing():
    overlap, correlation = agreement([[[1, 2, 3, 4, 5, 6]], [[11, 12, 13, 14, 15, 1]], [[1, 2, -1, -1, -1, -1]]])
    assert FEWEST > 1 and np.isnan(correlation[0, 1]) and np.isnan(correlation[0, 2])
    assert correlation[0, 0] == pytest.approx(1)
    assert overlap[0, 1] == pytest.approx(0.5) and make_agreement(build_tables(records()[:1])[0]) is None


def test_a_label_may_break_after_its_signs_and_stays_text():
    assert breakable("dmin:v=1,x|y") == "dmin:<wbr>v=<wbr>1,<wbr>x|<wbr>y"
    assert "<b>" not in breakable("<b>:x")


def test_a_notebook_gets_boards_and_plots_without_script_and_a_style_of_its_own():
    html = to_html(build_tables(records()))
    assert html.count("<table") == 1 and html.count('class="plot"') == 2 and "<script" not in html
    style = html.split("<style>")[1].split("</style>")[0]
    rules = [line for line in style.splitlines() if "{" in line and not line.strip().startswith("@media")]
    assert all(".attrbench" in line for line in rules)
    assert to_html([]).count("no records") == 1


def test_the_page_of_an_attribution_shows_what_was_found_as_text():
    queries, train = items(2, ["a", "b"]), items(20, ["a", *HOSTILE[:5]])
    heading = Heading("Method <m>, task t", "a summary", ["beware of <this>"])
    html = attribution_page(answers(queries, train, heading, "<m>")).decode()
    assert "beware of &lt;this&gt;" in html and "<m>" not in html and "<svg onload" not in html
    data = html.split('id="g-data">')[1].split("</script>")[0]
    assert '"ids":[[3,1],[2]]' in data and '"scores":[[-3,1000,500],[-3,null]]' in data
    assert '"ranks":[[1,2],[1]]' in data and '"alike":[[[[3,2]],[]],[[]]]' in data
    assert html.count("data:image/png") == 2 + 5  # each picture once
    assert html.count("<h1>") == 1


def test_a_page_of_an_attribution_tells_agreement_settings_fingerprints_and_lost_gradients():
    html = attribution_page(answers(items(2, ["a"]), items(9, ["b"]), Heading("t"))).decode()
    for text in (
        "n/a",
        "overlap@3",
        "fingerprint of model",
        "noise=shared, timesteps=1 2<",
        "3 were NaN or infinite",
        "×2",
    ):
        assert text in html
    assert "Compare them within one query and method only" in html
    assert html.count(">by m</th>") == 3 and html.count(">by other</th>") == 6  # the tables
    assert "<td>2 (rank 3)</td>" in html


def test_a_notebooks_piece_of_an_attribution_has_no_script_and_shows_each_item_once_a_method():
    html = attribution_fragment(answers(items(2, HOSTILE), items(9, HOSTILE), Heading("t", "s", ["w"])))
    assert "<script" not in html and "onerror=alert(2)>" not in html
    assert html.count("<img ") == 2 + (2 + 3) + (1 + 3)
    assert "1. (x2) 1, group" in html and "<strong>Warning:</strong> w" in html
    many = answers(items(MOST_IN_NOTEBOOK + 3, ["a"]), items(9, ["b"]), Heading("t"))
    few = replace(many, strips=[Strip(Ranking(np.zeros((13, 1), int), np.ones((13, 1), np.float32)), "by m")])
    assert attribution_fragment(few).count(
        "<img "
    ) == 2 * MOST_IN_NOTEBOOK and "3 more pictures" in attribution_fragment(few)


def test_highlighted_runs_are_marked_and_named_however_crowded_the_plot_is():
    runs = [ranked(f"m{number}", noisy(0.5, number, QUERIES), rows=1000 + number) for number in range(60)]
    runs = [with_cutoffs(run) for run in runs]
    (table,) = rank_records(runs, highlight=["m7"]).tables
    plots = [*pareto_plots(table), *criterion_plots(table), *curve_plots(table)]
    assert {plot.x_title.split(",")[0] for plot in plots} >= {"storage", "other@1", "k"}
    for plot in plots:
        named = [mark for mark in plot.marks if mark.title.startswith("m7: ")]
        assert named
        if plot.x_title.startswith("k,"):
            assert plot.legend[0] == ("series0", "m7 (highlighted)") and "highlighted ones first" in plot.description
        else:
            assert plot.marks[-1] == named[0] and named[0].kind == "highlight"
            assert "m7" in [label.text for label in plot.labels] and ("highlight", "highlighted") in plot.legend
    assert [row.stands_out for row in make_board(table, "x").rows] == [
        row.record.method.name == "m7" for row in table.ranked
    ]
    (plain,) = rank_records(runs).tables
    assert not any(mark.kind == "highlight" for plot in pareto_plots(plain) for mark in plot.marks)
    with pytest.raises(UsageError, match="unknown method among the records"):
        rank_records(runs, highlight=["other"])


def test_kept_labels_cover_marks_where_no_place_is_free_but_no_other_kept_label():
    crowd = [Mark(float(x), float(y), "other", "") for x in range(LEFT, RIGHT, 6) for y in range(TOP, BOTTOM, 6)]
    named = [(crowd[len(crowd) // 2], f"name {number}") for number in range(5)]
    assert place_labels(named, crowd) == []
    labels = place_labels(named, crowd, kept=3)
    assert [label.text for label in labels] == ["name 0", "name 1", "name 2"]
    assert len({(label.x, label.y, label.anchor) for label in labels}) == 3


def with_cutoffs(run):
    """The run with two cut-offs of its metric, and with another metric."""
    (result,) = run.metrics
    others = {"metric": "other", "k": 1}, {"metric": result.metric, "k": 5}
    return run.model_copy(update={"metrics": [result, *(result.model_copy(update=part) for part in others)]})
