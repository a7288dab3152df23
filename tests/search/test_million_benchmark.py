"""Every stage of the benchmark of a million rows runs on a few, and growth is told as it is."""

import numpy as np
import pytest

from tests.benchmarks import million, million_stages
from tests.benchmarks.million_stages import QUERIES, STAGES, K, Place


@pytest.mark.slow
def test_every_stage_runs_on_a_few_rows_and_finds_what_exact_search_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(million_stages, "STEPS", 2)
    monkeypatch.setattr(million_stages, "LENGTH", 1024)
    place = Place(tmp_path, 700)
    found = {stage: STAGES[stage](place) for stage in ("fill", "open", "resume", "list", "record", "exact")}
    for index, probed in (("RaBitQ", 0), ("IVF8,RaBitQ", 8)):
        options = (index, str(probed), "5")
        assert STAGES["index"](place, *options)["bytes"] > 0
        asked = STAGES["query"](place, *options)
        assert np.shape(asked["ids"]) == (QUERIES, K)
        assert million._recall(asked["ids"], found["exact"]["ids"]) > 0.95
    assert found["resume"]["seconds"] > 0
    assert million_stages.PeakMemory().stop() > 0


def test_growth_is_fitted_on_the_logarithms():
    slope, there = million.exponent({n: 3e-6 * n**1.5 for n in (10_000, 30_000, 100_000)})
    assert slope == pytest.approx(1.5)
    assert there == pytest.approx(3e-6 * 1e6**1.5)


def test_a_million_is_predicted_unless_it_was_measured(capsys):
    values = {10_000: 1.0, 100_000: 2.0}
    assert million._at_a_million("x", values, "s", "1 s", 1.0).what == "x, predicted"
    assert million._at_a_million("x", values, "s", "1 s", 1.0).value == pytest.approx(4)
    assert million._at_a_million("x", values | {10**6: 9.0}, "s", "1 s", 1.0).value == 9
    million._print({"open": values}, {10_000: 1_000_000_000, 100_000: 2_000_000_000})
    header, line, memory = capsys.readouterr().out.splitlines()
    assert header.split()[-3:] == ["exponent", "at", "1,000,000"]
    assert line.split() == ["open", "(s)", "1", "2", "0.30", "4?"]
    assert memory.split()[-4:] == ["1", "2", "0.30", "4?"]


def test_sizes_are_those_that_the_disk_has_room_for(monkeypatch):
    usage = lambda folder: type("Usage", (), {"free": 31_000 * million.ROW_BYTES})  # noqa: E731
    monkeypatch.setattr(million.shutil, "disk_usage", usage)
    monkeypatch.setenv("ROWS", "1000000")
    assert million._sizes() == [10_000, 30_000]
    monkeypatch.setenv("ROWS", "10000")
    with pytest.raises(SystemExit, match="two sizes"):
        million._sizes()
