"""What removing the items that a method retrieves does to the strokes that a new model draws (methods-spec A4).

The method's items are removed, a model is trained on the rest, and its pictures are compared with those of a model
that was trained on everything, with the same seed of training, number of steps and noise to start from. The same is
done for controls: items drawn at random, items of the same classes drawn at random, the items with the thickest
strokes, and those whose pixels resemble the queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from attrbench.contracts.ground_truth import Counterfactual, Effect, Stage
from attrbench.contracts.record import Control, TrainingNoise
from attrbench.errors import AttrbenchError
from attrbench_tasks.removal.retraining import Job, Retraining
from attrbench_tasks.removal.thickness import Formula, thicknesses
from attrbench_tasks.removal.thinning import METRIC, ks_statistic, result, thinning, training_noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Floats = NDArray[np.float64]

METHOD, RANDOM, MATCHED, THICKEST, PIXEL = "method", "random", "class-matched random", "thickest", "pixel cosine"
CONTROLS = (RANDOM, MATCHED, THICKEST, PIXEL)


@dataclass(frozen=True)
class RemovalRule:
    """Which items are removed for a ranking.

    Attributes:
        kind: `union`, all items in the top k of any query, as in the paper; or `most-retrieved`, the `count` items
            that are in the top k of most queries, so that every method removes equally many.
        k: items of each query that count as retrieved.
        count: how many are removed; not used by `union`.
    """

    kind: Literal["union", "most-retrieved"]
    k: int
    count: int

    @property
    def depth(self) -> int:
        """How deep rankings must be, so that there is always something to remove."""
        return self.k if self.kind == "union" else max(self.k, self.count)

    def removed(self, ranked: Ids, items: int) -> Ids:
        """The sorted ids that are removed for a ranking ([m, depth])."""
        from attrbench.metrics.removal import most_retrieved, union

        return union(ranked, self.k) if self.kind == "union" else most_retrieved(ranked, self.k, self.count, items)

    def shares(self, name: str) -> bool:
        """Whether a control removes the same items for every method."""
        return name == PIXEL or (name != MATCHED and self.kind == "most-retrieved")


@dataclass(frozen=True)
class Setting:
    """What decides the experiment besides the ranking.

    Attributes:
        retraining: how models are trained, and on what.
        classes: [n] class of each training item, for the class-matched control.
        strokes: [n] stroke thickness of each training item, for the control that removes the thickest.
        queries: [m, H, W, C] the queries, for the pixel control.
        rule: which items are removed.
        seeds: number of training seeds: the recipe's, and those after it.
        formula: of the thickness.
    """

    retraining: Retraining
    classes: Ids
    strokes: Floats
    queries: NDArray[np.uint8]
    rule: RemovalRule
    seeds: int
    formula: Formula


class Removal(Counterfactual):
    """The experiment."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._retraining = setting.retraining
        self.depth = setting.rule.depth
        sets = 2 + len(CONTROLS)  # those, the method's own, and nothing removed
        self.summary = (
            f"up to {sets} models of {self._retraining.recipe.steps} steps a method, with {setting.seeds} seeds each;"
            " those in the cache are shared"
        )

    def measure(self, ranked: Ids, seed: int, stage: Stage) -> Effect:
        """See `Counterfactual`."""
        import numpy as np

        setting = self._setting
        removed = setting.rule.removed(ranked, len(setting.classes))
        self._check(len(removed))
        jobs = {name: self._jobs(name, removed) for name in (METHOD, *CONTROLS)}
        whole = [Job((), seed) for seed in self._seeds]
        self._retraining.complete([*whole, *(job for group in jobs.values() for job in group)], stage)
        before = self._strokes(whole)
        after = {name: self._strokes(group) for name, group in jobs.items()}
        thinner = {name: thinning(before, strokes) for name, strokes in after.items()}
        distinct = {tuple(jobs[name]): thinner[name].mean(axis=1) for name in jobs}
        noise = training_noise(np.stack([np.zeros(setting.seeds), *distinct.values()]))
        facts = {**self._retrieval_facts(ranked, removed), **_stroke_facts(before, after)}
        return self._effect(thinner, noise, facts)

    def _effect(self, thinner: Mapping[str, Floats], noise: TrainingNoise | None, facts: Mapping[str, float]) -> Effect:
        controls = [
            Control(
                name=name,
                result=result(METRIC, thinner[name], noise).model_copy(update={"per_query": []}),
                shared=self._setting.rule.shares(name),
            )
            for name in CONTROLS
        ]
        value = {control.name: control.result.value for control in controls}
        own = result(METRIC, thinner[METHOD], noise)
        return Effect(
            metrics=[
                own.model_copy(update={"ceiling": value[THICKEST], "random": value[RANDOM]}),
                result(f"{METRIC}-over-class-matched", thinner[METHOD] - thinner[MATCHED], noise),
            ],
            controls=controls,
            facts=facts,
        )

    def _check(self, removed: int) -> None:
        left, batch = len(self._setting.classes) - removed, self._retraining.recipe.batch_size
        if left < batch:
            raise AttrbenchError(
                f"{removed} of {len(self._setting.classes)} items would be removed, and fewer than a batch of {batch}"
                " be left to train on: choose removal=most-retrieved, or a smaller top_k or removed"
            )

    @property
    def _seeds(self) -> range:
        first = self._retraining.recipe.seed
        return range(first, first + self._setting.seeds)

    def _jobs(self, name: str, removed: Ids) -> list[Job]:
        """The models of one choice of items, by training seed; what is drawn at random is drawn for each."""
        return [Job(tuple(self._choice(name, removed, seed).tolist()), seed) for seed in self._seeds]

    def _choice(self, name: str, removed: Ids, seed: int) -> Ids:
        from attrbench.metrics.removal import class_matched, highest, random_items

        setting, items = self._setting, len(self._setting.classes)
        if name == RANDOM:
            return random_items(len(removed), items, seed)
        if name == MATCHED:
            return class_matched(removed, setting.classes, seed)
        if name == THICKEST:
            return highest(setting.strokes, len(removed))
        if name == PIXEL:
            return setting.rule.removed(self._pixel_ranking, items)
        return removed

    @cached_property
    def _pixel_ranking(self) -> Ids:
        """The ranking of the method `pixel`, to the last bit: one query at a time, as that is asked."""
        import numpy as np

        from attrbench.contracts.ranking import top_k

        def unit(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            flat = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
            return flat

        train, queries = unit(self._retraining.train.images), unit(self._setting.queries)
        return np.concatenate([top_k(query[None] @ train.T, self.depth).ids for query in queries])

    def _strokes(self, jobs: Sequence[Job]) -> Floats:
        """[seeds, pictures] thickness of what each model drew."""
        import numpy as np

        return np.stack([thicknesses(self._retraining.drawn(job), self._setting.formula) for job in jobs])

    def _retrieval_facts(self, ranked: Ids, removed: Ids) -> dict[str, float]:
        import numpy as np

        from attrbench.metrics.removal import hubness

        items, k = len(self._setting.classes), self._setting.rule.k

        def overlap(name: str) -> float:
            other = self._choice(name, removed, self._retraining.recipe.seed)
            return len(np.intersect1d(removed, other)) / max(1, len(removed))

        return {
            "removed": float(len(removed)),
            **hubness(ranked, k, removed, items),
            "among_the_thickest": overlap(THICKEST),
            "among_pixel_cosine": overlap(PIXEL),
        }


def _stroke_facts(before: Floats, after: Mapping[str, Floats]) -> dict[str, float]:
    import numpy as np

    return {
        "training_seeds": float(before.shape[0]),
        "pictures": float(before.shape[1]),
        "empty_pictures": float(np.isnan(np.stack([before, *after.values()])).sum()),
        "thickness_before": float(np.nanmean(before)),
        "thickness_after": float(np.nanmean(after[METHOD])),
        "ks": ks_statistic(before, after[METHOD]),
        "ks_random": ks_statistic(before, after[RANDOM]),
    }
