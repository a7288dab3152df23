"""A method class that a notebook defines runs, and an edited one is not answered by what an earlier one left."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

import attrbench
from attrbench.conformance.toy_task import ToyTask
from attrbench.errors import UsageError

METHOD = """
import numpy as np
from pydantic import Field
from attrbench import Method, Options
from attrbench.contracts.feature import FeatureRequest
from attrbench.features.images import Images
from attrbench.contracts.method import ExhaustiveScorer, StateSize

def brightness(images):
    return images.reshape(len(images), -1).mean(axis=1, dtype=np.float32)

class Nearest(ExhaustiveScorer):
    def __init__(self, train):
        self.train = train

    def scores(self, query):
        return -np.abs(brightness(query[Images()])[:, None] - self.train[None, :])

    def size(self):
        return StateSize(rows=self.train.nbytes)

class Brightness(Method):
    name = "brightness"
    summary = "how close the mean brightness is"

    class Options(Options):
        scale: float = Field(1.0, gt=0, le=10)

    def features(self):
        return FeatureRequest.both(Images())

    def fit(self, train, context):
        return Nearest(self.options.scale * brightness(train[Images()]))
"""

TRANSFORM = """
from attrbench import Method, Options
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.features.gradient_products import GradientProducts
from attrbench.contracts.method import ExhaustiveScorer, StateSize, Transformed

FACTOR = 2.0

class Sum(ExhaustiveScorer):
    def __init__(self, products):
        self.products = products

    def scores(self, query):
        return query[self.products].values.sum(axis=2)

    def size(self):
        return StateSize()

class Scaled(Method):
    name = "scaled"
    summary = "inner products with scaled gradients"

    class Options(Options):
        pass

    def features(self):
        return FeatureRequest.both(self.products)

    @property
    def products(self):
        return GradientProducts(source=GradientSource(grid=TimestepGrid(steps=1)), transform=self.key)

    def transform(self, gradients, context):
        return Transformed(gradients * FACTOR)

    def fit(self, train, context):
        return Sum(self.products)
"""


def run(notebook, toy, name="Brightness", **options):
    return attrbench.run(getattr(notebook.module, name), toy, progress=False, **options)


def test_a_class_of_a_notebook_runs_without_a_plugin(notebook, toy):
    notebook.run(METHOD)
    results = run(notebook, toy)
    record = results.record("brightness")
    assert record.status == "complete" and record.method.distribution == "notebook"
    query, train = results._open(record.task.label).queries.images, results._open(record.task.label).train.images
    expected = notebook.module.Nearest(notebook.module.brightness(train)).train
    scores = -np.abs(notebook.module.brightness(query)[:, None] - expected[None, :])
    assert np.array_equal(results.scores("brightness"), scores)


def test_the_same_cell_run_again_is_answered_by_the_record_and_an_edited_one_is_not(notebook, toy):
    notebook.run(METHOD)
    first = run(notebook, toy)
    assert not first[0].reused
    notebook.run(METHOD)
    notebook.run("unrelated = 5")
    again = run(notebook, toy)
    assert again[0].reused and again[0].record == first[0].record
    notebook.run(METHOD.replace("return -np.abs", "return np.abs"))
    edited = run(notebook, toy)
    assert not edited[0].reused
    assert not np.array_equal(edited.rankings("brightness"), first.rankings("brightness"))
    notebook.run(METHOD)
    assert run(notebook, toy)[0].record == first[0].record


def test_a_method_whose_helper_function_changed_is_computed_again(notebook, toy):
    notebook.run(METHOD)
    first = run(notebook, toy)
    notebook.run("def brightness(images):\n    return images.reshape(len(images), -1).max(axis=1).astype(np.float32)")
    edited = run(notebook, toy)
    assert not edited[0].reused
    assert not np.array_equal(edited.scores("brightness"), first.scores("brightness"))


def test_products_of_an_edited_transform_are_computed_again(notebook, toy):
    notebook.run(TRANSFORM)
    first = run(notebook, toy, "Scaled").scores("scaled")
    notebook.run("FACTOR = 4.0")
    np.testing.assert_allclose(run(notebook, toy, "Scaled").scores("scaled"), 2 * first, rtol=1e-5)


def test_a_method_of_which_nothing_can_be_told_is_always_computed_again(notebook, toy):
    notebook.run(METHOD + "\nimport threading\nlock = threading.Lock()\nBrightness.fit.__defaults__ = (None,)\n")
    notebook.run("def brightness(images):\n    with lock:\n        return images.reshape(len(images), -1)[:, 0] * 1.0")
    assert [run(notebook, toy)[0].reused for _ in range(2)] == [False, False]


def test_instances_carry_their_options(notebook, toy):
    module = notebook.run(METHOD)
    half = module.Brightness(module.Brightness.Options(scale=0.5))
    results = attrbench.run([module.Brightness, half, "random"], toy, progress=False)
    assert [record.method.label for record in results.records] == ["brightness", "brightness:scale=0.5", "random"]
    assert not np.array_equal(results.scores(half), results.scores(module.Brightness))
    assert np.array_equal(results.scores(half), results.scores("brightness:scale=0.5"))


def test_a_name_that_a_plugin_has_already_is_refused_in_one_line(notebook, toy):
    module = notebook.run(METHOD.replace('"brightness"', '"dmin"'))
    with pytest.raises(
        UsageError, match=r"method 'dmin' is one of attrbench .* give the class Brightness another name"
    ):
        attrbench.run(module.Brightness, toy, progress=False)


def test_two_classes_with_one_name_are_refused(notebook, toy):
    first = notebook.run(METHOD).Brightness
    second = notebook.run(METHOD).Brightness
    with pytest.raises(UsageError, match="two classes of methods have the name 'brightness'"):
        attrbench.run([first, second], toy, progress=False)


@pytest.mark.parametrize("wrong", [3, int, object()])
def test_what_is_no_method_or_task_is_refused(toy, wrong):
    with pytest.raises(UsageError, match="is no method"):
        attrbench.run(wrong, toy)
    with pytest.raises(UsageError, match="is no task"):
        attrbench.run("random", wrong)


def test_a_class_of_a_notebook_is_checked_like_any_other(notebook):
    (report,) = attrbench.check(notebook.run(METHOD).Brightness)
    assert report.status == "passed", [finding for finding in report.findings if finding.status == "failed"]


class TunableToy(ToyTask):
    tuning: ClassVar = {"queries": "train"}


def test_instances_of_a_class_of_a_notebook_are_tuned_on_a_task_that_no_plugin_has(notebook):
    kind = notebook.run(METHOD).Brightness
    values = [kind(kind.Options(scale=scale)) for scale in (0.5, 1.0, 2.0)]
    seen = []
    task = TunableToy(TunableToy.Options())
    results = attrbench.tune([values], task, progress=False, on_choice=seen.append)
    (choice,) = results.choices
    assert seen == [choice] and choice.chosen.label == "brightness:scale=1.0"
    assert [tried.value is not None for tried in choice.tuned.tried] == [True, True, True]
    assert results.record(values[1]).tuned.by == "detection-rate@10"
