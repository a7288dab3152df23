"""The output of `attrbench list` (methods, tasks, metrics, ...), written without importing pydantic or Typer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args

from attrbench.errors import AttrbenchError, unknown_name
from attrbench.plugins import registry as plugins
from attrbench.suites.names import titles
from attrbench.text import plain
from attrbench.version import __version__

if TYPE_CHECKING:
    from attrbench.plugins.registry import Entry, Plugin, Registry

What = Literal[
    "methods",
    "tasks",
    "metrics",
    "executors",
    "ground-truths",
    "model-families",
    "preparations",
    "reports",
    "suites",
    "plugins",
]
KINDS: tuple[What, ...] = get_args(What)
SINGULAR = {"model-families": "model_family", "ground-truths": "ground_truth"}
BOLD, RED, PLAIN = "\033[1m", "\033[31m", "\033[0m"


def write_listing(what: What | None, options: bool, as_json: bool, name: str | None = None) -> None:
    """Write what is registered to standard output: methods, tasks, metrics and so on.

    Args:
        what: one of these kinds; None for all.
        options: whether to show the options of each.
        as_json: whether to write JSON.
        name: one entry of the kind, which is shown with its options.

    Raises:
        UsageError: for a name that is not registered.
    """
    registry = plugins.registry()
    wanted: tuple[What, ...] = KINDS if what is None else (what,)
    options = options or name is not None
    details = options or as_json
    listing = {kind: _listed(registry, kind, details) for kind in wanted}
    if name is not None and what is not None:
        known = [entry["name"] for entry in listing[what]]
        if name not in known:
            raise unknown_name(SINGULAR.get(what, what[:-1]).replace("_", " "), name, known)
        listing[what] = [entry for entry in listing[what] if entry["name"] == name]
    if as_json:
        sys.stdout.write(f"{json.dumps(listing, indent=1)}\n")
    else:
        for kind, entries in listing.items():
            _show(kind, entries, options)


def _listed(registry: Registry, kind: What, details: bool) -> list[dict[str, Any]]:
    """Return the entries of one kind."""
    if kind == "plugins":
        return _plugins(registry)
    return _suites() if kind == "suites" else _entries(registry, SINGULAR.get(kind, kind[:-1]), details)


def quick_arguments(arguments: list[str]) -> dict[str, Any] | None:
    """Return the arguments of `write_listing` if a command line is `list` with plain arguments, else None.

    Typer takes longer to import than listing everything takes.
    """
    if arguments[:1] != ["list"] or not {*arguments[1:]} <= {*KINDS, "--options", "--json"}:
        return None
    kinds = [argument for argument in arguments[1:] if argument in KINDS]
    if len(kinds) > 1:
        return None
    return {"what": next(iter(kinds), None), "options": "--options" in arguments, "as_json": "--json" in arguments}


def _entries(registry: Registry, kind: str, details: bool) -> list[dict[str, Any]]:
    """Return name, package and summary of everything registered of a kind (method, task, ...), and details if asked."""
    entries = []
    for name in registry.names(kind):
        known = registry.entry(kind, name)
        plugin = known.plugin
        entry: dict[str, Any] = {
            "name": name,
            "provider": f"{plugin.distribution} {plugin.version}",
            "summary": known.summary,
        }
        if details:
            entry |= _details(known)
        entries.append(entry)
    return entries


def _details(known: Entry) -> dict[str, Any]:
    """Return options, citation and metadata of a registered class as a dict, or the error if it can't be imported."""
    try:
        loaded = known.load()
    except AttrbenchError as error:
        return {"error": str(error), "options": []}
    details: dict[str, Any] = {"options": _options(loaded) if hasattr(loaded, "Options") else []}
    if hasattr(loaded, "citation"):
        details["citation"] = loaded.citation
    if hasattr(loaded, "meta"):
        details["meta"] = loaded.meta.model_dump()
    return details


def _options(owner: Any) -> list[dict[str, str]]:
    """Return a dict for each option of a class: its name, default, meaning, and the other options that it requires."""
    from attrbench.contracts.options import as_written, meanings, needs_of  # pydantic comes with it

    explained, needs = meanings(owner.Options), needs_of(owner.Options)
    return [
        {
            "name": name,
            "default": as_written(field.default),
            "meaning": " ".join(explained.get(name, "").split()),
            "needs": ",".join(map(str, needs.get(name, ()))),
        }
        for name, field in owner.Options.model_fields.items()
    ]


def _suites() -> list[dict[str, Any]]:
    """Return name and title of the suites that ship, for `attrbench reproduce`."""
    provider = f"attrbench {__version__}"
    return [{"name": name, "provider": provider, "summary": title} for name, title in titles().items()]


def _plugins(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "provider": f"{plugin.distribution} {plugin.version}",
            "summary": f"error: {plugin.error}" if plugin.error else _provides(plugin),
            "error": plugin.error,
            "provides": plugin.provides,
            "observes": plugin.observes,
        }
        for plugin in registry.plugins
    ]


def _provides(plugin: Plugin) -> str:
    """Return what a plugin registered, in numbers, and whether it observes runs."""
    parts = [f"{len(names)} {_counted(kind, len(names))}" for kind, names in plugin.provides.items() if names]
    parts += ["observes runs"] if plugin.observes else []
    return ", ".join(parts) or "nothing registered"


def _counted(kind: str, number: int) -> str:
    words = kind.replace("_", " ")
    if number == 1:
        return words
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _show(kind: str, entries: list[dict[str, Any]], options: bool) -> None:
    """Write the entries of one kind in plain aligned columns, without rich, which is slow to import."""
    _write(kind, BOLD)
    width = max((len(entry["name"]) for entry in entries), default=0)
    summaries = max((len(entry["summary"]) for entry in entries if not entry.get("error")), default=0)
    for entry in entries:
        line = f"  {entry['name']:<{width}}  {entry['summary']:<{summaries}}  ({entry['provider']})"
        _write(line, RED if entry.get("error") else "")
        for option in entry.get("options", ()) if options else ():
            needs = f" (with {option['needs']} only)" if option["needs"] else ""
            _write(f"  {'':<{width}}    {option['name']}={option['default']}: {option['meaning']}{needs}")
    _write("")


def _write(line: str, style: str = "") -> None:
    """Write a line to standard output, styled (bold, red) only if the output is a terminal."""
    line = plain(line)
    sys.stdout.write(f"{style}{line}{PLAIN}\n" if style and sys.stdout.isatty() else f"{line}\n")
