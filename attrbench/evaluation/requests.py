"""Requests of a run: methods, tasks, sweeps and executor, built from user input and validated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from attrbench.contracts.method import Method
from attrbench.contracts.options import Options, Spec, as_written, build_options, parse_spec
from attrbench.contracts.several_models import SeveralModels
from attrbench.contracts.task import Task
from attrbench.errors import UsageError, unknown_name
from attrbench.plugins.registry import registered_name
from attrbench.taskfile.names import is_file
from attrbench.text import one_line

if TYPE_CHECKING:
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.record_origin import Tuned
    from attrbench.contracts.report import Report
    from attrbench.plugins.registry import Registry

MethodLike: TypeAlias = "str | type[Method[Any]] | Method[Any]"
"""A method as one may ask for it: NAME or NAME:KEY=VALUE,... , a class, or an instance."""
TaskLike: TypeAlias = "str | Path | type[Task[Any]] | Task[Any]"
"""A task as one may ask for it: NAME:KEY=VALUE,... , the path of a task file, a class, or an instance."""


@dataclass(frozen=True)
class MethodRequest:
    """A method requested for a run: its name and options as given, and the method built with them.

    Attributes:
        spec: name and options as given.
        method: the method itself, of a class that is registered or not.
        optional: asked for by `all`: where it is unavailable it is passed over.
        tuned: how its options were chosen; None where they were given.
    """

    spec: Spec
    method: Method[Any]
    optional: bool = False
    tuned: Tuned | None = None

    @property
    def label(self) -> str:
        """Return the `-m` string (NAME:KEY=VALUE,...) that requests this method."""
        return str(self.spec)


@dataclass(frozen=True)
class TaskRequest:
    """A task requested for a run: its name and options as given, and the task built with them."""

    spec: Spec
    task: Task[Any]

    @property
    def label(self) -> str:
        """Return the `-t` string (NAME:KEY=VALUE,...) that requests this task."""
        return str(self.spec)

    @property
    def has_tuning_queries(self) -> bool:
        """Return whether its queries are those on which options are chosen, in place of the reported ones."""
        return bool(self.task.tuning) and self.task.tuning.items() <= self.spec.given.items()


@dataclass(frozen=True)
class Sweep:
    """A set of option values of a method, from which `tune` chooses one.

    Attributes:
        text: the `-m` string.
        requests: the method with each of them, in the order given.
    """

    text: str
    requests: Sequence[MethodRequest]


def request_sweeps(registry: Registry, methods: Sequence[MethodLike | Sequence[MethodLike]]) -> list[Sweep]:
    """Return the sweeps that `tune` chooses from: `-m` strings with several option values, or lists of methods.

    Raises:
        UsageError: for one that gives nothing to choose from, or is wrong.
    """
    sweeps = []
    for method in methods:
        if is_every(method):
            raise UsageError(
                f"-m {method}: name the method whose options are to be chosen, such as 'd-trak:damping=0.01|0.1'"
            )
        several = isinstance(method, Sequence) and not isinstance(method, str)
        requests = request_methods(registry, method if several else [method])  # type: ignore[list-item, arg-type]
        text = method if isinstance(method, str) else " | ".join(request.label for request in requests)
        if len(requests) < 2:
            raise UsageError(f"-m {text}: there is nothing to choose from; give values, such as damping=0.01|0.1|1")
        sweeps.append(Sweep(text, requests))
    return sweeps


def request_executor(registry: Registry, text: str) -> Executor[Any]:
    """Return the executor that a string names, such as `inline` or `processes:4`.

    Raises:
        UsageError: for an unknown name or a wrong option.
    """
    name, _, value = text.partition(":")
    kind = registry.executor(name)
    if value and "=" not in value and kind.short_option:
        value = f"{kind.short_option}={value}"
    (spec,) = parse_spec(f"{name}:{value}" if value else name)
    return kind(build_options("executor", spec, kind.Options))


def request_report(registry: Registry, text: str | None, path: Path) -> Report[Any]:
    """Return the report that a string names, such as `html:k=5`; without one, the report that the file's ending names.

    Raises:
        UsageError: for an unknown name, a wrong option, or an ending that is not the report's.
    """
    if text is None:
        endings = {name: registry.report(name).suffix for name in registry.names("report")}
        named = [name for name, ending in endings.items() if ending == path.suffix.lower()]
        if len(named) != 1:
            known = ", ".join(f"{name} ({ending})" for name, ending in endings.items())
            reason = "several reports have this ending" if named else "no report has this ending"
            raise UsageError(f"{one_line(path)}: {reason}; name one with --format: {known}")
        text = named[0]
    specs = parse_spec(text)
    if len(specs) != 1:
        raise UsageError(f"--format {text}: a report takes one value for each option, no a|b")
    kind = registry.report(specs[0].name)
    if path.suffix.lower() != kind.suffix:
        raise UsageError(f"{one_line(path)}: the report {kind.name} is a {kind.suffix} file; end its name so")
    return kind(build_options("report", specs[0], kind.Options))


def request_methods(registry: Registry, methods: Sequence[MethodLike]) -> list[MethodRequest]:
    """Return the requested methods with validated options: `|` values and `all` expanded, duplicates dropped.

    `all:without=kfac|ekfac` is every method but those.

    Args:
        registry: the plugins.
        methods: `-m` strings; classes, which run with their defaults; instances. A class need not be registered.

    Raises:
        UsageError: for an unknown name or a wrong option; for a class that is none of a method, or whose name is that
            of another one.
    """
    requests: list[MethodRequest] = []
    named = [(method, False) for method in methods if not is_every(method)]
    every = [(name, True) for text in methods if is_every(text) for name in _every(registry, str(text))]
    for method, optional in named + every:
        if not isinstance(method, str):
            requests.append(_request_object(registry, method))
            continue
        for spec in parse_spec(method):
            kind = registry.method(spec.name)
            made = kind(build_options("method", spec, kind.Options))
            requests.append(MethodRequest(spec.renamed(kind.Options.aliases), made, optional))
    kinds: dict[str, type] = {}
    for request in requests:
        if kinds.setdefault(request.spec.name, type(request.method)) is not type(request.method):
            raise UsageError(
                f"two classes of methods have the name '{request.spec.name}': give one of them another name"
            )
    return without_doubles(requests)


def is_every(method: object) -> bool:
    """Return whether an `-m` string stands for every method: `all`, or `all:without=NAME|NAME`."""
    return isinstance(method, str) and method.partition(":")[0] == "all"


def _every(registry: Registry, text: str) -> list[str]:
    """Return the names of all methods, but for those that `all:without=NAME|NAME` leaves out."""
    specs = parse_spec(text)
    for option in specs[0].given:
        if option != "without":
            raise unknown_name("option of all", option, ["without"])
    left_out = {spec.given["without"] for spec in specs if spec.given}
    for name in left_out:
        registry.method(name)  # raises for one that there is not
    return [name for name in registry.names("method") if name not in left_out]


def _request_object(registry: Registry, method: object) -> MethodRequest:
    """Return the request of a method that is given as a class or an instance instead of an `-m` string."""
    kind = method if isinstance(method, type) else type(method)
    if not issubclass(kind, Method):
        raise UsageError(f"{method!r} is no method: give a name, or a class or an instance of attrbench.Method")
    name = registered_name("method", kind)
    _refuse_other(registry, "method", name, kind)
    if isinstance(method, Method):
        return MethodRequest(Spec(name, _given(method.options)), method)
    try:
        return MethodRequest(Spec(name), kind(build_options("method", Spec(name), kind.Options)))
    except TypeError as error:  # an abstract class
        raise UsageError(f"method '{name}': {error}") from None


def method_label(method: MethodLike) -> str:
    """Return the `-m` string (NAME:KEY=VALUE,...) of a method given as string or instance; of a class, its name."""
    if isinstance(method, Method):
        return str(Spec(method.name, _given(method.options)))
    return method if isinstance(method, str) else method.name


def _refuse_other(registry: Registry, role: Literal["method", "task"], name: str, kind: type) -> None:
    """Raise an error if a class's name is registered for another method or task class already."""
    if name in registry.names(role) and getattr(registry, role)(name) is not kind:
        plugin = registry.provider(role, name)
        owner = f"{plugin.distribution} {plugin.version}"
        raise UsageError(f"{role} '{name}' is one of {owner} already: give the class {kind.__qualname__} another name")


def _given(options: Options) -> dict[str, str]:
    """Return option -> value as command-line text, for the options that were set explicitly."""
    return {
        name: as_written(getattr(options, name))
        for name in type(options).model_fields
        if name in options.model_fields_set
    }


def without_doubles(requests: Iterable[MethodRequest]) -> list[MethodRequest]:
    """Return the requests without duplicates: of each method and its options, the first, however written."""
    distinct: dict[tuple[str, str], MethodRequest] = {}
    for request in requests:
        distinct.setdefault((request.spec.name, request.method.options.model_dump_json()), request)
    return list(distinct.values())


def request_tasks(registry: Registry, tasks: Sequence[TaskLike]) -> list[TaskRequest]:
    """Return the requested tasks with validated options, given by name, task file, class or instance.

    Args:
        registry: the plugins.
        tasks: `-t` strings, which are names of tasks or paths of task files; such paths; classes; instances.

    Raises:
        UsageError: for an unknown name or a wrong option, or what is no task.
        AttrbenchError: for a task file that is missing or wrong.
    """
    requests = []
    for task in tasks:
        if isinstance(task, str | Path):
            requests += [request_task(registry, spec) for spec in parse_spec(str(task))]
        else:
            requests.append(_task_object(registry, task))
    return requests


def _task_object(registry: Registry, task: object) -> TaskRequest:
    """Return the request of a task that is given as a class or an instance instead of a name or file."""
    kind = task if isinstance(task, type) else type(task)
    if not issubclass(kind, Task):
        raise UsageError(f"{task!r} is no task: give a name, the path of a task file, or an attrbench.Task")
    name = task.meta.name if isinstance(task, Task) else registered_name("task", kind)
    _refuse_other(registry, "task", name, kind)
    if isinstance(task, Task):
        return TaskRequest(Spec(name, _given(task.options)), task)
    return TaskRequest(Spec(name), kind(build_options("task", Spec(name), kind.Options)))


def methods_and_tasks(
    registry: Registry, subjects: Sequence[MethodLike | TaskLike]
) -> tuple[list[MethodLike], list[TaskLike]]:
    """Return what is asked for as methods and tasks, told apart by the registry, and files and classes by their kind.

    Args:
        registry: the plugins.
        subjects: `-m` strings and `-t` strings, classes, instances, paths of task files.

    Raises:
        UsageError: for a name that nothing has, or a method and a task have both.
    """
    methods: list[MethodLike] = []
    tasks: list[TaskLike] = []
    for subject in subjects:
        if _is_task(registry, subject):
            tasks.append(subject)  # type: ignore[arg-type]
        else:
            methods.append(subject)  # type: ignore[arg-type]
    return methods, tasks


def _is_task(registry: Registry, subject: object) -> bool:
    """Return whether a name, file, class or instance is one of a task, not of a method."""
    if not isinstance(subject, str | Path):
        return issubclass(subject if isinstance(subject, type) else type(subject), Task)
    name = str(subject).partition(":")[0]
    if isinstance(subject, Path) or is_file(name):
        return True
    known = {kind: registry.names(kind) for kind in ("method", "task")}
    having = [kind for kind, names in known.items() if name in names]
    if len(having) == 2:
        raise UsageError(f"'{name}' is the name of a method and of a task: say which with -m {name} or -t {name}")
    if not having and not is_every(name):
        raise unknown_name("method or task", name, [*known["method"], *known["task"]])
    return having == ["task"]


def request_task(registry: Registry, spec: Spec) -> TaskRequest:
    """Return the request of one task given by name or task file; raises as `request_tasks`."""
    if not is_file(spec.name):
        kind = registry.task(spec.name)
        return TaskRequest(spec, kind(build_options("task", spec, kind.Options)))
    from attrbench.taskfile.read import read_task  # NumPy and Pillow come with it, and most tasks are in no file

    task = read_task(Path(spec.name), spec.given)
    if task.meta.name in registry.names("task"):
        raise UsageError(
            f"{spec.name}: '{task.meta.name}' is a task of attrbench's own or of a plugin: choose another name"
        )
    return TaskRequest(spec, task)


def with_options(registry: Registry, request: TaskRequest, options: Mapping[str, str]) -> TaskRequest:
    """Return the request of the same task with some options set to other values."""
    spec = Spec(request.spec.name, {**request.spec.given, **options})
    if is_file(spec.name) or spec.name in registry.names("task"):
        return request_task(registry, spec)
    kind = type(request.task)
    return TaskRequest(spec, kind(build_options("task", spec, kind.Options)))


def models_of(registry: Registry, request: TaskRequest) -> list[TaskRequest]:
    """Return the request of each model of a task of several models; empty for a task of a single model."""
    parts = request.task.parts if isinstance(request.task, SeveralModels) else ()
    return [with_options(registry, request, part) for part in parts]


def several(given: Any) -> list[Any]:
    """Return an argument as a list: the elements of an iterable, or a single value (a string, a class) in a list."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str | type) else [given]
