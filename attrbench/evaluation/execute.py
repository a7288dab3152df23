"""Carrying out the passes of a plan."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from attrbench.contracts.feature import GradientProducts
from attrbench.contracts.method import Context, Transformed
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.evaluation.execute_gram import compute_grams
from attrbench.evaluation.plan import Plan, PlannedPass
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.requests import MethodRequest
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import Claims
from attrbench.store.shards import Unit

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry


def compute_passes(plan: Plan, registry: Registry, reporter: Reporter) -> None:
    """Computes every shard that is missing, queries first, and then the Gram matrices."""
    for planned in sorted(plan.passes.values(), key=lambda p: p.split):  # "query" before "train"
        try:
            _compute(plan, planned, registry, reporter)
        except (Unavailable, UsageError) as error:  # the model has not what they ask of it: the others go on
            for label in planned.methods:
                plan.give_up(label, error)
    compute_grams(plan, reporter)


def _compute(plan: Plan, planned: PlannedPass, registry: Registry, reporter: Reporter) -> None:
    executor = registry.executor(plan.settings.executor)()
    for store in planned.stores.values():
        store.touch()  # what is planned is in use, whatever `attrbench cache gc` may want to remove meanwhile
    todo = planned.missing()
    if not todo:
        return
    with reporter.stage(f"{planned.split} gradients", len(todo)) as advance:
        queries = _Queries(plan, planned).all() if planned.split == "train" else {}
        if not planned.stores:
            return  # the methods that wanted them gave up
        with closing(Claims(plan.settings.cache / "claims" / plan.pass_fingerprint(planned)[:20])) as claims:
            work = _SharedWork(planned, _gradient_pass(plan, planned, queries), claims)
            for unit in executor.run(todo, work.try_one):
                if unit not in work.left:
                    advance()
            for _ in executor.run(work.left, work.wait_for):
                advance()


class _SharedWork:
    """The units of a pass, of which other processes may be computing some."""

    def __init__(self, planned: PlannedPass, gradient_pass: GradientPass, claims: Claims) -> None:
        self._stores = planned.stores
        self._pass = gradient_pass
        self._claims = claims
        self.left: list[Unit] = []

    def try_one(self, unit: Unit) -> None:
        """Computes the unit, unless another process is at it."""
        with self._claims.claim(unit.first, wait=False) as ours:
            if ours:
                self._pass.compute(unit, self._stores)
            else:
                self.left.append(unit)

    def wait_for(self, unit: Unit) -> None:
        """Waits for the other process, and computes what it did not."""
        with self._claims.claim(unit.first, wait=True):
            self._pass.compute(unit, self._stores)


def _gradient_pass(plan: Plan, planned: PlannedPass, queries: Mapping[GradientProducts, Transformed]) -> GradientPass:
    split = Split(planned.split, plan.items(planned.split), one_by_one=planned.split == "query")
    key = fingerprint([plan.pass_fingerprint(planned), plan.settings.engine.backend, plan.settings.device])
    memo = plan.settings.cache / "batch-sizes" / f"{key[:20]}.json"
    return GradientPass(planned.source, plan.opened.denoiser, split, plan.settings.engine, queries, memo)


class _Queries:
    """What the training gradients of a pass are multiplied with, held in memory while the training set passes by."""

    def __init__(self, plan: Plan, planned: PlannedPass) -> None:
        self._plan = plan
        self._planned = planned

    def all(self) -> dict[GradientProducts, Transformed]:
        """For each products feature that is not whole yet; a method that raises here gives up, the others go on."""
        plan, planned = self._plan, self._planned
        found: dict[GradientProducts, Transformed] = {}
        gradients: dict[str, Tensor] = {}
        for feature in [feature for feature in planned.stores if isinstance(feature, GradientProducts)]:
            if feature not in planned.stores:
                continue  # its method gave up over another feature
            if not any(planned.stores[feature].missing(unit) for unit in planned.units):
                continue
            try:
                if feature.timesteps not in gradients:
                    gradients[feature.timesteps] = self._gradients(feature.timesteps == "mean")
                found[feature] = self._transformed(feature, gradients[feature.timesteps])
            except Exception as error:
                for label in list(planned.serves[feature]):
                    plan.give_up(label, error)
        return found

    def _gradients(self, mean: bool) -> Tensor:
        """[T, m, p] whole gradients of the queries, or their means [1, m, p]."""
        plan, planned = self._plan, self._planned
        query_pass = GradientPass(
            planned.source, plan.opened.denoiser, Split("query", plan.opened.queries), plan.settings.engine
        )
        total = query_pass.gradients.total
        need = 4 * plan.query_count * (1 if mean else len(query_pass.timesteps)) * total
        free = psutil.virtual_memory().available
        if plan.opened.denoiser.device.type == "cuda":
            free = torch.cuda.mem_get_info(plan.opened.denoiser.device)[0]
        if need > 0.8 * free:
            raise AttrbenchError(
                f"the whole gradients of {plan.query_count} queries need {need / 1e9:.1f} GB of memory,"
                f" {free / 1e9:.1f} GB are free; use a sketch (v=...) or fewer queries (--limit-queries)"
            )
        return query_pass.whole(Unit(0, plan.query_count), mean)

    def _transformed(self, feature: GradientProducts, gradients: Tensor) -> Transformed:
        request = self._plan.transformer(feature)
        if request is None:
            return Transformed(gradients)
        lost = gradients.isnan().any(dim=2, keepdim=True)
        started = time.perf_counter()
        context = method_context(self._plan, request, self._planned.stores[feature].fingerprint)
        made = request.method.transform(gradients.nan_to_num(0.0), context)
        if made.gradients.shape != gradients.shape:
            raise AttrbenchError(f"its transform turned {tuple(gradients.shape)} into {tuple(made.gradients.shape)}")
        rows = made.gradients.to(gradients.dtype)
        bad = ~rows.isfinite().all(dim=2)
        if bad.any():
            raise AttrbenchError(f"its transform of query {int(bad.nonzero()[0, 1])} is not finite")
        seconds = time.perf_counter() - started - made.state_seconds
        facts = {name: value for name, value in made.facts.items() if math.isfinite(value)}
        costs = {"state_bytes": made.state_bytes, "state_seconds": made.state_seconds, "query_seconds": seconds}
        return replace(made, gradients=rows.masked_fill(lost, torch.nan), facts={**facts, **costs})


def method_context(plan: Plan, request: MethodRequest, fingerprint: str, wanted: int | None = None) -> Context:
    """What a method may use besides the features with this fingerprint, of which it may rank `wanted` items a query."""
    return Context(
        seed=plan.settings.seed,
        depth=request.method.depth(plan.depth if wanted is None else min(wanted, plan.train_count)),
        workspace=plan.settings.cache / "methods" / request.spec.name,
        fingerprint=fingerprint,
        denoiser=lambda: plan.opened.denoiser,
        training=lambda source: NoisySamples(
            source, plan.denoiser(source), Split("train", plan.opened.train), plan.train_count
        ),
    )
