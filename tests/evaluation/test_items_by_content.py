"""Evidence depends on the item alone: order, split, place and task name mean nothing, an added item costs one row."""

from dataclasses import replace

import numpy as np
import pytest

from attrbench.contracts.computation import Engine
from attrbench.contracts.task import Items
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.plugins.registry import registry
from attrbench.store.checksums import Seal
from tests.evaluation.small_runs import CUBIC, DAS, SAMPLER, SHAPE, UNIFORM, Followed, network
from tests.methods.in_memory import SmallRun, SmallTask, scores_by_run, seeded, small_items

N, M = 70, 3
IMAGES = ("pixel", "pixel:similarity=l2", "ssim", "random", "random:draw=1")
"""Methods without gradients; their pictures have eight pixels a side."""
OTHERS = ("untrained:timesteps=2,v=32", "d-trak:timesteps=2,v=32")
SPECS = (*CUBIC, *UNIFORM, DAS, *OTHERS, *IMAGES)
NETWORKS = {"clip", "embedding", "latent", "other-seed", "caption"}
"""Methods whose networks or captions are not at hand here; `attrbench check` permutes items for them too."""
ROWS = ("dmin:timesteps=2,v=32", "trak:timesteps=2,v=32")


@pytest.fixture(scope="module")
def opened():
    denoiser = Followed(seeded(network), SHAPE, SAMPLER)
    return SmallTask(denoiser, small_items(N, SHAPE), small_items(M, SHAPE, seed=1, seeds=range(M)))


@pytest.fixture(scope="module")
def pictures(opened):
    shape = (1, 8, 8)
    return SmallTask(opened.denoiser, small_items(N, shape), small_items(M, shape, seed=1))


@pytest.fixture(scope="module")
def plain(opened, pictures, tmp_path_factory):
    """The task of a method, and its scores in the plain order, computed once."""
    known = {}

    def of(spec):
        task = pictures if spec in IMAGES else opened
        if spec not in known:
            (known[spec],) = scores_by_run(task, tmp_path_factory.mktemp("plain"), spec)
        return task, known[spec]

    return of


def chosen(items, places):
    """The items at some places, in that order."""
    seeds = None if items.seeds is None else [items.seeds[place] for place in places]
    groups = [items.groups[place] for place in places]
    return Items(items.images[places], groups, [""] * len(places), f"{items.fingerprint}/{places}", seeds)


def with_train(opened, places):
    return SmallTask(opened.denoiser, chosen(opened.train, places), opened.queries)


def rows_on_disk(folder):
    """How many rows the shards hold, by folder of a feature."""
    counts = {}
    for path in (folder / "cache" / "features").rglob("rows-*.seal.json"):
        counts[path.parent.name] = counts.get(path.parent.name, 0) + Seal.read(path).facts["rows"]
    return counts


def close(found, expected):
    """Equal to 1e-5 of the largest score of a query."""
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= 1e-5 * scale).all(), float((np.abs(found - expected) / scale).max())


@pytest.mark.parametrize("spec", SPECS)
def test_the_order_of_training_items_and_of_queries_means_nothing(plain, tmp_path, spec):
    order, asked = np.random.default_rng(0).permutation(N).tolist(), [2, 0, 1]
    task, expected = plain(spec)
    turned = SmallTask(task.denoiser, chosen(task.train, order), chosen(task.queries, asked))
    (found,) = scores_by_run(turned, tmp_path, spec)
    close(found, expected[np.ix_(asked, order)])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in IMAGES])
def test_the_split_into_shards_means_nothing(plain, tmp_path, spec):
    """Rows of three sets that overlap, and of a query asked alone, serve the whole set."""
    task, expected = plain(spec)
    for places in ([*range(40, N)], [3, 60, 5, 1], [*range(0, N, 2)]):
        SmallRun(
            SmallTask(task.denoiser, chosen(task.train, places), chosen(task.queries, [1])), tmp_path, spec
        ).compute()
    (found,) = scores_by_run(task, tmp_path, spec)
    close(found, expected)


@pytest.mark.parametrize("spec", ["dmin:timesteps=2,v=32", "d-trak:timesteps=2,v=32", "grad-dot:timesteps=2"])
def test_queries_together_share_a_batch_and_have_the_scores_of_queries_one_by_one(plain, tmp_path, monkeypatch, spec):
    sizes, outputs = [], GradientPass._outputs

    def noting(self, batch, *rest):
        if self.split.name == "query":
            sizes.append(len(batch.t))
        return outputs(self, batch, *rest)

    monkeypatch.setattr(GradientPass, "_outputs", noting)
    task, expected = plain(spec)
    run = SmallRun(task, tmp_path, spec)
    run.world.settings = replace(run.world.settings, engine=Engine(queries_together=True))
    ((scorer, query),) = [run.compute().fitted(request) for request in run.requests]
    close(np.asarray(scorer.scores(query), "f8"), expected)
    assert max(sizes) == 2 * M  # all queries at both timesteps


def test_every_registered_method_is_tried():
    tried = {spec.partition(":")[0] for spec in SPECS}
    names = {
        name for name in registry().names("method") if registry().provider("method", name).distribution == "attrbench"
    }
    assert names - NETWORKS == tried


@pytest.mark.parametrize("spec", ROWS)
def test_an_added_item_costs_its_own_row_and_gives_the_scores_of_a_fresh_cache(opened, tmp_path, spec):
    without = [place for place in range(N) if place != 17]
    scores_by_run(with_train(opened, without), tmp_path / "grown", spec)
    before = rows_on_disk(tmp_path / "grown")
    (found,) = scores_by_run(opened, tmp_path / "grown", spec)
    after = rows_on_disk(tmp_path / "grown")
    assert before.keys() == after.keys()
    assert sum(after.values()) == sum(before.values()) + 1
    (fresh,) = scores_by_run(opened, tmp_path / "fresh", spec)
    close(found, fresh)


@pytest.mark.parametrize("spec", ROWS)
def test_a_subset_another_order_and_another_task_find_every_row(opened, tmp_path, spec):
    scores_by_run(opened, tmp_path, spec)
    before = rows_on_disk(tmp_path)
    for places in ([5, 60, 2], list(range(N))[::-1]):
        run = SmallRun(with_train(opened, places), tmp_path, spec)
        run.world.meta = run.world.meta.model_copy(update={"name": "another", "version": 9})
        run.compute()
        assert rows_on_disk(tmp_path) == before


def test_an_item_of_both_splits_is_computed_once(opened, tmp_path):
    scores_by_run(opened, tmp_path, ROWS[0])
    before = rows_on_disk(tmp_path)
    asked = replace(chosen(opened.train, [3, 9]), seeds=None)
    (scores,) = scores_by_run(SmallTask(opened.denoiser, opened.train, asked), tmp_path, ROWS[0])
    assert rows_on_disk(tmp_path) == before
    assert scores[0, 9] == pytest.approx(scores[1, 3], rel=1e-5)  # both sides have the same rows


def test_items_that_are_equal_have_rows_of_their_own(opened, tmp_path):
    doubled = with_train(opened, [0, 1, 0])
    (scores,) = scores_by_run(doubled, tmp_path, "trak:timesteps=2,v=32")
    assert sorted(rows_on_disk(tmp_path).values())[-1] == 3 + M
    assert scores[0, 0] != scores[0, 2]
