"""The ground truth `lds`: how well a method's scores predict the losses of models trained on random subsets."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import Effect, OpenGroundTruth, Stage
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import MetricResult
from attrbench.ground_truth.bank import SubsetBank
from attrbench.ground_truth.bank_truth import BankTruth, bank_noise
from attrbench.ground_truth.redrawn import FEATURES, PIXELS
from attrbench.metrics.lds import (
    MeanScore,
    NoiseCeiling,
    balanced_losses,
    lead_ceiling,
    lead_over_others,
    mean_score,
    noise_ceiling,
    predictions,
    top_counts,
)

METRIC = "lds"
BANDS = ("low-noise", "middle-noise", "high-noise")
OVER_OTHERS = "over-others"
"""Of the metric that compares a query's own losses with those of the other queries."""
BALANCED = "balanced"
"""Of the metric in which all timesteps weigh alike, each one's losses in units of their spread between models."""
TOP = "lds-top"
"""The metric of the first k items alone, each of them counting as much."""
TOP_SIZES = (10, 50, 100)
"""The k of that metric."""


class LinearDatamodeling(BankTruth):
    """The ground truth `lds`: scores methods by the linear datamodeling score on losses of subset models."""

    name = "lds"
    summary = (
        "linear datamodeling score: scores summed over random subsets, or items of the top counted in them, against"
        " the losses of models trained on them"
    )
    design = "subsets"
    tuning_metrics = (
        METRIC,
        *(f"{METRIC}-{part}" for part in (OVER_OTHERS, BALANCED, *BANDS, PIXELS, FEATURES)),
        *(f"{TOP}@{k}" for k in TOP_SIZES),
    )

    def over(self, bank: SubsetBank) -> OpenLinearDatamodeling:
        """Return the LDS measurement over a bank of subset models."""
        return OpenLinearDatamodeling(bank)


class OpenLinearDatamodeling(OpenGroundTruth):
    """The ground truth `lds` on one loaded task, with the losses of that task's subset models."""

    depth = max(TOP_SIZES)
    needs_scores = True

    def __init__(self, bank: SubsetBank) -> None:
        self._bank = bank
        subsets, seeds = bank.losses.shape[:2]
        self.summary = f"{subsets} subset models with {seeds} training seeds each, trained already"

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return a method's linear datamodeling score by losses (all timesteps, each third) and by redrawn pictures.

        Of a method that gives only the top: that of its first items alone, by the losses of all timesteps.
        """
        effects, ceilings = self._effects, self._ceilings
        facts = dict(self._counts)
        for name, ceiling in ceilings.items():
            facts |= _ceiling_facts(name, ceiling)
        top = self._top(outcome.ranked, effects[METRIC], ceilings[METRIC].corrected)
        if outcome.scores is None:
            lacking = "it needs the scores of all items, and the method gives only the top"
            return Effect(top, facts=facts, notes=[f"no lds: {lacking}"])
        predicted = predictions(outcome.scores, self._bank.members)
        results = []
        for name, values in effects.items():
            mean_effects = values.mean(axis=1).T
            result = _result(name, mean_score(predicted, mean_effects), ceilings[name].corrected)
            results.append(result)
            if result.ceiling:
                facts[f"{_key(name)}_over_ceiling"] = result.value / result.ceiling
            if name == METRIC and len(predicted) > 1:
                lead = mean_score(predicted, mean_effects, lead_over_others)
                results.append(_result(f"{METRIC}-{OVER_OTHERS}", lead, lead_ceiling(values)))
        return Effect(metrics=[*results, *top], facts=facts)

    def _top(self, ranked: NDArray[np.int64], losses: NDArray[np.float64], ceiling: float | None) -> list[MetricResult]:
        """Return how well the number of a query's first k items in each subset predicts the losses, for each k.

        A k that the ranking does not reach, or that is more than half of the items and so no top, is left out.
        """
        members, effects = self._bank.members, losses.mean(axis=1).T
        sizes = [k for k in TOP_SIZES if k <= ranked.shape[1] and 2 * k <= members.shape[1]]
        scores = {k: mean_score(top_counts(ranked[:, :k], members), effects) for k in sizes}
        return [_result(TOP, score, ceiling, k) for k, score in scores.items()]

    @cached_property
    def _effects(self) -> dict[str, NDArray[np.float64]]:
        """Return metric name -> the subset models' effects on the queries that scores shall predict, [J, S, m] each.

        An effect is larger where what matters for the query was left out: the loss, or the distance of the picture.
        """
        bank = self._bank
        losses = {
            name: bank.losses[..., steps].astype(np.float64).mean(axis=3) for name, steps in self._bands().items()
        }
        balanced = balanced_losses(bank.losses)
        moved = {f"{METRIC}-{name}": bank.distances[..., i] for i, name in enumerate(bank.facts.distances)}
        first = {METRIC: losses[METRIC], f"{METRIC}-{BALANCED}": balanced}
        return first | losses | {name: distances.astype(np.float64) for name, distances in moved.items()}

    @cached_property
    def _ceilings(self) -> dict[str, NoiseCeiling]:
        """Return metric name -> what the noise of training allows, which is the same for all methods."""
        return {name: noise_ceiling(values) for name, values in self._effects.items()}

    def _bands(self) -> dict[str, NDArray[np.int64]]:
        """Return metric name -> indices of its timesteps: all for `lds`, and each third from cleanest to noisiest."""
        steps = np.arange(len(self._bank.timesteps))
        bands = {METRIC: steps}
        if len(steps) >= len(BANDS):
            thirds = np.array_split(steps, len(BANDS))
            bands |= {f"{METRIC}-{band}": third for band, third in zip(BANDS, thirds, strict=True)}
        return bands

    @property
    def _counts(self) -> dict[str, float]:
        subsets, seeds = self._bank.losses.shape[:2]
        return {"lds_subsets": float(subsets), "lds_training_seeds": float(seeds)}


def _result(name: str, mean: MeanScore, ceiling: float | None, k: int | None = None) -> MetricResult:
    noise = None
    if mean.subset_error is not None:
        noise = bank_noise(mean.subset_error, mean.subset_parts, mean.freedom)
    return MetricResult(
        metric=name,
        k=k,
        value=mean.value,
        low=mean.low,
        high=mean.high,
        ceiling=ceiling,
        random=0.0,
        per_query=mean.per_query.tolist(),
        higher_is_better=True,
        noise=noise,
        criterion=name == METRIC,
    )


def _ceiling_facts(name: str, ceiling: NoiseCeiling) -> dict[str, float]:
    """Return one seed's correlation with another and the ceiling of a metric, as facts of a record."""
    if ceiling.single is None or ceiling.corrected is None:
        return {}
    return {f"{_key(name)}_seed_correlation": ceiling.single, f"{_key(name)}_ceiling": ceiling.corrected}


def _key(name: str) -> str:
    return name.replace("-", "_")
