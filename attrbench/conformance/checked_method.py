"""The method under conformance check, with the features, scorer and scores of its first run."""

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
    """A method under check: fitted on the tiny task of the conformance checks, with its features and scores.

    Args:
        bench: computes features on that task.
        request: the method with its options.

    Attributes:
        declared: the features that the method declares.
        features: the computed features.
        scorer: the fitted scorer.
        scores: [m, n] scores of the generated queries, computed in one call.
        seconds: duration of computing features, fitting and scoring.
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
        """Return the number of training items of the task of the checks."""
        return self.features.train.count

    def fresh(self) -> MethodRequest:
        """Return a request to run the same method from a new instance, which shares no state with this one."""
        return replace(self.request, method=type(self.method)(self.method.options))

    @cached_property
    def sources(self) -> tuple[GradientSource, ...]:
        """Return the gradient sources (which gradients to compute, at which timesteps) of the method's features."""
        return tuple(_sources(self.declared))

    @property
    def not_told_apart(self) -> str:
        """Return why checks of the order of scores do not apply to this method; empty if they apply."""
        if self.method.control:
            return "a control: its scores mean nothing by design"
        if not self.features.train.views:
            return "the method asks for no feature of a training item"
        if exhaustive(self.scorer) is None:
            return "a search without an exhaustive scorer (Scorer.exact) to hold it against"
        return ""


def exhaustive(scorer: Scorer) -> ExhaustiveScorer | None:
    """Return the scorer if it scores every training item, else the exact scorer that a search offers, or None."""
    if isinstance(scorer, ExhaustiveScorer):
        return scorer
    exact = scorer.exact()
    return exact if isinstance(exact, ExhaustiveScorer) else None


def exhaustive_scores(features: Features) -> Scores | None:
    """Return the [m, n] scores of an exhaustive scorer fitted on these features; None for a search without one."""
    scorer = exhaustive(features.fit())
    return None if scorer is None else scores_of(scorer, features.query, features.train.count)


def _sources(request: FeatureRequest) -> Iterator[GradientSource]:
    for feature in (*request.train, *request.query):
        source = getattr(feature, "source", None)
        if isinstance(source, GradientSource):
            yield source


def common_noise(source: GradientSource) -> GradientSource:
    """Return the gradient source with noise drawn per timestep, not per item: equal items get equal gradients."""
    return source.model_copy(update={"noise": "per-timestep"}) if source.noise == "per-item" else source
