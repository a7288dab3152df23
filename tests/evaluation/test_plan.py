"""What a run of several methods computes: each pass once, whatever the number of methods that it serves."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import Method
from attrbench.contracts.method_results import Transformed
from attrbench.contracts.options import Options, Spec
from attrbench.contracts.record import read_records
from attrbench.contracts.task import Task
from attrbench.errors import Unavailable
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.plan import make_plan, plan_lines
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.evaluation.world import TaskWorld
from attrbench.features.gradient_products import GradientProducts
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.plugins.registry import Plugin, load_registry, registry
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions
from tests.methods.in_memory import Small, SmallRun, SmallTask, meta_of, scores_by_run, seeded, small_items
from tests.registering import plugin_of

SHAPE = (2, 3, 3)
N, M = 10, 3
SAMPLER = (800, 600, 400, 200)

CUBIC = (
    "grad-dot:timesteps=2",
    "dmin:timesteps=2,v=32",
    "dmin:timesteps=2,v=32,dtype=int8",
    "dmin:timesteps=2,v=none",
    "shuffled:timesteps=2,v=32",
    "tracin:timesteps=2,checkpoints=1",
)
"""Methods over the loss gradients at DMin's grid and noise."""
UNIFORM = (
    "trak:timesteps=2,v=32",
    "relative-if:timesteps=2,v=32",
    "renorm-if:timesteps=2,v=32",
    "journey-trak:timesteps=2,v=32,sampling_steps=4",
    "grad-cos:timesteps=2,v=32",
    "diffusion-retrac:timesteps=2,v=32",
    "datainf:timesteps=2,v=8",
    "datainf:timesteps=2,v=8,blocks=module,concatenate=true",
    "lissa:timesteps=2,v=8",
    "lissa-released:timesteps=2,v=8",
    "lissa:timesteps=2,hessian=ggn,iterations=20",
    "ekfac:timesteps=2,draws=64",
    "kfac:timesteps=2,draws=64",
)
"""Methods over the loss gradients at D-TRAK's."""
DAS = "das:timesteps=2,v=32"


class Followed(Small):
    """With a sampler, and one checkpoint; in single precision, as models are."""

    dtype = torch.float32

    def trajectory(self, prompts, seeds):
        start = torch.tensor(seeds, dtype=self.dtype)[:, None, None, None, None] / 10
        return start.expand(-1, len(self.sampler), *self.latent_shape)

    def checkpoints(self):
        return ("half",)

    def _load(self, checkpoint):
        return seeded(network, 1).float()


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


def small_task(seeds=(1, 2, 3)):
    denoiser = Followed(seeded(network), SHAPE, SAMPLER)
    return SmallTask(denoiser, small_items(N, SHAPE), small_items(M, SHAPE, 1, seeds and list(seeds)))


@pytest.fixture(scope="module")
def opened():
    return small_task()


@pytest.fixture
def computed(monkeypatch):
    """(split, source, first item, last item) of each piece of a pass as it is computed."""
    seen = []
    inner = GradientPass.compute

    def compute(self, unit, stores):
        if stores:  # a pass whose features were all given up has nothing to do
            seen.append((self.split.name, self.source, *unit))
        inner(self, unit, stores)

    monkeypatch.setattr(GradientPass, "compute", compute)
    return seen


def stages_over(split, plan):
    return [stage for stage in plan.stages if stage.computation.split == split]


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


# --- methods that can't go on


class Failing(Method[GradientOptions]):
    """Its transform does what its name says."""

    name = "fails"
    summary = "raises in its transform"
    Options = GradientOptions

    def features(self):
        return FeatureRequest.both(*self.products)

    @property
    def products(self):
        return (GradientProducts(source=GradientSource(), timesteps="mean", transform=self.key),)

    def transform(self, gradients, context):
        raise ValueError("one\n line")

    def fit(self, train, context):
        return ProductScorer(self.products[0], normalize=False)


class NoSeeds(Failing):
    name = "unavailable"

    def transform(self, gradients, context):
        raise Unavailable("nothing here to transform with")


class WrongShape(Failing):
    name = "wrong-shape"

    def transform(self, gradients, context):
        return Transformed(gradients[:, :1])


class NotFinite(Failing):
    name = "not-finite"

    def transform(self, gradients, context):
        gradients = gradients.clone()
        gradients[0, 1, 3] = torch.nan
        return Transformed(gradients)


class NoFeatures(Failing):
    name = "no-features"

    def features(self):
        raise KeyError("grid")


class Double(Failing):
    name = "double"

    def transform(self, gradients, context):
        return Transformed(gradients.double())


class Boundless(Failing):
    name = "boundless"

    def transform(self, gradients, context):
        return Transformed(gradients, {"residual": float("inf"), "ratio": float("nan"), "steps": 3.0})


class TwoProducts(Failing):
    """Which share a pass, and both fail."""

    name = "two-products"

    @property
    def products(self):
        return [GradientProducts(source=GradientSource(), timesteps="mean", transform=self.key + k) for k in "ab"]


class Sound(Failing):
    name = "sound"

    def transform(self, gradients, context):
        return Transformed(2 * gradients, {"factor": 2.0}, state_bytes=12)


FAULTS = {
    Failing: "ValueError: one line",
    NoSeeds: "nothing here to transform with",
    WrongShape: f"its transform turned (1, {M}, 65) into (1, 1, 65)",
    NotFinite: "its transform of query 1 is not finite",
    NoFeatures: "KeyError: 'grid'",
    TwoProducts: "ValueError: one line",
}


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


@pytest.fixture
def run(tmp_path):
    """Runs methods on a small task, each time in new folders; gives the records by label, and the notes."""
    runs = itertools.count()

    def run(opened, *specs, optional=(), folder=None):
        class OfMemory(Task[Options]):
            Options = Options
            meta = meta_of(opened)

            def open(self, workspace):
                return opened

        plugin = plugin_of(methods=[*FAULTS, Double, Boundless, Sound])
        known = load_registry()
        known.load(Plugin("failing", "attrbench-tests", "1"), lambda: plugin)
        assert "fails" in known.names("method")
        requests = request_methods(known, specs)
        for request in requests:
            object.__setattr__(request, "optional", request.label in optional)
        notes = Notes()
        place = tmp_path / (folder or str(next(runs)))
        settings = RunSettings(place / "out", place / "cache", rerun=True)
        task = TaskRequest(Spec("small"), OfMemory(Options()))
        results = list(TaskRun(known, task, requests, settings, notes).results())
        return {result.record.method.label: result.record for result in results}, notes.lines

    return run


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_method_that_can_not_go_on_is_reported_and_the_others_go_on(opened, run, fault):
    others = ("grad-dot:timesteps=2", "sound", "trak:timesteps=2,v=32", "pixel")
    records, _ = run(opened, fault.name, *others)
    assert list(records) == [fault.name, *others]
    assert records[fault.name].status == "failed"
    assert records[fault.name].error == FAULTS[fault]
    assert [records[other].status for other in others] == ["complete"] * 4
    alone, _ = run(opened, *others)
    for other in others:
        assert records[other].ranking == alone[other].ranking


@pytest.mark.parametrize("fault", [NoSeeds, NoFeatures], ids=lambda fault: fault.name)
def test_what_is_unavailable_to_all_is_passed_over_and_faults_are_not(opened, run, fault):
    records, notes = run(opened, fault.name, "pixel", optional={fault.name})
    if fault is NoSeeds:
        assert list(records) == ["pixel"]
        assert "passed over unavailable: nothing here to transform with" in notes
    else:
        assert records[fault.name].status == "failed"


def test_the_features_of_a_method_that_fails_are_not_computed(opened, run, computed):
    """Only its own: what others want too is there."""
    run(opened, "fails")
    assert not [piece for piece in computed if piece[0] == "train"]
    run(opened, "fails", "dmin:v=32")
    assert len([piece for piece in computed if piece[0] == "train"]) == 1


def test_two_methods_of_which_one_fails_keep_their_transforms_apart(opened, run):
    records, _ = run(opened, "fails", "sound", "sound:noise_seed=1")
    assert [record.status for record in records.values()] == ["failed", "complete", "complete"]
    assert records["sound"].facts == {"factor": 2.0}
    assert records["sound"].storage.shared == 12


def test_a_transform_in_double_precision_is_as_good_as_one_in_single(opened, run):
    records, _ = run(opened, "double", "sound")
    assert [record.status for record in records.values()] == ["complete", "complete"]
    assert records["double"].ranking == records["sound"].ranking


def test_a_missing_checkpoint_is_that_methods_own_failure(opened, run):
    records, _ = run(opened, "tracin:timesteps=2", "tracin:timesteps=2,checkpoints=2", "grad-dot:timesteps=2")
    assert [record.status for record in records.values()] == ["failed", "complete", "complete"]
    assert "4 checkpoints are asked for" in records["tracin:timesteps=2"].error


@pytest.mark.parametrize("optional", [False, True])
def test_pictures_without_seeds_are_journey_traks_own_failure(run, optional):
    journey, trak = "journey-trak:timesteps=2,v=32,sampling_steps=4", "trak:timesteps=2,v=32"
    records, notes = run(small_task(seeds=None), journey, trak, optional={journey} if optional else ())
    assert records[trak].status == "complete"
    if optional:
        assert journey not in records
        assert any("passed over journey-trak" in line for line in notes)
    else:
        assert records[journey].status == "failed"


def test_records_can_be_read_again_whatever_a_method_says_of_itself(opened, run, tmp_path):
    records, _ = run(opened, "boundless")
    assert records["boundless"].facts == {"steps": 3}
    found, problems = read_records(tmp_path / "0" / "out")
    assert not problems
    assert [record.facts for record in found] == [{"steps": 3}]


def test_products_can_be_read_again_whatever_a_method_says_of_itself(opened, run, computed):
    """What stands beside a shard does not make it damaged."""
    run(opened, "boundless")
    once = len(computed)
    run(opened, "boundless", folder="0")
    assert len(computed) == once == 1


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
