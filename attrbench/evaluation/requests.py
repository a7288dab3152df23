"""What the user asked for: methods, a task, and how to run them."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrbench.contracts.feature import Engine
from attrbench.contracts.options import Spec, build_options, parse_spec
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.taskfile.read import is_file, read_task

if TYPE_CHECKING:
    from attrbench.contracts.method import Method
    from attrbench.contracts.record import Tuned
    from attrbench.contracts.task import Task
    from attrbench.plugins.registry import Registry

CUTOFFS = (5, 10, 50, 100)  # DMin, section 4.1
MAX_DEPTH = max(CUTOFFS)


@dataclass(frozen=True)
class RunSettings:
    """How to run.

    Attributes:
        out: folder of the records.
        cache: folder of everything that can be computed again.
        device: torch device string.
        seed: of the run: random scores and bootstrap.
        limit_train, limit_queries: use only the first so many items; such runs are never ranked.
        engine: how gradients are computed.
        executor: name of the executor.
        rerun: compute again what an existing record already answers.
        dry_run: stop after the plan.
        retrain: whether the task's ground truths are measured, some by training for each method.
        ground_truths: those named beside the ones that are measured by default, with options: `lds:bank=FILE`.
    """

    out: Path
    cache: Path
    device: str = "cpu"
    seed: int = 0
    limit_train: int | None = None
    limit_queries: int | None = None
    engine: Engine = field(default_factory=Engine)
    executor: str = "inline"
    rerun: bool = False
    dry_run: bool = False
    retrain: bool = True
    ground_truths: tuple[str, ...] = ()

    def make_folders(self) -> None:
        """Makes the folders, and refuses one that can't be written to before hours are spent.

        Raises:
            AttrbenchError: one line that names it.
        """
        make_folder(self.out, "--out", written=True)
        make_folder(self.cache, "--cache")

    def command(self, method: MethodRequest, task: TaskRequest) -> str:
        """The command line that repeats one run."""
        tuned = method.tuned
        verb, label = ("run", method.label) if tuned is None else ("tune", tuned.sweep)
        parts = ["attrbench", verb, "-m", label, "-t", task.label]
        main = task.task.meta.main_metric
        for flag, value, default in (
            ("--by", main if tuned is None else tuned.by, main),
            ("--limit-train", self.limit_train, None),
            ("--limit-queries", self.limit_queries, None),
            ("--device", self.device, "cpu"),
            ("--seed", self.seed, 0),
        ):
            if value != default:
                parts += [flag, str(value)]
        parts += [part for text in self.ground_truths for part in ("--ground-truth", text)]
        return shlex.join(parts)


@dataclass(frozen=True)
class MethodRequest:
    """A method with validated options.

    Attributes:
        optional: asked for by `all`: where it is unavailable it is passed over.
        tuned: how its options were chosen; None where they were given.
    """

    spec: Spec
    method: Method[Any]
    optional: bool = False
    tuned: Tuned | None = None

    @property
    def label(self) -> str:
        """The `-m` string."""
        return str(self.spec)


@dataclass(frozen=True)
class TaskRequest:
    """A task with validated options."""

    spec: Spec
    task: Task[Any]

    @property
    def label(self) -> str:
        """The `-t` string."""
        return str(self.spec)


@dataclass(frozen=True)
class Sweep:
    """Values of a method's options, of which one is to be chosen.

    Attributes:
        text: the `-m` string.
        requests: the method with each of them, in the order given.
    """

    text: str
    requests: Sequence[MethodRequest]


def request_sweeps(registry: Registry, texts: Sequence[str]) -> list[Sweep]:
    """Reads `-m` strings, each of which must give several values to choose from.

    Raises:
        UsageError: for one that does not, or is wrong.
    """
    sweeps = []
    for text in texts:
        if text == "all":
            raise UsageError(
                "-m all: name the method whose options are to be chosen, such as 'd-trak:damping=0.01|0.1'"
            )
        requests = request_methods(registry, [text])
        if len(requests) < 2:
            raise UsageError(f"-m {text}: there is nothing to choose from; give values, such as damping=0.01|0.1|1")
        sweeps.append(Sweep(text, requests))
    return sweeps


def make_folder(folder: Path, flag: str, written: bool = False) -> None:
    """Makes a folder, with `written` makes sure that it can be written to.

    Raises:
        AttrbenchError: where it can't, with the flag that names another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if written:
            tempfile.TemporaryFile(dir=folder).close()  # a name of its own: others may start here as well
    except OSError as error:
        raise AttrbenchError(f"cannot write to {folder}: {error.strerror}; choose another folder with {flag}") from None


def request_methods(registry: Registry, texts: Sequence[str]) -> list[MethodRequest]:
    """Reads `-m` strings, sweeps and `all` expanded, doubles dropped.

    Raises:
        UsageError: for an unknown name or a wrong option.
    """
    requests: list[MethodRequest] = []
    named = [(text, False) for text in texts if text != "all"]
    every = [(name, True) for name in registry.names("method")] if "all" in texts else []
    for text, optional in named + every:
        for spec in parse_spec(text):
            kind = registry.method(spec.name)
            method = kind(build_options("method", spec, kind.Options))
            requests.append(MethodRequest(spec.renamed(kind.Options.aliases), method, optional))
    return without_doubles(requests)


def without_doubles(requests: Iterable[MethodRequest]) -> list[MethodRequest]:
    """The first request of each method with the same options, however they were written."""
    distinct: dict[tuple[str, str], MethodRequest] = {}
    for request in requests:
        distinct.setdefault((request.spec.name, request.method.options.model_dump_json()), request)
    return list(distinct.values())


def request_tasks(registry: Registry, texts: Sequence[str]) -> list[TaskRequest]:
    """Reads `-t` strings likewise: names of tasks, or paths of task files.

    Raises:
        UsageError: likewise.
        AttrbenchError: for a task file that is missing or wrong.
    """
    return [request_task(registry, spec) for text in texts for spec in parse_spec(text)]


def request_task(registry: Registry, spec: Spec) -> TaskRequest:
    """One task; raises as `request_tasks`."""
    if not is_file(spec.name):
        kind = registry.task(spec.name)
        return TaskRequest(spec, kind(build_options("task", spec, kind.Options)))
    task = read_task(Path(spec.name), spec.given)
    if task.meta.name in registry.names("task"):
        raise UsageError(
            f"{spec.name}: '{task.meta.name}' is a task of attrbench's own or of a plugin: choose another name"
        )
    return TaskRequest(spec, task)


def check_requests(
    task: TaskRequest, methods: Sequence[MethodRequest], settings: RunSettings, note: Callable[[str], None]
) -> list[MethodRequest]:
    """Refuses what can't work before anything is opened; returns the methods that can.

    Methods are checked later, where only the open task knows the size of its training set.

    Raises:
        UsageError: for limits below 1 or options that the training set cannot meet.
    """
    for name, limit in (("--limit-train", settings.limit_train), ("--limit-queries", settings.limit_queries)):
        if limit is not None and limit < 1:
            raise UsageError(f"{name} must be at least 1, not {limit}")
    total = task.task.meta.train_items
    return list(methods) if total is None else check_methods(methods, total, settings, note)


def check_methods(
    methods: Sequence[MethodRequest], train_items: int, settings: RunSettings, note: Callable[[str], None]
) -> list[MethodRequest]:
    """The methods that can work with a training set of this size; those of `all` that can't are passed over.

    Raises:
        UsageError: for options that the training set cannot meet.
    """
    count = train_items if settings.limit_train is None else min(train_items, settings.limit_train)
    able = []
    for request in methods:
        try:
            request.method.check(count)
            able.append(request)
        except AttrbenchError as error:
            if not (isinstance(error, Unavailable) and request.optional):
                raise
            note(f"passed over {request.label}: {error}")
        except Exception as error:
            raise AttrbenchError(f"method {request.label}: its check raised {type(error).__name__}: {error}") from error
    return able
