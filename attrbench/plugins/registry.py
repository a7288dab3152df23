"""Loading plugins, so that a faulty one is named but never stops a command.

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

from attrbench.errors import AttrbenchError, unknown_name
from attrbench.plugins import hookspecs

if TYPE_CHECKING:
    from attrbench.contracts.dataset_builder import Preparation
    from attrbench.contracts.executor import Executor
    from attrbench.contracts.ground_truth import GroundTruth
    from attrbench.contracts.method import Method
    from attrbench.contracts.metric import Metric
    from attrbench.contracts.model_family import ModelFamily
    from attrbench.contracts.task import Task

GROUP = "attrbench"
KINDS = ("method", "task", "metric", "executor", "preparation", "ground_truth", "model_family")
HOOKS = {kind: f"register_{kind}s" for kind in KINDS} | {"model_family": "register_model_families"}


@dataclass
class Plugin:
    """A plugin and what came of loading it.

    Attributes:
        name: the entry point's name.
        distribution, version: the package that brought it.
        error: why it, or a part of it, could not be loaded.
        provides: names registered, by kind.
    """

    name: str
    distribution: str
    version: str
    error: str | None = None
    provides: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


class Registry:
    """Everything that plugins register, by kind and name, and the plugins that it came from."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("attrbench")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._entries: dict[str, dict[str, tuple[Any, Plugin]]] = {kind: {} for kind in KINDS}

    def load(self, plugin: Plugin, find: Callable[[], object]) -> None:
        """Loads one plugin; any fault of it is kept in `plugin.error`."""
        self.plugins.append(plugin)
        try:
            module = find()
            self.manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
            for kind in KINDS:
                implementation = getattr(module, HOOKS[kind], None)
                if implementation is not None:
                    register = self._registrar(kind, plugin)
                    implementation(_by_import_string(register) if kind == "model_family" else register)
            _check_hook_names(module)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            plugin.error = text if isinstance(error, AttrbenchError) else f"{type(error).__name__}: {text}"
            if os.environ.get("ATTRBENCH_STRICT_PLUGINS") == "1":
                raise AttrbenchError(f"plugin {plugin.name} of {plugin.distribution}: {plugin.error}") from error

    def _registrar(self, kind: str, plugin: Plugin) -> Callable[[Any], None]:
        def register(entry: Any) -> None:
            name = _checked_name(kind, entry)
            if name in self._entries[kind]:
                owner = self._entries[kind][name][1]
                raise AttrbenchError(
                    f"{kind} '{name}' is claimed by {plugin.distribution} {plugin.version}"
                    f" and already by {owner.distribution} {owner.version}"
                )
            self._entries[kind][name] = (entry, plugin)
            plugin.provides[kind].append(name)

        return register

    def names(self, kind: str) -> list[str]:
        """Names of one kind, sorted."""
        return sorted(self._entries[kind])

    def provider(self, kind: str, name: str) -> Plugin:
        """The plugin that registered `name`."""
        self._get(kind, name)
        return self._entries[kind][name][1]

    def method(self, name: str) -> type[Method[Any]]:
        """The method called `name`."""
        return self._get("method", name)  # type: ignore[no-any-return]

    def task(self, name: str) -> type[Task[Any]]:
        """The task called `name`."""
        return self._get("task", name)  # type: ignore[no-any-return]

    def executor(self, name: str) -> type[Executor[Any]]:
        """The executor called `name`."""
        return self._get("executor", name)  # type: ignore[no-any-return]

    def preparation(self, name: str) -> type[Preparation[Any]]:
        """The preparation of a data set called `name`."""
        return self._get("preparation", name)  # type: ignore[no-any-return]

    def ground_truth(self, name: str) -> type[GroundTruth[Any]]:
        """Return the ground truth called `name`."""
        return self._get("ground_truth", name)  # type: ignore[no-any-return]

    def model_family(self, name: str) -> ModelFamily:
        """Return the model family called `name`, imported on first use.

        Raises:
            AttrbenchError: where it can't be imported.
        """
        return self._get("model_family", name).load()  # type: ignore[no-any-return]

    def model_families(self) -> list[ModelFamily]:
        """Return all model families, sorted by name."""
        return [self.model_family(name) for name in self.names("model_family")]

    def metrics(self) -> list[type[Metric]]:
        """All metrics, sorted by name."""
        return [self._get("metric", name) for name in self.names("metric")]

    def _get(self, kind: str, name: str) -> Any:
        if name in self._entries[kind]:
            return self._entries[kind][name][0]
        error = unknown_name(kind.replace("_", " "), name, self._entries[kind])
        broken = [f"plugin {p.name} of {p.distribution} failed to load: {p.error}" for p in self.plugins if p.error]
        if broken:
            error.args = (f"{error} ({'; '.join(broken)})",)
        raise error


@dataclass(frozen=True)
class LazyFamily:
    """A model family as it is registered, before its module is imported.

    Attributes:
        name: of the family.
        summary: one line.
        target: `package.module:Class`.
    """

    name: str
    summary: str
    target: str

    def load(self) -> ModelFamily:
        """Return the family.

        Raises:
            AttrbenchError: where the module can't be imported, or has no such class.
        """
        module, _, attribute = self.target.partition(":")
        try:
            kind: type[ModelFamily] = getattr(import_module(module), attribute)
            family = kind()
        except Exception as error:  # a plugin's own fault, of whatever kind
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise AttrbenchError(f"model family {self.name} ({self.target}) can't be loaded: {reason}") from error
        return family


def _by_import_string(register: Callable[[Any], None]) -> Callable[[str, str, str], None]:
    return lambda name, summary, target: register(LazyFamily(name, summary, target))


def _checked_name(kind: str, entry: Any) -> str:
    """The name of what is registered, after making sure that it has what listing and running it need."""
    own = {"task": ("meta", "Options"), "metric": ("name", "summary"), "model_family": ("name", "summary")}
    needed = own.get(kind, ("name", "summary", "Options"))
    missing = [attribute for attribute in needed if not hasattr(entry, attribute)]
    if missing:
        raise AttrbenchError(f"{kind} {entry!r} lacks {', '.join(missing)}")
    name = str(entry.meta.name if kind == "task" else entry.name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "all":
        raise AttrbenchError(f"{kind} name '{name}' is not allowed: letters, digits, '.', '_' and '-', and not 'all'")
    return name


def _check_hook_names(module: object) -> None:
    """Refuses implementations of hooks that do not exist, which pluggy would ignore."""
    for name in dir(module):
        if hasattr(getattr(module, name, None), "attrbench_impl") and not hasattr(hookspecs, name):
            known = [known for known in vars(hookspecs) if hasattr(getattr(hookspecs, known), "attrbench_spec")]
            raise unknown_name("hook", name, known)


def installed_plugins() -> Iterator[EntryPoint]:
    """Entry points of the group, in a fixed order, as `ATTRBENCH_LOAD_PLUGINS` selects them."""
    everything = "ATTRBENCH_LOAD_PLUGINS" not in os.environ
    found = entry_points(group=GROUP)
    for point in sorted(found, key=lambda p: (_distribution(p)[0] != "attrbench", _distribution(p)[0], p.name)):
        if everything or point.name in _selected():
            yield point


def _selected() -> set[str]:
    return {name.strip() for name in os.environ.get("ATTRBENCH_LOAD_PLUGINS", "").split(",") if name.strip()}


@cache
def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the package that brings an entry point; its metadata is parsed once, which takes a while."""
    if point.dist is None:
        return "unknown", ""
    metadata = point.dist.metadata
    return metadata["Name"], metadata["Version"]


def load_registry() -> Registry:
    """A registry with the core's own metrics and executors and every installed plugin."""
    from attrbench import __version__
    from attrbench.plugins import builtin

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
    """The registry of this process, loaded once. Tests clear it with `registry.cache_clear()`."""
    return load_registry()
