"""The ground truth `lds`: how well a method's scores predict the losses of models trained on random subsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.ground_truth import (
    Effect,
    GroundTruth,
    OpenGroundTruth,
    ShipsSubsetLosses,
    Stage,
    TruthSetting,
)
from attrbench.contracts.metric import Outcome
from attrbench.contracts.options import Options
from attrbench.contracts.record import MetricResult, TrainingNoise
from attrbench.contracts.task import Task
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.files import sha256_of
from attrbench.ground_truth.bank import SubsetBank, built_bank, read_bank
from attrbench.ground_truth.build import make_whole
from attrbench.metrics.lds import NoiseCeiling, linear_datamodeling_score, mean_score, noise_ceiling, predictions

METRIC = "lds"
BANDS = ("low-noise", "middle-noise", "high-noise")


class LDSOptions(Options):
    """Options of the ground truth `lds` (linear datamodeling score): the file of subset models' losses."""

    bank: Path | None = None
    """File of subset losses; none: the one built in the cache, or else the one that the task ships."""


class LinearDatamodeling(GroundTruth[LDSOptions]):
    """The ground truth `lds`: scores methods by the linear datamodeling score on losses of subset models."""

    name = "lds"
    summary = (
        "linear datamodeling score: scores summed over random subsets against the losses of models trained on them"
    )
    Options: ClassVar[type[LDSOptions]] = LDSOptions  # type: ignore[misc]

    def open(self, setting: TruthSetting) -> OpenLinearDatamodeling | None:
        """Return the LDS measurement for a task that has a file of subset models' losses; None without one.

        Raises:
            AttrbenchError: where the bank that was named does not fit the task.
            Unavailable: where one that was found does not.
        """
        path = self._bank(setting.task, setting.workspace.cache)
        if path is None:
            return None
        try:
            if path == built_bank(setting.task, setting.workspace.cache):
                make_whole(path, setting)
            return OpenLinearDatamodeling(read_bank(path, setting.task, setting.opened))
        except AttrbenchError as error:
            if self.options.bank is not None:
                raise
            raise Unavailable(str(error)) from None

    def state(self, task: Task[Any], cache: Path) -> object:
        """Return the checksum of the task's file of subset losses, to detect changes; None where there is none."""
        path = self._bank(task, cache)
        return sha256_of(path) if path is not None and path.is_file() else None

    def _bank(self, task: Task[Any], cache: Path) -> Path | None:
        if self.options.bank is not None:
            return self.options.bank
        places = [built_bank(task, cache), *([task.subset_losses] if isinstance(task, ShipsSubsetLosses) else [])]
        return next((path for path in places if path.is_file()), None)


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
            ceiling = noise_ceiling(effects)
            results.append(self._result(name, outcome.scores, predicted, effects, ceiling))
            facts |= _ceiling_facts(name, results[-1], ceiling)
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

    def _result(
        self,
        name: str,
        scores: NDArray[np.float32],
        predicted: NDArray[np.float64],
        effects: NDArray[np.float64],
        ceiling: NoiseCeiling,
    ) -> MetricResult:
        mean_effects = effects.mean(axis=1).T  # [m, J]
        mean = mean_score(predicted, mean_effects)
        noise = None
        if mean.subset_error is not None:
            noise = TrainingNoise(error=mean.subset_error, freedom=mean.freedom)
        return MetricResult(
            metric=name,
            k=None,
            value=mean.value,
            low=mean.low,
            high=mean.high,
            ceiling=ceiling.corrected,
            random=0.0,
            per_query=linear_datamodeling_score(scores, self._bank.members, mean_effects).tolist(),
            higher_is_better=True,
            noise=noise,
        )

    @property
    def _counts(self) -> dict[str, float]:
        subsets, seeds = self._bank.losses.shape[:2]
        return {"lds_subsets": float(subsets), "lds_training_seeds": float(seeds)}


def _ceiling_facts(name: str, result: MetricResult, ceiling: NoiseCeiling) -> dict[str, float]:
    """Return one seed's correlation with another, the ceiling and the score's share of it, as facts of a record."""
    key, facts = name.replace("-", "_"), dict[str, float]()
    if ceiling.single is not None and ceiling.corrected is not None:
        facts |= {f"{key}_seed_correlation": ceiling.single, f"{key}_ceiling": ceiling.corrected}
    if ceiling.corrected:
        facts[f"{key}_over_ceiling"] = result.value / ceiling.corrected
    return facts
