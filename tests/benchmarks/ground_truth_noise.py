"""What the noises of the measured losses do to `lds`, from the models that a build kept.

    attrbench ground-truth build digits-mini --subsets 24 --keep-weights --cache CACHE
    python -m tests.benchmarks.ground_truth_noise digits-mini CACHE --subsets 24 --shared-noise

How large the error of the measured losses is that comes of their noises, in units of their spread between subsets: from
two measurements of a quarter of the noises each. With --shared-noise also what methods that differentiate under one
noise for all items would gain if the measure shared it: their `lds` by losses at that very noise, beside `lds` at four
others.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import attrbench
from attrbench.contracts.ground_truth import TrainingJob, TruthSetting
from attrbench.contracts.task import Workspace
from attrbench.evaluation.requests import request_tasks
from attrbench.ground_truth.bank import BankPlan
from attrbench.ground_truth.build import BankBuild
from attrbench.ground_truth.losses import QueryLosses
from attrbench.ground_truth.retraining import measured
from attrbench.ground_truth.subsets import membership
from attrbench.metrics.lds import mean_score, predictions
from attrbench.models.noise import gaussian
from attrbench.plugins.registry import registry

EVERY = 6
"""The error is estimated from every sixth model."""
OWN, OTHERS = 0, range(1, 5)
"""Seeds of shared noises: that of methods with `noise=shared`, and others."""
METHODS = (
    "dmin",
    "dmin:noise=per-item",
    "datainf",
    "datainf:noise=shared",
    "d-trak",
    "d-trak:noise=shared",
    "pixel",
)


@dataclass(frozen=True)
class LossesAtOneNoise(QueryLosses):
    """Losses of all queries at all timesteps under one noise, that of `noise=shared` for this seed."""

    def _noise(self, denoiser, key, timestep, draw):
        return gaussian(denoiser.latent_shape, "noise", self.seed)


class KeptModels:
    """The models of a task's bank whose weights lie in a cache, and the losses that they have by any measure."""

    def __init__(self, task: str, cache: Path, plan: BankPlan) -> None:
        self.task, self.plan = task, plan
        workspace = Workspace(cache, torch.device("cpu"))
        trainable = request_tasks(registry(), [task])[0].task
        self._setting = TruthSetting(trainable, trainable.open(workspace), workspace)
        build = BankBuild(self._setting, plan)
        self.jobs = build.jobs
        self.members = membership(build.subsets, len(self._setting.opened.train))

    def losses(self, job: TrainingJob, measure: QueryLosses) -> np.ndarray:
        """Return the losses of a job's model on the queries, means over timesteps, [m]."""
        model = self._setting.task.trained(job.weights, self._setting.workspace)
        return measure.losses(model, self._setting.opened.queries).astype(float).mean(axis=1)


def error_of_noises(models: KeptModels) -> float:
    """Return the error of a subset's losses (means over seeds) at the plan's noises, over their spread."""
    seeds, draws = models.plan.seeds, models.plan.draws
    kept = np.array([measured(job)["losses"].astype(float).mean(axis=1) for job in models.jobs])
    spread = kept.reshape(-1, seeds, kept.shape[1]).mean(axis=1).std(axis=0, ddof=1)
    chosen = models.jobs[::EVERY]
    measures = [QueryLosses(draws=draws // 4, seed=seed) for seed in (1, 2)]
    first, second = (np.array([models.losses(job, measure) for job in chosen]) for measure in measures)
    difference = first - second
    difference -= difference.mean(axis=0)  # what all models share moves no rank
    error = np.sqrt(np.square(difference).sum(axis=0) / (len(chosen) - 1) / 2)
    return float((error / spread).mean() * np.sqrt(draws // 4 / draws / seeds))


def scores_by_noise(models: KeptModels, read_cache: Path | None) -> list[str]:
    """Return a line for each method: its `lds` by losses at the shared noise of methods, and at others."""
    effects = {}
    for seed in (OWN, *OTHERS):
        losses = [models.losses(job, LossesAtOneNoise(draws=1, seed=seed)) for job in models.jobs]
        effects[seed] = np.array(losses).reshape(-1, models.plan.seeds, len(losses[0])).mean(axis=1).T
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "records", Path(folder) / "cache"
        results = attrbench.run(
            list(METHODS), models.task, out=out, cache=cache, read_cache=[read_cache] if read_cache else None
        )
        for method in METHODS:
            predicted = predictions(results.scores(method), models.members)
            values = {seed: mean_score(predicted, effect).value for seed, effect in effects.items()}
            others = [values[seed] for seed in OTHERS]
            named = ", ".join(f"{value:.3f}" for value in others)
            lines.append(
                f"{method}: {values[OWN]:.3f} at the methods' noise, {np.mean(others):.3f} at others ({named})"
            )
    return lines


def main() -> None:
    """Print the error of the noises, and what methods would gain by shared ones where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("cache", type=Path, help="cache of a build with --keep-weights")
    parser.add_argument("--subsets", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--shared-noise", action="store_true", help="also measure methods by losses at a shared noise")
    parser.add_argument("--read-cache", type=Path, help="cache that may have the methods' features")
    asked = parser.parse_args()
    plan = BankPlan(subsets=asked.subsets, seeds=asked.seeds, draws=asked.draws)
    models = KeptModels(asked.task, asked.cache, plan)
    print(f"error of {plan.draws} noises: {error_of_noises(models):.3f} of the spread between subsets", flush=True)  # noqa: T201
    if asked.shared_noise:
        for line in scores_by_noise(models, asked.read_cache):
            print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
