"""A method that keeps to the contract, and relatives that each break one rule of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from attrbench.conformance.check_report import Report
from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method import ExhaustiveScorer, Method, Scorer, StateSize
from attrbench.contracts.options import Options
from attrbench.contracts.ranking import top_k
from attrbench.errors import Unavailable
from attrbench.features.gradient_rows import GradientRows
from attrbench.plugins import builtin
from attrbench.plugins.registry import Plugin, Registry
from tests.registering import plugin_of


def registry_of(*methods: type[Method[Any]]) -> Registry:
    """A registry with the core's own and these methods."""
    registry = Registry()
    registry.load(Plugin("core", "attrbench", "0"), lambda: builtin)
    module = plugin_of(methods=methods)
    plugin = Plugin("broken", "tests", "0")
    registry.load(plugin, lambda: module)
    assert plugin.error is None
    return registry


def failing(report: Report) -> dict[str, str]:
    """Check -> line of those that failed."""
    return {finding.check: finding.found for finding in report.findings if finding.status == "failed"}


class CosineOptions(Options):
    steps: int = Field(2, ge=1, le=1000)
    """Number of timesteps."""


class Cosine(Method[Any]):
    """Sum of cosines of sketched gradients; `scorer` is what the relatives replace."""

    name = "cosine"
    summary = "sum of cosines"
    Options = CosineOptions

    def features(self):
        source = GradientSource(grid=TimestepGrid(steps=getattr(self.options, "steps", 2)))
        return FeatureRequest.both(GradientRows(source=source, sketch=Sketch(length=64)))

    def fit(self, train, context) -> Scorer:
        (feature,) = self.features().train
        return type(self).scorer(train[feature], feature, self.options)


class CosineScorer(ExhaustiveScorer):
    def __init__(self, rows, feature, options):
        self.rows, self.feature, self.options = rows, feature, options

    def all_rows(self):
        return self.rows.take(np.arange(self.rows.count)).reshape(self.rows.count, -1)

    def first_alike(self):
        """[n] the first item with the same row."""
        _, first, group = np.unique(self.all_rows().round(4), axis=0, return_index=True, return_inverse=True)
        return first[group.ravel()]

    def scores(self, query):
        return query[self.feature].rows.reshape(len(query.ids), -1) @ self.all_rows().T

    def size(self):
        return StateSize(rows=self.rows.count * self.rows.row_bytes)


Cosine.scorer = CosineScorer


def relative(name: str, scorer: type[Scorer], **attributes: Any) -> type[Cosine]:
    """`cosine` with another scorer, and other class attributes."""
    return type(name, (Cosine,), {"name": name, "scorer": scorer, "__module__": __name__, **attributes})


class Negative(CosineScorer):
    def scores(self, query):
        return -super().scores(query)


class ByPlaceInBatch(CosineScorer):
    def scores(self, query):
        scale = 1 + 0.1 * np.arange(len(query.ids), dtype=np.float32)
        return super().scores(query) * scale[:, None]


class TiesByChance(CosineScorer):
    def scores(self, query):
        scores = super().scores(query)
        again = self.first_alike() != np.arange(scores.shape[1])
        jitter = np.random.default_rng(0).uniform(0.01, 0.02, scores.shape[1]).astype(np.float32)
        return scores * (1 + again * jitter)


class DividesByNorm(CosineScorer):
    def scores(self, query):
        train, norms = self.all_rows(), query[self.feature].rows.reshape(len(query.ids), -1)
        with np.errstate(invalid="ignore"):
            train = train / np.linalg.norm(train, axis=1, keepdims=True)
            return (norms / np.linalg.norm(norms, axis=1, keepdims=True)) @ train.T


class KeepsACopy(CosineScorer):
    def __init__(self, rows, feature, options):
        super().__init__(rows, feature, options)
        self.copies = {"rows": [self.all_rows()]}


class HotScorer(CosineScorer):
    def scores(self, query):
        with np.errstate(all="ignore"):
            return super().scores(query) / np.float32(self.options.temperature)


class HotOptions(CosineOptions):
    temperature: float = 1.0
    """What scores are divided by."""
    seed: int = 0
    """Handed to numpy, which refuses what is below 0."""


def hot_fit(self, train, context):
    np.random.default_rng(self.options.seed)
    (feature,) = self.features().train
    return HotScorer(train[feature], feature, self.options)


SIX = {
    "wrong-sign": (relative("wrong-sign", Negative), "sign", "does not score above average"),
    "batch-noise": (relative("batch-noise", ByPlaceInBatch), "batches", "queries one by one"),
    "chance-ties": (relative("chance-ties", TiesByChance), "duplicates", "two equal training items"),
    "nan-at-zero": (relative("nan-at-zero", DividesByNorm), "finite", "the item with a zero gradient"),
    "hoarder": (relative("hoarder", KeepsACopy), "storage", "scorer.copies['rows'][0]"),
    "hot": (relative("hot", HotScorer, Options=HotOptions, fit=hot_fit), "options", "temperature=0"),
}
"""Name -> the method, the check that it fails, and what the line says."""


class GlobalRandomness(CosineScorer):
    def __init__(self, rows, feature, options):
        super().__init__(rows, feature, options)
        self.factor = np.random.rand()

    def scores(self, query):
        return super().scores(query) * np.float32(1 + self.factor)


class ByIndex(CosineScorer):
    def scores(self, query):
        return super().scores(query) * (1 + self.first_alike().astype(np.float32) / 100)  # equal items stay equal


class OwnTop(Scorer):
    """A search with the ranking upside down."""

    def __init__(self, rows, feature, options):
        self.inner = CosineScorer(rows, feature, options)

    def top(self, query, k):
        ids, scores = top_k(self.inner.scores(query), k)
        return type(top_k(scores, k))(ids[:, ::-1], scores[:, ::-1])

    def exact(self):
        return self.inner

    def size(self):
        return self.inner.size()


class Deviations(CosineScorer):
    def __init__(self, rows, feature, options):
        super().__init__(rows, feature, options)
        with np.errstate(all="ignore"):
            rows = self.all_rows()
            self.scale = np.sqrt(((rows - rows.mean(0)) ** 2).sum() / np.float32(len(rows) - 1))

    def scores(self, query):
        with np.errstate(all="ignore"):
            return super().scores(query) / self.scale


class Raises(CosineScorer):
    def __init__(self, rows, feature, options):
        raise IndexError("out of my depth")


class WrongShape(CosineScorer):
    def scores(self, query):
        return super().scores(query).T


def listed_features(self):
    return replace(Cosine.features(self), query=list(Cosine.features(self).query))


class SecretOptions(CosineOptions):
    power: float = Field(1.0, gt=0)


class AnythingGoes(CosineOptions):
    model_config: ClassVar = {"extra": "allow"}


class NumberChoice(CosineOptions):
    order: Literal[1, 2] = 1
    """A choice that no string can match."""


MORE = {
    "lists": (relative("lists", CosineScorer, features=listed_features), "features", "can't be hashed"),
    "global-randomness": (relative("global-randomness", GlobalRandomness), "repeats", "fitting again"),
    "by-index": (relative("by-index", ByIndex), "permutation", "another order"),
    "upside-down": (relative("upside-down", OwnTop), "top", "order of its own scores"),
    "deviations": (relative("deviations", Deviations), "one-item", "with one training item"),
    "raises": (relative("raises", Raises), "runs", "IndexError: out of my depth (broken.py:"),
    "wrong-shape": (relative("wrong-shape", WrongShape), "runs", "instead of float32 [6, 24]"),
    "undocumented": (relative("undocumented", CosineScorer, Options=SecretOptions), "options", "meaning: power"),
    "anything-goes": (relative("anything-goes", CosineScorer, Options=AnythingGoes), "options", "does not exist"),
    "numbers": (relative("numbers", CosineScorer, Options=NumberChoice), "options", "order=2"),
    "negative-first": (
        relative("not-first", ByIndex, self_first=True),
        "sign",
        "the method says self_first",
    ),
}
"""The same for rules beside those six."""


def unavailable_check(self, train_items):
    raise Unavailable("no weights at hand: get them with 'fetch weights'")


Missing = relative("missing", CosineScorer, check=unavailable_check)
Control = relative("control", Negative, control=True)
NeedNotBeFirst = relative("need-not-be-first", Negative, self_first=False)
SOUND: Sequence[type[Cosine]] = (Cosine, Control, NeedNotBeFirst)
Quick = relative("hasty", CosineScorer, quick={"steps": "1"})
