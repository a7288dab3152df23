"""Attribute single images: rank the training items by influence on them, with the code and cache of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.method import ExhaustiveScorer, Scorer
from attrbench.contracts.ranking import Ranking, top_k
from attrbench.data.near_duplicates import NearDuplicates
from attrbench.errors import AttrbenchError, Damaged, UsageError
from attrbench.evaluation.answers import check_ranking, checked_scores
from attrbench.evaluation.attribution import Attribution, Attributions
from attrbench.evaluation.attribution_parts import Subject
from attrbench.evaluation.breaches import refuse_breaches
from attrbench.evaluation.checks import check_methods, check_requests
from attrbench.evaluation.config import RunSettings, make_folder
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.evidence_map import comes_apart, evidence_map
from attrbench.evaluation.execute import compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world, with_queries
from attrbench.evaluation.meaningless import check_finite, check_finite_scores, check_weights, without_equal
from attrbench.evaluation.memory import keep_freed_memory
from attrbench.evaluation.plan import Plan, check_disk, make_plan
from attrbench.evaluation.progress import Advance, Reporter, Silent
from attrbench.evaluation.question import Block, Pictures, Question, check_question
from attrbench.evaluation.requests import MethodRequest, TaskRequest, request_executor
from attrbench.evaluation.world import TaskWorld
from attrbench.models.other_weights import adapter_digests

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

BLOCK = 64
"""Pictures that a stream of answers loads and scores at once."""


def attribute(
    registry: Registry,
    task: TaskRequest,
    requests: Sequence[MethodRequest],
    question: Question,
    settings: RunSettings,
    reporter: Reporter,
) -> Attributions:
    """Return the k training items that each method ranks as most influential on each given or generated image.

    Training features come from the cache, or go there; so a second picture costs its own gradients only.

    Raises:
        UsageError: for a question that the task's model can't be asked.
        AttrbenchError: for a picture that can't be read, and whatever ends a run.
    """
    asking = _Asking(registry, task, requests, question, settings, reporter)
    (block,) = asking.pictures.blocks(None, skip=False)
    return asking.answer(block, reporter)


def attribute_blocks(
    registry: Registry,
    task: TaskRequest,
    requests: Sequence[MethodRequest],
    question: Question,
    settings: RunSettings,
    reporter: Reporter,
    size: int = BLOCK,
) -> Iterator[Attributions]:
    """Yield the answers to a question of any length, block by block, in bounded memory.

    What a method makes of the training set is made once. A picture that can't be read, or that has no ranking, gets a
    reason instead of an error. Rows of queries are kept in the cache, so that a stream that was cut off is soon where
    it was.

    Raises:
        UsageError: for a question that the task's model can't be asked.
        AttrbenchError: for whatever ends a run.
    """
    asking = _Asking(registry, task, requests, question, settings, reporter, strict=False)
    blocks = asking.pictures.blocks(size, skip=True)
    first = next(blocks)
    yield asking.answer(first, reporter)  # with the training set's own progress
    with reporter.stage("queries", len(asking.pictures)) as advance:
        _repeat(advance, first.size)
        for block in blocks:
            yield asking.answer(block, _NotesOnly(reporter))
            _repeat(advance, block.size)


class _Asking:
    """A task opened for a question, with what the methods have made of its training set, answering block by block."""

    def __init__(
        self,
        registry: Registry,
        task: TaskRequest,
        requests: Sequence[MethodRequest],
        question: Question,
        settings: RunSettings,
        reporter: Reporter,
        strict: bool = True,
    ) -> None:
        torch_device(settings.device)
        self.requests = check_requests(task, requests, settings, reporter.note)
        check_question(question)
        make_folder(settings.cache, "--cache")
        self.registry, self.question, self.strict = registry, question, strict
        self.task = task
        if question.checkpoint is not None:
            self.task = replace(task, task=task.task.with_weights(question.checkpoint))
        self.settings = settings
        self.world = TaskReference.of(self.task, settings).open()
        self.opened = self.world.opened
        check_methods(self.requests, len(self.opened.train), settings, reporter.note)
        self.pictures = Pictures(question, self.opened, settings.cache)
        self._mapped = self._method_to_map() if question.evidence else ""
        self._scorers: dict[str, tuple[str, Scorer]] = {}
        self._near = NearDuplicates(self.opened.train) if question.duplicates == "group" else None
        self._model_checked = False

    def _method_to_map(self) -> str:
        """Return the label of the first method whose scores come apart by position.

        Raises:
            UsageError: where there is none, and for several pictures.
        """
        if len(self.pictures) != 1:
            raise UsageError(f"a map of the evidence is of one picture: there are {len(self.pictures)}")
        for request in self.requests:
            if comes_apart(request.method):
                return request.label
        names = " or ".join(request.label for request in self.requests)
        raise UsageError(
            f"no map of the evidence by {names}: only scores that are sums of products of whole gradients come apart by"
            " position: add -m grad-dot or -m dmin:v=none"
        )

    def answer(self, block: Block, reporter: Reporter) -> Attributions:
        """Return the answers of all methods about a block of pictures; none, if none of them was read."""
        if not len(block.items):
            return Attributions([], block, self.subject)
        with reporter.stage("model and pictures", 1) as advance:
            reference = TaskReference.of(self.task, self.settings, block.items)
            self.world = world = self.world.asked(with_queries(self.opened, block.items))
            use_world(reference, world)
            plan = make_plan(world, self.requests)
            advance()
        for line in () if self._model_checked else world.opened.model_description.adapter_lines:
            reporter.note(line)
        check_disk(plan, world)
        if not self._model_checked:
            refuse_breaches(world, of_model=bool(plan.stages))
            if plan.stages:
                check_weights(world.opened.denoiser.module)
                keep_freed_memory(world.opened.denoiser.module)
        self._model_checked = True
        try:
            answers = self._answers(plan, world, reference, block, reporter)
        except Damaged:  # bytes of a shard changed on the disk since it was computed: once more, with a new one
            self._scorers.clear()
            answers = self._answers(plan, world, reference, block, reporter)
        return Attributions(answers, block, self.subject)

    def _answers(
        self, plan: Plan, world: TaskWorld, reference: TaskReference, block: Block, reporter: Reporter
    ) -> list[Attribution]:
        """Return each method's answer about a block of pictures, after computing the features that the cache lacks."""
        with closing(request_executor(self.registry, self.settings.executor)) as executor:
            progress = compute(plan, world, reference, executor, reporter)
        answers = []
        with reporter.stage("scoring", len(self.requests)) as advance:
            for request in self.requests:
                with self._naming(request):
                    reader = FeatureReader(world, progress.features(request.label))
                    answers.append(self._with_evidence(request, self._answer(request, reader, block)))
                advance()
        return answers

    @contextmanager
    def _naming(self, request: MethodRequest) -> Iterator[None]:
        """Let errors say which of several methods they are of."""
        try:
            yield
        except AttrbenchError as error:
            if len(self.requests) == 1:
                raise
            raise type(error)(f"{request.label}: {error}") from error

    def _answer(self, request: MethodRequest, reader: FeatureReader, block: Block) -> Attribution:
        """Return one method's answer about a block whose features are there."""
        world, queries, question = reader.world, reader.query(), self.question
        scorer, nonfinite = self._scorer(request, reader), reader.nonfinite()
        count = world.count("train")
        found = _find(scorer, queries, count, min(question.k, count), min(question.lowest, count))
        faults: dict[int, str] = {}
        if self.strict:
            if found.scores is not None:
                check_finite_scores(found.scores)
            ranking = without_equal(scorer, queries, found.ranking, nonfinite)
        else:
            ranking, faults = _one_by_one(scorer, queries, found, nonfinite)
        return Attribution(
            subject=self.subject,
            method=request.label,
            method_version=request.method.version,
            settings=_settings(request, reader),
            queries=block.items,
            train=world.opened.train,
            ranking=ranking,
            nonfinite=nonfinite,
            summary=request.method.summary,
            lowest=_lowest_of_ranked(found.lowest, ranking),
            scores=found.scores,
            faults=faults,
            near=self._near,
            wants_lowest=question.lowest > 0,
        )

    def _with_evidence(self, request: MethodRequest, answer: Attribution) -> Attribution:
        """Return an answer with the map of its first items' evidence, where this method's was asked for."""
        items = [row.item for row in answer.rows(0)][: self.question.evidence]
        if request.label != self._mapped or not items:
            return answer
        found = evidence_map(self.opened, request.method, request.label, answer.queries, items)
        return replace(answer, evidence=found)

    def _scorer(self, request: MethodRequest, reader: FeatureReader) -> Scorer:
        """Return a method's scorer, which is fitted anew only where its training features are others than before.

        Those of methods that keep inner products with the queries are others for each block.
        """
        fitted, key = self._scorers.get(request.label), reader.fingerprint
        if fitted is None or fitted[0] != key:
            context = reader.world.context(request, key, self.question.k)
            fitted = self._scorers[request.label] = key, request.method.fit(reader.train(), context)
        return fitted[1]

    @cached_property
    def subject(self) -> Subject:
        """Return what is asked about: task, model, data, and what of them is left out."""
        opened, limit = self.opened, self.settings.limit_train
        total = len(opened.train)
        config, checkpoint = opened.model_config, self.question.checkpoint
        return Subject(
            task=self.task.label,
            task_name=self.task.task.meta.name,
            checkpoint="" if checkpoint is None else str(checkpoint),
            fingerprints={
                "model": opened.model_description.fingerprint,
                **({} if config is None else adapter_digests(config)),
                "train": opened.train.fingerprint,
            },
            left_out={
                "train_items": max(0, total - (limit or total)),
                "limit_train": limit,
                "notes": list(opened.notes),
            },
        )


class _Found(NamedTuple):
    """The items that a scorer finds for queries: the highest, the lowest, and all scores, where it gives them."""

    ranking: Ranking
    lowest: Ranking | None
    scores: NDArray[np.float32] | None


def _find(scorer: Scorer, queries: QueryFeatures, items: int, k: int, lowest: int) -> _Found:
    """Return the k highest-scored and the lowest-scored training items of queries.

    Raises:
        AttrbenchError: where scores or ranking are not of `items` training items.
    """
    if not isinstance(scorer, ExhaustiveScorer):
        ranking = scorer.top(queries, k)
        check_ranking(ranking, len(queries.ids), items)
        return _Found(ranking, None, None)
    scores = checked_scores(scorer, queries, items)
    turned = top_k(-scores, lowest) if lowest else top_k(scores[:, :0], 0)
    return _Found(top_k(scores, k), Ranking(turned.ids, -turned.scores), scores)


def _lowest_of_ranked(lowest: Ranking | None, ranking: Ranking) -> Ranking | None:
    """Return the lowest-scored items of the queries that have a ranking; ids of -1 for the others."""
    if lowest is None:
        return None
    ranked: NDArray[np.bool_] = np.any(ranking.ids >= 0, axis=1)
    check_finite(Ranking(lowest.ids[ranked], lowest.scores[ranked]))
    return Ranking(np.where(ranked[:, None], lowest.ids, -1), lowest.scores)


def _one_by_one(
    scorer: Scorer, queries: QueryFeatures, found: _Found, nonfinite: Sequence[tuple[str, int, float]]
) -> tuple[Ranking, dict[int, str]]:
    """Return a ranking without the queries that can't be ranked (ids of -1), and the reason of each."""
    ranking = found.ranking
    ids, faults = ranking.ids.copy(), {}
    for query in range(len(ids)):
        row = slice(query, query + 1)
        lost = [entry for entry in nonfinite if entry[:2] == ("query", query)]
        try:
            if found.scores is not None:
                check_finite_scores(found.scores[row])
            without_equal(scorer, queries.query(query), Ranking(ranking.ids[row], ranking.scores[row]), lost)
        except AttrbenchError as error:
            ids[query], faults[query] = -1, str(error)
    return Ranking(ids, ranking.scores), faults


def _settings(request: MethodRequest, reader: FeatureReader) -> dict[str, Any]:
    """Return a method's options, and the noise and timesteps of its gradients, as JSON values."""
    sources: dict[GradientSource, dict[str, Any]] = {}
    for feature in (*reader.request.train, *reader.request.query):
        source = getattr(feature, "source", None)
        if isinstance(source, GradientSource):
            timesteps = reader.world.model(source.checkpoint).timesteps(source.grid)
            sources[source] = {**source.model_dump(mode="json"), "timesteps": [float(t) for t in timesteps]}
    return {"options": request.method.options.model_dump(mode="json"), "gradients": list(sources.values())}


class _NotesOnly(Silent):
    """A reporter that passes notes on and shows no stages, for blocks within a stage."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def note(self, line: str) -> None:
        """Pass one line of text to the inner reporter."""
        self._inner.note(line)


def _repeat(advance: Advance, times: int) -> None:
    for _ in range(times):
        advance()
