"""Measure the ground truths of a task for each method at the end of a run, and add the results to its record."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import Effect, GroundTruth, OpenGroundTruth, TruthSetting
from attrbench.contracts.metric import MAX_DEPTH, Outcome
from attrbench.contracts.options import Spec, build_options, parse_spec
from attrbench.contracts.record import Record
from attrbench.contracts.task import Task
from attrbench.errors import AttrbenchError, Unavailable, UsageError, error_line, raised_at
from attrbench.evaluation.progress import Reporter
from attrbench.ground_truth.retraining import run_trainings, use_opened_task

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

log = logging.getLogger("attrbench.run")


@dataclass(frozen=True)
class GroundTruths:
    """The ground truths that apply to a run's loaded task: those that the run measures, and those left out.

    Attributes:
        setting: the open task.
        measured: those that the run measures, by label.
        left_out: those that apply to the task and are left out, by label.
        unavailable: those that apply to the task and can't be had, by label.
    """

    setting: TruthSetting | None = None
    measured: Mapping[str, OpenGroundTruth] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    unavailable: frozenset[str] = frozenset()

    @property
    def depth(self) -> int:
        """Return the depth k of rankings that all measured ground truths together need."""
        return max((truth.depth for truth in self.measured.values()), default=0)

    def lines(self, why: str) -> list[str]:
        """Return lines for the printed plan: one for each measured ground truth, and one if any are left out.

        Args:
            why: they are left out.
        """
        lines = [f"ground truth {label}: {truth.summary}" for label, truth in self.measured.items()]
        return [*lines, *([f"retraining: left out, as {why}"] if self.left_out else [])]


def request_ground_truths(registry: Registry, texts: Sequence[str]) -> dict[str, GroundTruth[Any]]:
    """Return label -> ground truth for a run: all that are measured by default, and those that the user named.

    Args:
        registry: the plugins.
        texts: `NAME` or `NAME:KEY=VALUE,...` each; a name with options takes the place of its default.

    Raises:
        UsageError: for an unknown name or a wrong option.
    """
    specs = [spec for text in texts for spec in parse_spec(text)]
    named = {spec.name for spec in specs}
    by_default = [
        Spec(name)
        for name in registry.names("ground_truth")
        if name not in named and registry.ground_truth(name).by_default
    ]
    found = {}
    for spec in [*by_default, *specs]:
        kind = registry.ground_truth(spec.name)
        found[str(spec)] = kind(build_options("ground truth", spec, kind.Options))
    return found


def ground_truth_states(truths: Mapping[str, GroundTruth[Any]], task: Task[Any], cache: Path) -> dict[str, object]:
    """Return label -> data on files that decide a ground truth's results, for those that depend on files."""
    states = {label: truth.state(task, cache) for label, truth in truths.items()}
    return {label: state for label, state in states.items() if state is not None}


def open_ground_truths(
    truths: Mapping[str, GroundTruth[Any]],
    named: Sequence[str],
    setting: TruthSetting,
    measure: bool,
    note: Callable[[str], None],
) -> GroundTruths:
    """Return the ground truths that apply to a loaded task, opened on it; note those that are unavailable.

    Args:
        truths: those to ask for, by label.
        named: what the user gave; one that does not apply is an error.
        setting: the open task.
        measure: whether they are measured; otherwise they are only named.
        note: told of each that would apply and can't be had.

    Raises:
        UsageError: for one that was named and does not apply.
        AttrbenchError: for one that was named and can't be had.
    """
    found: dict[str, OpenGroundTruth] = {}
    unavailable = []
    wanted = {str(spec) for text in named for spec in parse_spec(text)}
    for label, truth in truths.items():
        try:
            opened = truth.open(setting)
        except Exception as error:
            if label in wanted or (isinstance(error, AttrbenchError) and not isinstance(error, Unavailable)):
                raise
            what = "" if isinstance(error, Unavailable) else f"{type(error).__name__}: "
            note(f"ground truth {label} is left out: {what}{error}")
            unavailable.append(label)
            continue
        if opened is not None:
            found[label] = opened
        elif label in wanted:
            raise UsageError(f"ground truth {label} does not apply to task {setting.task.meta.name}")
    measured, left_out = (found, []) if measure else ({}, list(found))
    return GroundTruths(setting, measured, left_out, frozenset(unavailable))


def with_ground_truths(
    record: Record, truths: GroundTruths, outcome: Outcome, reporter: Reporter, executor: Executor[Any]
) -> Record:
    """Return a method's record with the ground truths' results, or a failed record if one could not be measured.

    Its ranking is cut to what other records keep.
    """
    cut = record.model_copy(update={"ranking": [ids[:MAX_DEPTH] for ids in record.ranking]})
    assert truths.setting is not None
    effects: list[Effect] = []
    try:
        use_opened_task(truths.setting)
        for truth in truths.measured.values():
            run_trainings(truth.jobs(outcome), reporter.stage, executor)
            effects.append(truth.measure(outcome, record.seed, reporter.stage))
    except Exception as error:
        return failed(cut, error)
    return cut.model_copy(
        update={
            "metrics": [*(metric for effect in effects for metric in effect.metrics), *record.metrics],
            "controls": [control for effect in effects for control in effect.controls],
            "facts": {**record.facts, **{k: v for effect in effects for k, v in finite(effect.facts).items()}},
            "notes": [*record.notes, *(note for effect in effects for note in effect.notes)],
        }
    )


def failed(record: Record, error: Exception) -> Record:
    """Return the record with status `failed` and the error in one line; the traceback is logged for --debug.

    An unexpected error in a method of another package than attrbench is said to be of that package, and where it was
    raised.
    """
    log.debug("%s failed:", record.method.label, exc_info=error)
    owner = record.method.distribution
    foreign = not isinstance(error, AttrbenchError) and " " in owner and not owner.startswith("attrbench ")
    whose = ", ".join(filter(None, (f"method of {owner}", raised_at(error))))
    line = error_line(error) + (f" ({whose})" if foreign else "")
    return record.model_copy(update={"status": "failed", "error": line})


def finite(facts: Mapping[str, float]) -> dict[str, float]:
    """Return the facts without NaN and infinite values, which JSON can't hold."""
    return {name: value for name, value in facts.items() if math.isfinite(value)}
