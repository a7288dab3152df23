"""The registry of plugins, which loads installed plugins and keeps the faults of broken ones instead of failing.

Plugins are modules found through the entry-point group `attrbench`; our own methods and tasks come through the
same door. `ATTRBENCH_LOAD_PLUGINS=a,b` loads only the named entry points (empty: none), and
`ATTRBENCH_STRICT_PLUGINS=1` raises the first fault instead of keeping it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from attrbench.errors import AttrbenchError, error_line, unknown_name
from attrbench.plugins import builtin, hookspecs
from attrbench.plugins.import_output import prints_to_stderr
from attrbench.version import __version__

if TYPE_CHECKING:
    from attrbench.contracts.dataset_builder import Preparation
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.ground_truth import GroundTruth
    from attrbench.contracts.method import Method
    from attrbench.contracts.metric import Metric
    from attrbench.contracts.model_family import ModelFamily
    from attrbench.contracts.report import Report
    from attrbench.contracts.task import Task

GROUP = "attrbench"
HOOKS = {
    "method": "register_methods",
    "task": "register_tasks",
    "metric": "register_metrics",
    "executor": "register_executors",
    "ground_truth": "register_ground_truths",
    "model_family": "register_model_families",
    "preparation": "register_preparations",
    "report": "register_reports",
}
"""Kind -> the hook by which it comes in."""
OBSERVERS = ("stage_started", "stage_finished", "record_written")
"""Hooks by which a plugin is told of what happens in a run."""
KINDS = tuple(HOOKS)
NEEDED = {
    "method": ("name", "summary", "Options"),
    "task": ("meta", "Options"),
    "metric": ("name", "summary"),
    "executor": ("name", "summary", "Options"),
    "ground_truth": ("name", "summary", "Options"),
    "model_family": ("name",),
    "preparation": ("name", "summary", "Options"),
    "report": ("name", "summary", "suffix", "Options"),
}
"""Kind -> attributes without which a class can't be listed or run."""


@dataclass
class Plugin:
    """A plugin with its package, the names that it registered, and any error of loading it.

    Attributes:
        name: the entry point's name.
        distribution, version: the package that brought it.
        error: why it, or a part of it, could not be loaded.
        provides: names registered, by kind.
        observes: the observer hooks that it implements.
    """

    name: str
    distribution: str
    version: str
    error: str | None = None
    provides: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    observes: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """A registered name (of a method, task, metric, ...) with its class, which is imported on first use.

    Attributes:
        kind, name, summary: as registered.
        target: `package.module:Class`.
        plugin: who brought it.
    """

    kind: str
    name: str
    summary: str
    target: str
    plugin: Plugin
    _loaded: Any = None

    def load(self) -> Any:
        """Import and return the registered class, after checking that its own name is the registered one.

        Raises:
            AttrbenchError: one line, where its module can't be imported, or the class is not what was registered.
        """
        if self._loaded is None:
            what = self.kind.replace("_", " ")
            module, _, attribute = self.target.partition(":")
            try:
                with prints_to_stderr():
                    loaded = getattr(import_module(module), attribute)
            except Exception as error:  # a plugin's own fault, of whatever kind
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                who = f"{self.plugin.distribution} {self.plugin.version}"
                raise AttrbenchError(f"{what} '{self.name}' of {who} can't be loaded: {reason}") from error
            if (own := registered_name(self.kind, loaded)) != self.name:
                raise AttrbenchError(
                    f"{what} '{self.name}' is registered for {self.target}, which calls itself '{own}'"
                )
            self._loaded = loaded
        return self._loaded


class Registry:
    """The registry of all methods, tasks, metrics and so on by name, and of the plugins that registered them."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("attrbench")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}

    def load(self, plugin: Plugin, find: Callable[[], object]) -> None:
        """Load one plugin and register what it provides; an error is kept in `plugin.error`, not raised."""
        self.plugins.append(plugin)
        try:
            with prints_to_stderr():
                module = find()
                self.manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
                for kind, hook in HOOKS.items():
                    implementation = getattr(module, hook, None)
                    if implementation is not None:
                        implementation(self._registrar(kind, plugin))
            _check_hook_names(module)
            plugin.observes = [name for name in OBSERVERS if hasattr(module, name)]
        except (Exception, SystemExit) as error:
            plugin.error = error_line(error)
            if os.environ.get("ATTRBENCH_STRICT_PLUGINS") == "1":
                raise AttrbenchError(f"plugin {plugin.name} of {plugin.distribution}: {plugin.error}") from error

    def _registrar(self, kind: str, plugin: Plugin) -> Callable[[str, str, str], None]:
        what = kind.replace("_", " ")

        def register(name: str, summary: str, target: str) -> None:
            check_name(kind, name)
            if not re.fullmatch(r"[\w.]+:\w+", target):
                raise AttrbenchError(f"{what} '{name}': '{target}' does not name a class as package.module:Class")
            if name in self._entries[kind]:
                owner = self._entries[kind][name].plugin
                raise AttrbenchError(
                    f"{what} '{name}' is claimed by {plugin.distribution} {plugin.version}"
                    f" and already by {owner.distribution} {owner.version}"
                )
            self._entries[kind][name] = Entry(kind, name, summary, target, plugin)
            plugin.provides[kind].append(name)

        return register

    def names(self, kind: str) -> list[str]:
        """Return the sorted names registered for a kind, such as `method` or `task`."""
        return sorted(self._entries[kind])

    def entry(self, kind: str, name: str) -> Entry:
        """Return the entry registered under a kind and name, without importing its class.

        Raises:
            UsageError: for an unknown name, with the nearest known ones, and the plugins that failed.
        """
        if name in self._entries[kind]:
            return self._entries[kind][name]
        error = unknown_name(kind.replace("_", " "), name, self._entries[kind])
        broken = [f"plugin {p.name} of {p.distribution} failed to load: {p.error}" for p in self.plugins if p.error]
        if broken:
            error.args = (f"{error} ({'; '.join(broken)})",)
        raise error

    def provider(self, kind: str, name: str) -> Plugin:
        """Return the plugin that registered this name of a kind, such as the method `dmin`."""
        return self.entry(kind, name).plugin

    def method(self, name: str) -> type[Method[Any]]:
        """Return the class of the attribution method registered as `name`, importing its module."""
        return self.entry("method", name).load()  # type: ignore[no-any-return]

    def task(self, name: str) -> type[Task[Any]]:
        """Return the class of the task registered as `name`, importing its module."""
        return self.entry("task", name).load()  # type: ignore[no-any-return]

    def executor(self, name: str) -> type[Executor[Any]]:
        """Return the class of the executor (which runs jobs) registered as `name`, importing its module."""
        return self.entry("executor", name).load()  # type: ignore[no-any-return]

    def preparation(self, name: str) -> type[Preparation[Any]]:
        """Return the class that builds the data set registered as `name`, importing its module."""
        return self.entry("preparation", name).load()  # type: ignore[no-any-return]

    def report(self, name: str) -> type[Report[Any]]:
        """Return the class of the report (a file made of records) registered as `name`, importing its module."""
        return self.entry("report", name).load()  # type: ignore[no-any-return]

    def ground_truth(self, name: str) -> type[GroundTruth[Any]]:
        """Return the class of the ground truth (measured by retraining) registered as `name`."""
        return self.entry("ground_truth", name).load()  # type: ignore[no-any-return]

    def ground_truths(self) -> list[type[GroundTruth[Any]]]:
        """Return the classes of all registered ground truths, sorted by name."""
        return [self.ground_truth(name) for name in self.names("ground_truth")]

    def model_family(self, name: str) -> ModelFamily:
        """Return an instance of the model family (loader of diffusion models) registered as `name`."""
        return self.entry("model_family", name).load()()  # type: ignore[no-any-return]

    def model_families(self) -> list[ModelFamily]:
        """Return instances of all registered model families (loaders of diffusion models), sorted by name."""
        return [self.model_family(name) for name in self.names("model_family")]

    def metrics(self) -> list[type[Metric]]:
        """Return the classes of all registered metrics, sorted by name."""
        return [self.entry("metric", name).load() for name in self.names("metric")]


def registered_name(kind: str, entry: Any) -> str:
    """Return a registered class's own name, after checking that the class has the attributes its kind needs."""
    what = kind.replace("_", " ")
    missing = [attribute for attribute in NEEDED[kind] if not hasattr(entry, attribute)]
    if missing:
        raise AttrbenchError(f"{what} {entry!r} lacks {', '.join(missing)}")
    name = str(entry.meta.name if kind == "task" else entry.name)
    check_name(kind, name)
    return name


def check_name(kind: str, name: str) -> None:
    """Raise an error for a method or task name that the command line could not parse.

    Raises:
        AttrbenchError: one line that says what is allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "all":
        what = kind.replace("_", " ")
        raise AttrbenchError(f"{what} name '{name}' is not allowed: letters, digits, '.', '_' and '-', and not 'all'")


def _check_hook_names(module: object) -> None:
    """Raise an error for a hook that a plugin implements but that does not exist, such as a misspelled one."""
    for name in dir(module):
        if hasattr(getattr(module, name, None), "attrbench_impl") and not hasattr(hookspecs, name):
            known = [known for known in vars(hookspecs) if hasattr(getattr(hookspecs, known), "attrbench_spec")]
            raise unknown_name("hook", name, known)


def installed_plugins() -> Iterator[EntryPoint]:
    """Yield the entry points of installed plugins in a fixed order, filtered by ATTRBENCH_LOAD_PLUGINS."""
    everything = "ATTRBENCH_LOAD_PLUGINS" not in os.environ
    found = entry_points(group=GROUP)
    for point in sorted(found, key=lambda p: (_distribution(p)[0] != "attrbench", _distribution(p)[0], p.name)):
        if everything or point.name in _selected():
            yield point


def _selected() -> set[str]:
    return {name.strip() for name in os.environ.get("ATTRBENCH_LOAD_PLUGINS", "").split(",") if name.strip()}


@cache
def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Return name and version of the package that provides a plugin; cached, as parsing metadata is slow."""
    if point.dist is None:
        return "unknown", ""
    metadata = point.dist.metadata
    return metadata["Name"], metadata["Version"]


def load_registry() -> Registry:
    """Load attrbench's own registrations and all installed plugins into a new registry, and return it."""
    registry = Registry()
    registry.load(Plugin("core", "attrbench", __version__), lambda: builtin)
    found = list(installed_plugins())
    for point in found:
        registry.load(Plugin(point.name, *_distribution(point)), point.load)
    for name in sorted(_selected() - {point.name for point in found}):
        missing = Plugin(name, "ATTRBENCH_LOAD_PLUGINS", "", error="no installed plugin has this name")
        registry.plugins.append(missing)
    return registry


@cache
def registry() -> Registry:
    """Return the registry of plugins, which is loaded once in a process (`registry.cache_clear()` resets it)."""
    return load_registry()
