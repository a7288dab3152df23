"""The method under check, with what a first run of it brought."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from attrbench.conformance.score_comparison import Scores, scores_of
from attrbench.conformance.workbench import Bench, Features
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import ExhaustiveScorer, Method, Scorer
from attrbench.evaluation.requests import MethodRequest


class Subject:
    """A method that has been fitted on the check's task.

    Args:
        bench: where it runs.
        request: the method.

    Attributes:
        declared: the features that it asks for.
        features: what it got.
        scorer: what it made of them.
        scores: [m, n], of the generated queries, all at once.
        seconds: what that took.
    """

    def __init__(self, bench: Bench, request: MethodRequest) -> None:
        self.bench = bench
        self.request = request
        self.method: Method[Any] = request.method
        self.declared = self.method.features()
        bench.open()
        started = time.perf_counter()
        self.features = bench.features(request, bench.settings())
        self.scorer = self.features.fit()
        self.scores: Scores = scores_of(self.scorer, self.features.query, self.count)
        self.seconds = time.perf_counter() - started

    @property
    def count(self) -> int:
        """Number of training items."""
        return self.features.train.count

    def fresh(self) -> MethodRequest:
        """The same method once more, with nothing that this one may have kept."""
        return replace(self.request, method=type(self.method)(self.method.options))

    @cached_property
    def sources(self) -> tuple[GradientSource, ...]:
        """What its gradient features are of; empty for methods that ask for none."""
        return tuple(_sources(self.declared))

    @property
    def not_told_apart(self) -> str:
        """Why nothing can be asked of the order of its scores; empty where it can."""
        if self.method.control:
            return "a control: its scores mean nothing by design"
        if not self.features.train.views:
            return "the method asks for no feature of a training item"
        if exhaustive(self.scorer) is None:
            return "a search without an exhaustive scorer (Scorer.exact) to hold it against"
        return ""


def exhaustive(scorer: Scorer) -> ExhaustiveScorer | None:
    """The scorer itself where it scores every item, else the one that it is measured against."""
    if isinstance(scorer, ExhaustiveScorer):
        return scorer
    exact = scorer.exact()
    return exact if isinstance(exact, ExhaustiveScorer) else None


def exhaustive_scores(features: Features) -> Scores | None:
    """[m, n] scores by the exhaustive scorer of these features; None for a search that has none."""
    scorer = exhaustive(features.fit())
    return None if scorer is None else scores_of(scorer, features.query, features.train.count)


def _sources(request: FeatureRequest) -> Iterator[GradientSource]:
    for feature in (*request.train, *request.query):
        source = getattr(feature, "source", None)
        if isinstance(source, GradientSource):
            yield source


def common_noise(source: GradientSource) -> GradientSource:
    """Return the source with noise that does not belong to an item: a query then has a training item's gradient."""
    return source.model_copy(update={"noise": "per-timestep"}) if source.noise == "per-item" else source
