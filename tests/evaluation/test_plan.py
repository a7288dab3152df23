"""What a run of several methods computes: each pass once, whatever the number of methods that it serves."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest

from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.plan import make_plan, plan_lines
from attrbench.evaluation.requests import request_methods
from attrbench.evaluation.world import TaskWorld
from attrbench.plugins.registry import registry
from tests.evaluation.small_runs import (
    CUBIC,
    DAS,
    UNIFORM,
    Followed,
    M,
    N,
    computed,  # noqa: F401
    opened,  # noqa: F401
    stages_over,
)
from tests.methods.in_memory import SmallRun, meta_of, scores_by_run


def lines_of(opened, folder, *specs):
    run = SmallRun(opened, folder, *specs)
    return plan_lines(run.plan, run.world)


@pytest.mark.parametrize(
    ("specs", "passes"),
    [
        (CUBIC, 1),
        (UNIFORM, 1),
        (CUBIC + UNIFORM, 2),
        ((*UNIFORM, DAS), 2),  # its losses come with the loss gradients, its rows are of the output's mean
        (("d-trak:timesteps=2", "relative-if:timesteps=2,output=squared-norm"), 1),
        (("dmin:timesteps=2|3",), 2),
        (("dmin:timesteps=2,noise_seed=0|1",), 2),
        (("dmin:timesteps=2", "untrained:timesteps=2"), 2),
        (("tracin:timesteps=2,checkpoints=1|2", "grad-dot:timesteps=2"), 2),
        (("trak:timesteps=2", "trak:timesteps=2,noise=shared", "trak:timesteps=2,grid=random"), 3),
        (("random", "pixel"), 0),
    ],
)
def test_methods_whose_gradients_are_the_same_share_one_pass(opened, tmp_path, computed, specs, passes):
    run = SmallRun(opened, tmp_path, *specs)
    assert len(stages_over("train", run.plan)) == passes
    labels = {label for stage in stages_over("train", run.plan) for label in stage.methods}
    assert labels == (set() if passes == 0 else {request.label for request in run.requests})
    run.compute()
    train = [piece for piece in computed if piece[0] == "train"]
    assert len(train) == len(set(train)) == passes
    assert {piece[2:] for piece in train} <= {(0, N)}


def test_only_the_queries_of_journey_trak_need_a_pass_of_their_own(opened, tmp_path):
    queries = stages_over("query", SmallRun(opened, tmp_path, *UNIFORM).plan)
    assert [stage.computation.source.latents for stage in queries] == ["clean", "trajectory"]
    assert queries[1].methods == [UNIFORM[3]]


def test_items_are_encoded_once_for_all_methods_that_need_no_curvature(opened, tmp_path, monkeypatch):
    seen = []
    inner = Followed.encode

    def encode(self, images, prompts, image_range):
        seen.append(len(images))
        return inner(self, images, prompts, image_range)

    monkeypatch.setattr(Followed, "encode", encode)
    without = [spec for spec in UNIFORM if not any(part in spec for part in ("journey", "ggn", "fac"))]
    assert len(without) == 9
    scores_by_run(opened, tmp_path, *without)
    assert sorted(seen) == [M, N]


def test_scores_do_not_depend_on_the_methods_beside(opened, tmp_path):
    specs = [*CUBIC, *UNIFORM, DAS]
    together = scores_by_run(opened, tmp_path / "together", *specs)
    for index, spec in enumerate(specs):
        (alone,) = scores_by_run(opened, tmp_path / str(index), spec)
        scale = np.abs(alone).max()
        np.testing.assert_allclose(together[index], alone, rtol=1e-4, atol=1e-4 * scale, err_msg=spec)


def test_what_is_computed_is_not_computed_again_and_serves_methods_that_come_later(opened, tmp_path, computed):
    first = scores_by_run(opened, tmp_path, *CUBIC)
    computed.clear()
    again = scores_by_run(opened, tmp_path, *CUBIC, "shuffled:timesteps=2,v=32,draw=1")
    assert not computed
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one, other)
    scores_by_run(opened, tmp_path, "dmin:timesteps=2,v=64")
    assert sorted(piece[0] for piece in computed) == ["query", "train"]


def test_products_behind_a_transform_are_of_one_seed_and_one_training_set(opened, tmp_path):
    """For what it looks at, and draws."""

    def stores(spec, **settings):
        world = TaskWorld(meta_of(opened), opened, RunSettings(tmp_path, tmp_path, **settings))
        plan = make_plan(world, request_methods(registry(), [spec]))
        return {store.folder for stage in stages_over("train", plan) for store in stage.stores.values()}

    for changed in ({"seed": 1}, {"limit_train": N - 1}):
        assert stores("ekfac:draws=64", **changed).isdisjoint(stores("ekfac:draws=64"))
        assert stores("grad-dot", **changed) == stores("grad-dot")
    assert stores("ekfac:draws=64", limit_queries=1) != stores("ekfac:draws=64")


# --- the plan in words


def test_lines_say_how_many_passes_serve_how_many_methods(opened, tmp_path):
    lines = lines_of(opened, tmp_path, *CUBIC, *UNIFORM, DAS, "pixel")
    assert lines[0] == f"{N} training items, {M} queries"
    assert f"3 passes over the training set: {len(CUBIC) + len(UNIFORM) + 1} methods served" in lines
    (cubic,) = (line for line in lines if "train items at T=2 (cubic)" in line)
    assert all(spec in cubic.partition("serves ")[2] for spec in CUBIC)
    assert not any(spec in cubic for spec in (*UNIFORM, DAS))
    assert "1 of 1 shards to compute" in cubic
    for part in ("sketch v=32,", "sketch v=32 int8", "inner products with the queries,"):
        assert part in cubic + ","
    (uniform,) = (line for line in lines if "gradients of the loss of train items at T=2 (uniform)" in line)
    for part in (
        "mean-normalized over timesteps",
        "parameter by parameter",
        "through ekfac",
        "through lissa",
        "outputs",
    ):
        assert part in uniform
    (trajectory,) = (line for line in lines if "along the sampling trajectory" in line)
    assert "of query items at T=4 (sampler)" in trajectory
    assert any(line.startswith("gradients of the mean of train items") for line in lines)


def test_lines_of_one_pass_for_one_method(opened, tmp_path):
    lines = lines_of(opened, tmp_path, "tracin:timesteps=2,checkpoints=1")
    assert "1 pass over the training set: 1 method served" in lines
    lines = lines_of(opened, tmp_path, "tracin:timesteps=2,checkpoints=2")
    assert "2 passes over the training set: 1 method served" in lines
    assert any("at 1/2 weights" in line for line in lines)
    lines = lines_of(opened, tmp_path, "pixel")
    assert not any("training set:" in line for line in lines)


def test_losses_alone_are_outputs_and_no_gradients(opened, tmp_path):
    lines = lines_of(opened, tmp_path, DAS)
    assert any(line.startswith("outputs of the loss of train items") for line in lines)


def test_lines_say_what_is_left(opened, tmp_path):
    scores_by_run(opened, tmp_path, *CUBIC[:2])
    lines = lines_of(opened, tmp_path, *CUBIC[:2])
    assert all("0 of 1 shards" in line for line in lines if "items at" in line)
    assert lines[-1].startswith("0 MB to write")


def test_the_plan_says_which_method_can_not_run_and_why(opened, tmp_path):
    lines = lines_of(opened, tmp_path, "tracin:checkpoints=9", "dmin:timesteps=2")
    (line,) = (line for line in lines if "can't run" in line)
    assert line.startswith("tracin:checkpoints=9 can't run: 9 checkpoints are asked for")
