"""Carrying out the Gram matrices of a plan; what is added up is kept between sweeps, so that a kill loses one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from safetensors.numpy import load_file, save

from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.features import GradientGram, GradientSource
from attrbench.gradients.gram import GramPass, GramSums, Side, SideSums
from attrbench.gradients.pairs import Split
from attrbench.running.plan import Plan, PlannedGram
from attrbench.running.reporting import Reporter
from attrbench.store.claims import Claims
from attrbench.store.fingerprint import fingerprint
from attrbench.store.seals import drop, is_whole, write_sealed
from attrbench.store.shards import Timing


def compute_grams(plan: Plan, reporter: Reporter) -> None:
    """Computes every matrix, and all products with queries, that are missing."""
    for planned in list(plan.grams.values()):
        try:
            _compute(plan, planned, reporter)
        except (Unavailable, UsageError) as error:  # too large, or the model has not what they ask of it
            for label in planned.methods:
                plan.give_up(label, error)


def _compute(plan: Plan, planned: PlannedGram, reporter: Reporter) -> None:
    for store in (planned.store, *planned.crosses.values()):
        store.touch()
    if not planned.missing():
        return
    for unit, store in ((planned.whole, planned.store), *((planned.asked, s) for s in planned.crosses.values())):
        store.needs(unit)  # says which are damaged
    claims = plan.settings.cache / "claims" / planned.store.fingerprint[:20]
    with closing(Claims(claims)) as claimed, claimed.claim(0, wait=True):
        wanted = planned.missing()  # another process may have computed them meanwhile
        if wanted:
            _add_up(plan, planned, wanted, reporter)


def _add_up(plan: Plan, planned: PlannedGram, wanted: Sequence[GradientGram], reporter: Reporter) -> None:
    known = planned.known
    sources = [feature.queries or feature.source for feature in wanted]
    work = GramPass(
        plan.opened.denoiser,
        _side(plan, "train", planned.feature.source),
        [_side(plan, "query", source) for source in sources],
        planned.feature.timesteps == "mean-normalised",
        plan.settings.engine,
    )
    stores = [planned.store, *(planned.crosses[feature] for feature in wanted)]
    key = fingerprint([known, *(store.fingerprint for store in stores)])
    path = plan.settings.cache / "grams" / f"{key[:20]}.safetensors"
    sums = GramSums.of(load_file(path)) if is_whole(path) else work.start(known)
    with reporter.stage("Gram matrix", work.steps(sums)) as advance:
        work.compute(sums, partial(_keep, path), advance)
    train, *asked = sums.sides
    if train.products is not None:
        seconds = train.seconds + train.product_seconds / len(train.seconds)
        lost = _lost(plan, planned.feature.source, train)
        planned.store.write(planned.whole, {"gram": train.products}, Timing(seconds.tolist(), len(stores), lost))
    for store, source, side in zip(stores[1:], sources, asked, strict=True):
        assert side.products is not None
        seconds = side.seconds + side.product_seconds / len(side.seconds) + train.seconds.sum()
        lost = _lost(plan, source, side)
        store.write(planned.asked, {"cross": side.products}, Timing(seconds.tolist(), len(stores), lost))
    drop(path)


def _lost(plan: Plan, source: GradientSource, side: SideSums) -> list[tuple[int, float]]:
    timesteps = plan.denoiser(source).timesteps(source.grid)
    return [(item, timesteps[place]) for item, place in side.lost.tolist()]


def _side(plan: Plan, name: str, source: GradientSource) -> Side:
    count = plan.train_count if name == "train" else plan.query_count
    return Side(source, Split(name, plan.items(name), one_by_one=name == "query"), count)


def _keep(path: Path, sums: GramSums) -> None:
    try:
        write_sealed(path, save(sums.arrays()))
    except OSError as error:
        raise AttrbenchError(
            f"cannot write to the cache {path.parent}: {error.strerror}; free room there or choose another folder"
            " with --cache"
        ) from None
