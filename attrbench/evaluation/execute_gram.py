"""Carrying out the Gram matrices of a plan; what is added up is kept between sweeps, so that a kill loses one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from safetensors.numpy import load_file

from attrbench.contracts.feature import GradientSource
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.evaluation.plan import Plan, PlannedGram
from attrbench.evaluation.progress import Reporter
from attrbench.gradients.batching import ran_out_of_memory
from attrbench.gradients.gram_pass import SUMS_VERSION, GramPass, GramSums, Side, SideSums
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.artifacts import Artifact, write_arrays
from attrbench.store.fingerprint import fingerprint
from attrbench.store.locks import Claims
from attrbench.store.shards import Timing


def compute_grams(plan: Plan, reporter: Reporter) -> None:
    """Computes every matrix, and all products with queries, that are missing."""
    for planned in list(plan.grams.values()):
        try:
            _compute(plan, planned, reporter)
        except (Unavailable, UsageError) as error:  # too large, or the model has not what they ask of it
            _give_up(plan, planned.methods, error)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            items = plan.train_count
            line = (
                f"memory ran out over the Gram matrix of {items} items: use a sketch (v=...) or fewer (--limit-train)"
            )
            _give_up(plan, planned.methods, AttrbenchError(line))


def _give_up(plan: Plan, labels: Sequence[str], error: Exception) -> None:
    for label in labels:
        plan.give_up(label, error)


def _compute(plan: Plan, planned: PlannedGram, reporter: Reporter) -> None:
    for store in (planned.store, *planned.crosses.values()):
        store.touch()
    if not planned.missing():
        return
    for unit, store in ((planned.whole, planned.store), *((planned.asked, s) for s in planned.crosses.values())):
        store.needs(unit)  # says which are damaged
    for feature in planned.missing():
        try:
            NoisySamples(feature.queries or feature.source, plan.opened.denoiser, Split("query", plan.opened.queries))
        except (Unavailable, UsageError) as error:  # the queries have no trajectory, say: the others have the matrix
            _give_up(plan, planned.serves[feature], error)
    if not planned.crosses:
        return
    claims = plan.settings.cache / "claims" / planned.store.fingerprint[:20]
    with closing(Claims(claims)) as claimed:
        with claimed.claim(0, wait=False) as ours:
            if ours:
                _add_up(plan, planned, reporter)
                return
        reporter.note("another process is at this Gram matrix: waiting for it")
        with claimed.claim(0, wait=True):
            _add_up(plan, planned, reporter)


def _add_up(plan: Plan, planned: PlannedGram, reporter: Reporter) -> None:
    wanted = sorted(planned.missing(), key=lambda feature: planned.crosses[feature].fingerprint)
    if not wanted:
        return  # another process was quicker
    known = planned.known
    sources = [feature.queries or feature.source for feature in wanted]
    work = GramPass(
        plan.opened.denoiser,
        _side(plan, "train", planned.feature.source),
        [_side(plan, "query", source) for source in sources],
        planned.feature.timesteps == "mean-normalized",
        plan.settings.engine,
    )
    stores = [planned.store, *(planned.crosses[feature] for feature in wanted)]
    key = fingerprint([SUMS_VERSION, known, *(store.fingerprint for store in stores)])[:20]
    kept = _Kept(plan.settings.cache / "grams", key)
    sums = kept.latest() or work.start(known)
    with reporter.stage("Gram matrix", work.steps(sums)) as advance:
        work.compute(sums, kept.write, advance)
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
    kept.drop_before(None)


def _lost(plan: Plan, source: GradientSource, side: SideSums) -> list[tuple[int, float]]:
    timesteps = plan.denoiser(source).timesteps(source.grid)
    return [(item, timesteps[place]) for item, place in side.lost.tolist()]


def _side(plan: Plan, name: str, source: GradientSource) -> Side:
    count = plan.train_count if name == "train" else plan.query_count
    key = fingerprint([plan.items(name).fingerprint, source.model_dump(mode="json"), plan.settings.device, "gram"])
    memo = plan.settings.cache / "batch-sizes" / f"{key[:20]}.json"
    return Side(source, Split(name, plan.items(name), one_by_one=name == "query"), count, memo)


class _Kept:
    """Sums of an unfinished matrix: an artifact a sweep, the earlier one removed once the later one is whole.

    Args:
        folder: of the files.
        key: names the work.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def _artifact(self, name: str) -> Artifact:
        return Artifact(self._folder / name, "sums of a Gram matrix", "what an unfinished matrix has added up")

    def _artifacts(self) -> list[Artifact]:
        """Return what is there, the latest first."""
        names = sorted((path.name for path in self._folder.glob(f"{self._key}-*.safetensors")), reverse=True)
        return [self._artifact(name) for name in names]

    def latest(self) -> GramSums | None:
        """Return what the latest whole file says; None where there is none."""
        kept = next((kept for kept in self._artifacts() if kept.whole() is not None), None)
        return None if kept is None else GramSums.of(load_file(kept.path))

    def write(self, sums: GramSums) -> None:
        """Keep the sums after a sweep."""
        kept = self._artifact(f"{self._key}-{sums.stage:08d}.safetensors")
        kept.write(lambda part: write_arrays(part, sums.arrays()))
        self.drop_before(kept)

    def drop_before(self, last: Artifact | None) -> None:
        """Remove all files but the last."""
        for kept in self._artifacts():
            if kept != last:
                kept.drop()
