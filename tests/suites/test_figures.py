"""Figures: the plot of a removal experiment has what the table has, and queries of galleries come from all groups."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from attrbench.contracts.record import Control, MetricResult
from attrbench.reports.html.templates import plot_picture
from attrbench.suites.effect import effect_parts, effect_plots
from attrbench.suites.gallery import chosen_queries
from tests.suites.making import made_record, world_of, write_suite


def result(value, metric="thinning"):
    return MetricResult(
        metric=metric,
        k=None,
        value=value,
        low=value - 0.05,
        high=value + 0.05,
        ceiling=None,
        random=None,
        per_query=[],
        higher_is_better=True,
    )


@pytest.fixture
def parts(tmp_path):
    """The effect of `pixel`, with a control that all methods share and one of its own, whose name is hostile."""
    controls = [Control(name="thickest", result=result(0.3)), Control(name="<i>&", result=result(-0.1), shared=False)]
    made = made_record("pixel", [0.1, 0.2], metrics=[result(0.2)], controls=controls, facts={"removed": 1250.0})
    columns = [{"name": "Thinner by", "value": "thinning"}, {"name": "Removed", "value": "removed"}]
    return effect_parts(world_of(write_suite(tmp_path, 'layout = "effect"', columns), {"pixel": made}))


def test_methods_and_controls_are_rows_with_their_intervals(parts):
    rows = {line.name: line.cells for line in parts[0].lines}
    assert list(rows) == ["Pixels", "Random [1]", "control: thickest", "control: <i>&, as Pixels"]
    assert (rows["Pixels"][0].ours, rows["Pixels"][0].interval) == ("0.200", "[0.150, 0.250]")
    assert rows["Pixels"][1].ours == "1,250"
    assert rows["control: thickest"][0].ours == "0.300" and rows["control: thickest"][1].ours == ""


def test_the_plot_has_a_mark_for_each_value_at_its_height(parts):
    (plot,) = effect_plots(parts)
    assert len(plot.marks) == 3
    heights = [mark.y for mark in plot.marks]
    assert heights[1] < heights[0] < plot.guides[0].y < heights[2]  # pixels grow downwards
    assert all(mark.y_high < mark.y < mark.y_low for mark in plot.marks)


def test_the_picture_is_xml_with_its_text_escaped(parts):
    root = ET.fromstring(plot_picture(effect_plots(parts)[0]))
    text = " ".join(root.itertext())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "Pixels" in text and "<i>&" in text
    assert not [element for element in root.iter() if element.tag.endswith("}i")]


def test_queries_of_a_gallery_come_evenly_from_all_groups():
    groups = ["a", "a", "a", "b", "c", "b"]
    assert chosen_queries(groups, 3) == [0, 3, 4]
    assert chosen_queries(groups, 5) == [0, 3, 4, 1, 5]
    assert chosen_queries(groups, 9) == [0, 3, 4, 1, 5, 2]
