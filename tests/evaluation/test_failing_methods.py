"""A method that cannot go on is reported and costs the methods beside it nothing."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import itertools
import re

import pytest
import torch

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import Method
from attrbench.contracts.method_results import Transformed
from attrbench.contracts.options import Options, Spec
from attrbench.contracts.record import read_records
from attrbench.contracts.task import Task
from attrbench.errors import Unavailable
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.features.gradient_products import GradientProducts
from attrbench.plugins.registry import Plugin, load_registry
from attrbench_methods.first_order.product_scorer import ProductScorer
from attrbench_methods.gradient_options import GradientOptions
from tests.evaluation.small_runs import (
    M,
    N,
    computed,  # noqa: F401
    opened,  # noqa: F401
    small_task,
)
from tests.executors.tiny_methods import InOrder
from tests.methods.in_memory import meta_of
from tests.registering import plugin_of


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


class Narrow(Failing):
    """A scorer that leaves out an item."""

    name = "narrow"

    def features(self):
        return FeatureRequest()

    def fit(self, train, context):
        return InOrder(train.count - 1)


FAULTS = {
    Failing: "ValueError: one line (method of attrbench-tests 1, test_failing_methods.py:LINE)",
    NoSeeds: "nothing here to transform with",
    WrongShape: f"its transform turned (1, {M}, 65) into (1, 1, 65)",
    NotFinite: "its transform of query 1 is not finite",
    NoFeatures: "KeyError: 'grid' (method of attrbench-tests 1, test_failing_methods.py:LINE)",
    TwoProducts: "ValueError: one line (method of attrbench-tests 1, test_failing_methods.py:LINE)",
    Narrow: f"the method's scores are float32 [1, {N - 1}] instead of float32 [1, {N}]: a row for each query, a column"
    " for each training item",
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
    assert re.sub(r"(?<=\.py:)\d+", "LINE", records[fault.name].error) == FAULTS[fault]
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
