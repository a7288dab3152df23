"""The ground truth `lds`: how well a method's scores predict the losses of models trained on random subsets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import Effect, OpenGroundTruth, Stage
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.ground_truth.bank import SubsetBank
from attrbench.ground_truth.bank_truth import BankTruth
from attrbench.ground_truth.redrawn import FEATURES, PIXELS
from attrbench.metrics.lds import MeanScore, lead_ceiling, lead_over_others, mean_score, noise_ceiling, predictions

METRIC = "lds"
BANDS = ("low-noise", "middle-noise", "high-noise")
OVER_OTHERS = "over-others"
"""Of the metric that compares a query's own losses with those of the other queries."""


class LinearDatamodeling(BankTruth):
    """The ground truth `lds`: scores methods by the linear datamodeling score on losses of subset models."""

    name = "lds"
    summary = (
        "linear datamodeling score: scores summed over random subsets against the losses of models trained on them"
    )
    design = "subsets"
    tuning_metrics = (METRIC, *(f"{METRIC}-{part}" for part in (OVER_OTHERS, *BANDS, PIXELS, FEATURES)))

    def over(self, bank: SubsetBank) -> OpenLinearDatamodeling:
        """Return the LDS measurement over a bank of subset models."""
        return OpenLinearDatamodeling(bank)


class OpenLinearDatamodeling(OpenGroundTruth):
    """The ground truth `lds` on one loaded task, with the losses of that task's subset models."""

    needs_scores = True

    def __init__(self, bank: SubsetBank) -> None:
        self._bank = bank
        subsets, seeds = bank.losses.shape[:2]
        self.summary = f"{subsets} subset models with {seeds} training seeds each, trained already"

    def measure(self, outcome: Outcome, seed: int, stage: Stage) -> Effect:
        """Return a method's linear datamodeling score by losses (all timesteps, each third) and by redrawn pictures."""
        if outcome.scores is None:
            return Effect(notes=["no lds: it needs the scores of all items, and the method gives only the top"])
        predicted = predictions(outcome.scores, self._bank.members)
        results, facts = [], dict(self._counts)
        for name, effects in self._effects().items():
            ceiling, mean_effects = noise_ceiling(effects), effects.mean(axis=1).T
            result = _result(name, mean_score(predicted, mean_effects), ceiling.corrected)
            results.append(result)
            facts |= _ceiling_facts(result, ceiling.single)
            if name == METRIC and len(predicted) > 1:
                lead = mean_score(predicted, mean_effects, lead_over_others)
                results.append(_result(f"{METRIC}-{OVER_OTHERS}", lead, lead_ceiling(effects)))
        return Effect(metrics=results, facts=facts)

    def _effects(self) -> dict[str, NDArray[np.float64]]:
        """Return metric name -> the subset models' effects on the queries that scores shall predict, [J, S, m] each.

        An effect is larger where what matters for the query was left out: the loss, or the distance of the picture.
        """
        bank = self._bank
        losses = {
            name: bank.losses[..., steps].astype(np.float64).mean(axis=3) for name, steps in self._bands().items()
        }
        moved = {f"{METRIC}-{name}": bank.distances[..., i] for i, name in enumerate(bank.facts.distances)}
        return losses | {name: distances.astype(np.float64) for name, distances in moved.items()}

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


def _result(name: str, mean: MeanScore, ceiling: float | None) -> MetricResult:
    noise = None
    if mean.subset_error is not None:
        noise = TrainingNoise(error=mean.subset_error, freedom=mean.freedom)
    return MetricResult(
        metric=name,
        k=None,
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


def _ceiling_facts(result: MetricResult, single: float | None) -> dict[str, float]:
    """Return one seed's correlation with another, the ceiling and the score's share of it, as facts of a record."""
    key, facts = result.metric.replace("-", "_"), dict[str, float]()
    if single is not None and result.ceiling is not None:
        facts |= {f"{key}_seed_correlation": single, f"{key}_ceiling": result.ceiling}
    if result.ceiling:
        facts[f"{key}_over_ceiling"] = result.value / result.ceiling
    return facts
