"""Run several methods on one task: plan, compute features, score, and write records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attrbench.code_digest import UNKNOWN
from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import TruthSetting
from attrbench.contracts.metric import Outcome
from attrbench.contracts.record import (
    PART_RUNS,
    TUNING_RUNS,
    Coverage,
    Record,
    parse_record,
    record_path,
    write_record,
)
from attrbench.contracts.record_origin import Tuned
from attrbench.contracts.task import Workspace
from attrbench.errors import AttrbenchError, Damaged, Unavailable, error_line
from attrbench.evaluation.breaches import refuse_breaches
from attrbench.evaluation.checks import check_methods, check_requests
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.devices import torch_device
from attrbench.evaluation.execute import Progress, compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.ground_truth_step import (
    GroundTruths,
    failed,
    open_ground_truths,
    request_ground_truths,
    with_ground_truths,
)
from attrbench.evaluation.jobs import TaskReference, use_world
from attrbench.evaluation.load import OtherLoad
from attrbench.evaluation.meaningless import check_weights
from attrbench.evaluation.memory import Peaks, keep_freed_memory, reset_peaks
from attrbench.evaluation.plan import Plan, check_disk, make_plan, plan_lines
from attrbench.evaluation.progress import Observed, Reporter
from attrbench.evaluation.record_builder import RecordBuilder, Scored, run_hardware
from attrbench.evaluation.requests import MethodRequest, TaskRequest, request_executor
from attrbench.evaluation.rescore import new_metrics
from attrbench.evaluation.run_status import StatusReporter
from attrbench.evaluation.score import measure_metrics, measure_queries, outcome_of
from attrbench.evaluation.thumbnail_step import lacks_pictures, write_thumbnails
from attrbench.evaluation.world import TaskWorld
from attrbench.store.artifacts import Artifact

if TYPE_CHECKING:
    from attrbench.contracts.task import OpenTask
    from attrbench.plugins.registry import Registry


@dataclass(frozen=True)
class Result:
    """The result of one method's run: its record, the record's path, and whether it is reused from an earlier run.

    Attributes:
        scores: [m, n] float32, where they were to be kept (`RunSettings.keep_scores`) and the method scores all items.
    """

    record: Record
    path: Path
    reused: bool
    scores: NDArray[np.float32] | None = None


class TaskRun:
    """A run of several attribution methods on one task, from plan to records.

    Args:
        registry: the plugins.
        task: the task request.
        methods: the method requests.
        settings: how to run.
        reporter: who is told.
    """

    def __init__(
        self,
        registry: Registry,
        task: TaskRequest,
        methods: Sequence[MethodRequest],
        settings: RunSettings,
        reporter: Reporter,
    ) -> None:
        self.registry = registry
        self.task = task
        self.settings = settings
        self._status = StatusReporter(reporter, task.label, [each.label for each in methods], settings.executor)
        self.reporter = Observed(self._status, registry)
        self.methods = check_requests(task, methods, settings, self.reporter.note)
        self.device = torch_device(settings.device)
        self._truths = request_ground_truths(registry, settings.ground_truths)
        self.records = RecordBuilder(
            registry, task, settings, run_hardware(registry, settings, self.device), self._truths
        )
        self._unasked: set[str] = set()
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._load = OtherLoad()
        self._top_scores: dict[str, NDArray[np.float32]] = {}

    def results(self) -> Iterator[Result]:
        """Yield a result for each method, reused ones first; a method that raises gets a record of status `failed`."""
        todo, done = [], []
        for request in self.methods:
            found = None if self.settings.rerun else self._existing(request)
            if found is None:
                self._check_place(request)
                todo.append(request)
            else:
                done.append(found.record)
                yield found
        self._note_new_metrics(len(self.methods) - len(todo))
        if not todo:
            self._keep_pictures(done)
            return
        self.settings.make_folders()
        reference = TaskReference.of(self.task, self.settings)
        world = reference.open()
        use_world(reference, world)
        with self.reporter.stage("model and queries", 1) as advance:
            if self.task.task.meta.train_items is None:
                todo = check_methods(todo, world.count("train"), self.settings, self.reporter.note)
            truths = self._open_truths(world)
            plan = make_plan(world, todo, truths)
            advance()
        for line in plan_lines(plan, world, truths):
            self.reporter.note(line)
        if self.settings.dry_run:
            return
        check_disk(plan, world)
        refuse_breaches(world, of_model=bool(plan.stages))
        if plan.stages:
            check_weights(world.opened.denoiser.module)
            keep_freed_memory(world.opened.denoiser.module)
        reset_peaks(self.device)
        self._load = OtherLoad()
        executing = closing(request_executor(self.registry, self.settings.executor))
        with self._status.kept(self.settings.cache), executing as executor:
            progress = compute(plan, world, reference, executor, self.reporter)
            for record in self._records(world, progress, todo, Peaks.now(self.device), truths, executor):
                path = write_record(record, self.settings.out)
                if self.settings.seal_records:
                    sealed_record(path).adopt()
                self.reporter.tell("record_written", record=record, path=path)
                done.append(record)
                yield Result(record, path, reused=False, scores=self._scores.pop(record.identity, None))
        self._keep_pictures(done, world.opened)

    def _keep_pictures(self, records: Sequence[Record], opened: OpenTask | None = None) -> None:
        """Add the pictures of what records rank at the top to the task's thumbnail sheet, unless they are there.

        Records that were all there before have the task opened for it, if that draws no pictures.
        """
        settings, ranked = self.settings, [record for record in records if record.ranking]
        if settings.dry_run or settings.seal_records or not ranked:
            return
        if opened is None and not lacks_pictures(settings.out, ranked):
            return
        try:
            opened = opened or self.task.task.open(Workspace(settings.cache, self.device))
            if opened.query_outline.is_drawn:
                write_thumbnails(settings.out, opened, ranked, self._top_scores)
        except (AttrbenchError, OSError) as error:
            self.reporter.note(f"no thumbnails for reports are kept beside the records: {error_line(error)}")

    def _records(
        self,
        world: TaskWorld,
        progress: Progress,
        todo: Sequence[MethodRequest],
        passes: Peaks,
        truths: GroundTruths,
        executor: Executor[Any],
    ) -> Iterator[Record]:
        """Yield the record of each method, with its ground truths measured before the next method is scored."""
        if not truths.measured:
            with self.reporter.stage("scoring", len(todo)) as advance:
                for request in todo:
                    record, _ = self._run_method(world, progress, request, passes)
                    advance()
                    if record is not None:
                        yield record
            return
        for request in todo:
            with self.reporter.stage(f"scoring {request.label}", 1) as advance:
                record, outcome = self._run_method(world, progress, request, passes)
                advance()
            if record is not None:
                if outcome is not None:
                    record = with_ground_truths(record, truths, outcome, self.reporter, executor)
                yield record

    def _open_truths(self, world: TaskWorld) -> GroundTruths:
        """Return the ground truths that apply to the task; only an unlimited run with `retrain` measures them."""
        settings = self.settings
        setting = TruthSetting(self.task.task, world.opened, Workspace(settings.cache, self.device))
        measure = settings.retrain and not world.is_limited
        truths = open_ground_truths(self._truths, settings.ground_truths, setting, measure, self.reporter.note)
        self.records.left_out = truths.unavailable
        return truths

    def _existing(self, request: MethodRequest) -> Result | None:
        if self.records.code(request).startswith(UNKNOWN):
            return None
        identity = self.records.identity(request)
        for path in sorted((self.settings.out / self.task.task.meta.name).glob(f"*-{identity[:10]}.json")):
            if self.settings.seal_records and sealed_record(path).whole() is None:
                sealed_record(path).report_damage("scoring again")
                continue
            try:
                record = parse_record(path.read_bytes())
            except ValueError:
                continue
            except OSError as error:
                raise AttrbenchError(
                    f"cannot read the record {path}: {error.strerror}; move it, or choose another folder with --out"
                ) from None
            is_answer = record.identity == identity and record.status in ("complete", "limited") and not record.left_out
            if is_answer and _failed_values(record.tuned) == _failed_values(request.tuned):
                self._unasked |= set(new_metrics(self.registry, record))
                return Result(record, path, reused=True)
        return None

    def _note_new_metrics(self, reused: int) -> None:
        """Say how to get the metrics that were registered since the records were made that answer this run."""
        if new := sorted(self._unasked):
            self.reporter.note(
                f"{reused} records were there before, and lack the metrics {', '.join(new)}:"
                f" 'attrbench score {self.settings.out}' adds those that need rankings alone, --rerun adds all"
            )

    def _check_place(self, request: MethodRequest) -> None:
        """Raise an error where a folder lies at the path of a method's record, before anything is computed."""
        task, identity = self.task.task.meta.name, self.records.identity(request)
        path = record_path(self.settings.out, task, request.label, identity)
        if path.is_dir():
            raise AttrbenchError(f"cannot write the record {path}: a folder lies there; move it away")

    def _run_method(
        self, world: TaskWorld, progress: Progress, request: MethodRequest, passes: Peaks
    ) -> tuple[Record | None, Outcome | None]:
        """Score one method; return its record (None if passed over) and its rankings (None if it failed)."""
        coverage = Coverage(
            train_items=world.count("train"),
            train_total=len(world.opened.train),
            queries=world.count("query"),
            queries_total=len(world.opened.queries),
        )
        reset_peaks(self.device)
        try:
            for is_last in (False, True):
                try:
                    reader = FeatureReader(world, progress.features(request.label))
                    coverage = coverage.model_copy(update={"nonfinite": reader.nonfinite()})
                    record, outcome = self._score(world, progress.plan, request, reader, coverage)
                    break
                except Damaged:  # bytes of a shard changed on the disk since it was computed: once more, with a new one
                    if is_last:
                        raise
                    progress.repair()
            peaks = Peaks.now(self.device)
            if progress.plan.computes_for(request.label):
                peaks = peaks.or_larger(passes)
            machine = self.records.hardware.model_copy(update={"load": self._load.cores()})
            update = {"peak_memory_bytes": peaks.resident, "peak_device_bytes": peaks.device, "hardware": machine}
            return record.model_copy(update=update), outcome
        except Exception as error:
            if isinstance(error, Unavailable) and request.optional:
                self.reporter.note(f"passed over {request.label}: {error}")
                return None, None
            return failed(self.records.without_results(request, world.opened, coverage), error), None

    def _score(
        self, world: TaskWorld, plan: Plan, request: MethodRequest, reader: FeatureReader, coverage: Coverage
    ) -> tuple[Record, Outcome]:
        context = world.context(request, reader.fingerprint, plan.depth)
        train, query = reader.train(), reader.query()
        started = time.perf_counter()
        scorer = request.method.fit(train, context)
        fit_seconds = time.perf_counter() - started
        measured = measure_queries(scorer, query, world.count("train"), context.depth, coverage.nonfinite)
        metrics = measure_metrics(self.registry, world, measured, self.settings.seed, self.reporter.note)
        scored = Scored(reader, scorer, fit_seconds, measured, metrics)
        record = self.records.with_results(request, world, scored, coverage)
        self._top_scores[record.identity] = measured.ranked_scores
        if self.settings.keep_scores and measured.scores is not None:
            self._scores[record.identity] = measured.scores
        return record, outcome_of(world, measured)


def sealed_record(path: Path) -> Artifact:
    """Return a record that lies in the cache together with its seal."""
    kinds = {TUNING_RUNS: "of tuning queries", PART_RUNS: "of one of several models"}
    return Artifact(path, "record", kinds.get(path.parent.parent.name, "of a run"))


def _failed_values(tuned: Tuned | None) -> list[str]:
    """Return the labels of values that had no result on the tuning queries when an option was chosen."""
    return [] if tuned is None else [value.label for value in tuned.tried if value.value is None]
