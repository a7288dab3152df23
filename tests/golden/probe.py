"""Run methods on a task in process and report every array that they get and give.

This is the only module of the golden records that knows attrbench: a change of the core ports this file and no other.
Arrays are intercepted at the contract (`Method.fit`, `Method.transform`, `Scorer.scores` and `Scorer.top`), not read
from the store.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import ExhaustiveScorer
from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Workspace
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import MethodRequest, request_methods, request_tasks
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import registry


class Sink(Protocol):
    """Takes the arrays of a run as they come."""

    def array(self, label: str, name: str, array: np.ndarray) -> None:
        """Take one array.

        Args:
            label: the `-m` string of the method.
            name: split, path and kind of the array, such as `train/rows` or `query/part1/products`.
            array: the numbers.
        """


@dataclass
class Outcome:
    """What the record of one method says.

    Attributes:
        label: the `-m` string.
        status: of the record; `unavailable` where the method cannot work on this task or machine.
        error: why a method failed.
        scores: [m, n] float32 scores; of the exhaustive search over the same rows, for an approximate search.
        ranking: [m, depth] training ids, strongest first.
        approximate: whether the ranking is that of an approximate search.
        metrics: name of a metric with its cut-off -> value, low, high, ceiling, random and the value of each query.
        facts: numbers that the method reports of itself.
        storage: bytes by kind, file headers left out.
    """

    label: str
    status: str
    error: str | None = None
    scores: np.ndarray | None = None
    ranking: np.ndarray | None = None
    approximate: bool = False
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    storage: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """The images of a task that a run looks at: [n, H, W, C] and [m, H, W, C] uint8."""

    train: np.ndarray
    queries: np.ndarray


class Probe:
    """Runs of methods on one task, from an empty cache that goes with the object.

    Args:
        task: the `-t` string.
        train: how many training items.
        queries: how many queries.
        batch: pairs of item and timestep in a backward pass; fixed, as the default depends on the free memory.
        executor: the `--executor` string.
    """

    def __init__(self, task: str, train: int, queries: int, batch: int, executor: str = "inline") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="golden-")
        folder = Path(self._folder.name)
        self._settings = RunSettings(
            out=folder / "records",
            cache=folder / "cache",
            limit_train=train,
            limit_queries=queries,
            engine=Engine(batch_size=batch),
            executor=executor,
        )
        (self._task,) = request_tasks(registry(), [task])

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @staticmethod
    def methods() -> list[str]:
        """Return the names of all registered methods that ship with attrbench."""
        found = registry()
        return [n for n in found.names("method") if found.provider("method", n).distribution == "attrbench"]

    def pictures(self) -> Pictures:
        """Open the task, draw its queries where they are not kept, and return the images."""
        self._settings.make_folders()
        opened = self._task.task.open(Workspace(self._settings.cache, torch.device("cpu")))
        train, queries = self._settings.limit_train, self._settings.limit_queries
        return Pictures(np.asarray(opened.train.images[:train]), np.asarray(opened.queries.images[:queries]))

    def run(self, labels: list[str], sink: Sink) -> Iterator[Outcome]:
        """Run methods together, as one command would, and yield the outcome of each as it comes.

        Args:
            labels: the `-m` strings; no two of them may mean the same.
            sink: gets the features.
        """
        requests: list[MethodRequest] = []
        watched: dict[str, _Watched] = {}
        for label in labels:
            (request,) = request_methods(registry(), [label])
            request = dataclasses.replace(request, optional=True)  # passed over where it is unavailable
            requests.append(request)
            watched[request.label] = _Watched(label, request, sink)
        for result in TaskRun(registry(), self._task, requests, self._settings, Silent()).results():
            yield watched.pop(result.record.method.label).outcome(result.record)
        for left in watched.values():
            yield Outcome(left.label, "unavailable")


class _Watched:
    """One method whose features, scores and rankings are noted."""

    def __init__(self, label: str, request: MethodRequest, sink: Sink) -> None:
        self.label = label
        self._sink = sink
        self._queries: dict[int, dict[str, np.ndarray]] = {}
        self._scores: dict[int, np.ndarray] = {}
        self._approximate = False
        method = request.method
        self._method = method.name
        self._fit, method.fit = method.fit, self._watch_fit
        self._transform, method.transform = method.transform, self._watch_transform
        if hasattr(method, "_factors"):
            self._factors, method._factors = method._factors, self._watch_factors

    def _put(self, name: str, array: np.ndarray) -> None:
        self._sink.array(self.label, name, array)

    def _watch_fit(self, train: TrainFeatures, context: Any) -> Any:
        for name, array in _of_training(self._method, train):
            self._put(f"train/{name}", array)
        scorer = self._fit(train, context)
        self._approximate = not isinstance(scorer, ExhaustiveScorer)
        if self._approximate:
            self._watch_top(scorer)
        else:
            self._watch_scores(scorer)
        return scorer

    def _watch_scores(self, scorer: Any) -> None:
        inner = scorer.scores

        def scores(query: QueryFeatures) -> np.ndarray:
            result = inner(query)
            self._note(query, result)
            return result

        scorer.scores = scores

    def _watch_top(self, scorer: Any) -> None:
        inner, exact = scorer.top, scorer.exact()

        def top(query: QueryFeatures, k: int) -> Ranking:
            result = inner(query, k)
            if exact is not None:
                self._note(query, exact.scores(query))
            return result

        scorer.top = top

    def _note(self, query: QueryFeatures, scores: np.ndarray) -> None:
        (index,) = query.ids.tolist()  # a run asks for one query at a time
        self._scores[index] = np.array(scores[0])
        self._queries[index] = dict(_of_queries(self._method, query))

    def _watch_transform(self, gradients: torch.Tensor, context: Any) -> Any:
        self._put("query/transform/given", gradients.detach().cpu().numpy())
        result = self._transform(gradients, context)
        self._put("query/transform/result", result.gradients.detach().cpu().numpy())
        return result

    def _watch_factors(self, context: Any) -> Any:
        kept = self._factors(context)
        for name, tensor in kept.value.tensors().items():
            self._put(f"factors/{name}", tensor.cpu().numpy())
        return kept

    def outcome(self, record: Any) -> Outcome:
        """Return what the record and the calls said, and hand the features of the queries over."""
        m = len(self._scores)
        for name in self._queries.get(0, {}):
            if name.endswith("train_norms"):  # the same for every query
                self._put(f"query/{name}", self._queries[0][name])
            else:
                self._put(f"query/{name}", np.concatenate([self._queries[i][name] for i in range(m)]))
        metrics = {
            result.name: {
                **{key: getattr(result, key) for key in ("value", "low", "high", "ceiling", "random")},
                "per_query": list(result.per_query),
            }
            for result in record.metrics
        }
        sizes = ("rows", "shared", "index", "rows_if_kept")
        return Outcome(
            label=self.label,
            status=record.status,
            error=record.error,
            scores=np.stack([self._scores[i] for i in range(m)]) if m else None,
            ranking=np.array(record.ranking, np.int64) if record.ranking else None,
            approximate=self._approximate,
            metrics=metrics,
            facts=dict(record.facts),
            storage={} if record.storage is None else {name: getattr(record.storage, name) for name in sizes},
        )


ALL_PARTS = ("tracin", "diffusion-retrac")
"""Methods whose features the records call parts throughout, as version 0.1 did; of others all but the first."""


def _named(method: str, views: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (prefix, view) of each feature in the order in which the method declares them."""
    first = 0 if method in ALL_PARTS else 1
    for index, view in enumerate(views.values()):
        yield "" if index < first else f"part{index - first}/", view


def _of_training(method: str, train: TrainFeatures) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of what `fit` gets."""
    for prefix, view in _named(method, train.views):
        if hasattr(view, "blocks"):
            yield f"{prefix}rows", np.concatenate([rows for _, rows in view.blocks()])
            yield f"{prefix}norms", view.norms
        elif hasattr(view, "matrix"):
            yield f"{prefix}gram", view.matrix
        elif isinstance(view, np.ndarray):
            yield prefix + ("images" if view.dtype == np.uint8 else "outputs"), view


def _of_queries(method: str, query: QueryFeatures) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of what a scorer gets."""
    for prefix, view in _named(method, query.views):
        if hasattr(view, "rows"):
            yield f"{prefix}rows", view.rows
            yield f"{prefix}norms", view.norms
        elif hasattr(view, "values"):
            yield f"{prefix}products", view.values
            yield f"{prefix}products/query_norms", view.query_norms
            yield f"{prefix}products/train_norms", view.train_norms
        elif view.dtype == np.uint8:
            yield f"{prefix}images", view
        else:
            yield prefix + ("cross" if view.dtype == np.float64 else "outputs"), view
