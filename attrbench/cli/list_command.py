"""`attrbench list`: what there is, without importing torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from attrbench.cli.common import Debug

if TYPE_CHECKING:
    from attrbench.plugins.registry import Registry

What = Literal["methods", "tasks", "metrics", "executors", "preparations", "ground-truths", "plugins"]


def list_(
    what: Annotated[What | None, typer.Argument(help="Only these.", show_default=False)] = None,
    options: Annotated[bool, typer.Option("--options", help="Also show the options of methods and tasks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List methods, tasks, metrics, executors, preparations of data sets, ground truths and plugins."""
    from attrbench.plugins.registry import registry

    found = registry()
    wanted: tuple[What, ...] = get_args(What) if what is None else (what,)
    details = options or as_json
    listing = {
        kind: _plugins(found) if kind == "plugins" else _entries(found, kind[:-1].replace("-", "_"), details)
        for kind in wanted
    }
    if as_json:
        typer.echo(json.dumps(listing, indent=1))
        return
    for kind, entries in listing.items():
        _show(kind, entries, options)


def _entries(registry: Registry, kind: str, details: bool) -> list[dict[str, Any]]:
    entries = []
    for name in registry.names(kind):
        plugin = registry.provider(kind, name)
        entry: dict[str, Any] = {"name": name, "provider": f"{plugin.distribution} {plugin.version}"}
        match kind:
            case "method":
                method = registry.method(name)
                entry |= {"summary": method.summary, "citation": method.citation}
                entry["options"] = _options(method) if details else []
            case "task":
                task = registry.task(name)
                entry |= {"summary": task.meta.summary, "meta": task.meta.model_dump()}
                entry["options"] = _options(task) if details else []
            case "metric":
                entry["summary"] = next(metric.summary for metric in registry.metrics() if metric.name == name)
            case "preparation":
                preparation = registry.preparation(name)
                entry["summary"] = preparation.summary
                entry["options"] = _options(preparation) if details else []
            case "ground_truth":
                truth = registry.ground_truth(name)
                entry["summary"] = truth.summary
                entry["options"] = _options(truth) if details else []
            case _:
                entry["summary"] = registry.executor(name).summary
        entries.append(entry)
    return entries


def _options(owner: Any) -> list[dict[str, str]]:
    """Name, default and meaning of each option, and what it needs of others to have an effect."""
    from attrbench.contracts.options import as_written, meanings, needs_of

    explained, needs = meanings(owner.Options), needs_of(owner.Options)
    return [
        {
            "name": name,
            "default": as_written(field.default),
            "meaning": explained.get(name, ""),
            "needs": ",".join(map(str, needs.get(name, ()))),
        }
        for name, field in owner.Options.model_fields.items()
    ]


def _plugins(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "provider": f"{plugin.distribution} {plugin.version}",
            "summary": f"error: {plugin.error}" if plugin.error else _provides(plugin.provides),
            "error": plugin.error,
            "provides": plugin.provides,
        }
        for plugin in registry.plugins
    ]


def _provides(provides: dict[str, list[str]]) -> str:
    parts = [
        f"{len(names)} {kind.replace('_', ' ')}{'s' if len(names) > 1 else ''}"
        for kind, names in provides.items()
        if names
    ]
    return ", ".join(parts) or "nothing registered"


def _show(kind: str, entries: list[dict[str, Any]], options: bool) -> None:
    """Plain columns; rich would take longer to import than everything else here to run."""
    typer.secho(kind, bold=True)
    width = max((len(entry["name"]) for entry in entries), default=0)
    summaries = max((len(entry["summary"]) for entry in entries if not entry.get("error")), default=0)
    for entry in entries:
        line = f"  {entry['name']:<{width}}  {entry['summary']:<{summaries}}  ({entry['provider']})"
        typer.secho(line, fg="red" if entry.get("error") else None)
        for option in entry.get("options", ()) if options else ():
            needs = f" (with {option['needs']} only)" if option["needs"] else ""
            typer.echo(f"  {'':<{width}}    {option['name']}={option['default']}: {option['meaning']}{needs}")
    typer.echo()
