"""The commands `attrbench cache ls`, `verify` and `gc`: list the cache, verify checksums, remove garbage."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from attrbench.cli.common import RESULTS, Cache, Debug, Out, TerminalReporter, console
from attrbench.evaluation.folders import cache_folder
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.cache_entries import Fault, File, Group
from attrbench.store.cache_index import CacheIndex, index_cache
from attrbench.store.garbage import DAY, find_garbage, remove
from attrbench.text import plain

COLUMNS = ("kind", "what it is", "of", "files", "items", "size", "made in", "last used", "where")
NUMBERS = ("files", "items", "size", "made in")
NAMED = 5
"""Files that nothing vouches for that are named one by one, of each folder at the top of the cache."""

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]

cache_app = typer.Typer(
    help="List, check and clear the cache of features, indexes, pictures and whatever else is kept.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@cache_app.command("ls")
def ls(out: Out = RESULTS, cache: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List what is kept, with sizes and when it was last used."""
    found = index_cache(cache_folder(cache, out))
    if as_json:
        typer.echo(json.dumps(_listing(found), indent=1))
    else:
        _show(found)
    _name_unseen(found)


@cache_app.command("verify")
def verify(out: Out = RESULTS, cache: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Read everything that is kept and compare size and checksum; exit 1 where one differs. Changes nothing."""
    found = index_cache(cache_folder(cache, out))
    entries = found.entries
    faults = [*found.unreadable, *(fault for group in found.groups if (fault := group.about_fault) is not None)]
    with TerminalReporter().stage("checksums", len(entries)) as advance:
        for entry in entries:
            fault = entry.fault(whole=True)
            if fault is not None:
                faults.append(fault)
            advance()
    size = sum(entry.bytes for entry in entries)
    unknown = [file for file in found.other if file.regular]
    if as_json:
        document = {
            "cache": str(found.root),
            "files": len(entries),
            "bytes": size,
            "faults": list(map(_fault, faults)),
            "unknown": [str(file.path) for file in unknown],
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        _say_faults(faults, f"{_count(len(entries), 'sealed file')}, {_size(size)}")
        _name_unknown(found.root, unknown)
    _name_links(found)
    if faults:
        raise typer.Exit(1)


@cache_app.command("gc")
def gc(
    out: Out = RESULTS,
    cache: Cache = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Also what was not used for DAYS.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    debug: Debug = False,
) -> None:
    """Remove leftovers of killed runs, what is not whole, and what this version does not read.

    What was used or written within the last hour stays.
    """
    found = index_cache(cache_folder(cache, out))
    garbage = find_garbage(found, ENGINE_VERSION, None if older_than is None else older_than * DAY)
    failed, freed, files = False, 0, 0
    for removal in garbage.ready:
        fault = None if dry_run else remove(found.root, removal)
        if fault is not None:
            failed = True
            typer.echo(f"attrbench: {plain(fault.path)}: {plain(fault.what)}", err=True)
            continue
        verb = "would remove" if dry_run else "removed"
        typer.echo(f"{verb} {plain(removal.path)}: {plain(removal.why)} ({_size(removal.bytes)})")
        freed, files = freed + removal.bytes, files + len(removal.files)
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {_size(freed)} in {_count(files, 'file')}" if files else "nothing to remove")
    if garbage.waiting:
        number = _count(len(garbage.waiting), "more stays", "more stay")
        typer.echo(f"{number} for now: changed so lately that a run may be at work there")
    _name_unseen(found)
    for fault in (fault for group in found.groups for fault in group.faults if "cannot be read" in fault.what):
        typer.echo(f"attrbench: {plain(fault.path)}: {plain(fault.what)}, so it was left", err=True)
    if failed:
        raise typer.Exit(1)


def _show(found: CacheIndex) -> None:
    groups = sorted(found.groups, key=lambda group: group.last_used, reverse=True)
    if groups:
        console().print(_table(COLUMNS, (_cells(group, found.root) for group in groups)))
    if found.earlier:
        size = sum(entry.bytes for entry in found.earlier)
        typer.echo(f"of an earlier version, for 'attrbench cache gc' to remove: {_size(size)}")
    if found.rest:
        typer.echo(f"everything else: {_everything_else(found)}")
    typer.echo(f"{_size(found.bytes)} in {plain(found.root)}")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in NUMBERS else "left")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def _cells(group: Group, root: Path) -> list[str]:
    kind, summary = group.told
    wrong, seconds = len(group.all_faults), _seconds(group)
    where = group.folder if group.about or len(group.entries) > 1 else group.entries[0].path
    return [
        kind,
        summary,
        group.of,
        f"{len(group.done)}" + (f" ({wrong} not whole)" if wrong else ""),
        f"{group.items or ''}",
        _size(group.bytes),
        "" if seconds is None else f"{seconds:.3g} s",
        _local(group.last_used),
        where.relative_to(root).as_posix(),
    ]


def _seconds(group: Group) -> float | None:
    """Return the seconds that computing a group of artifacts took; None for the shards of a feature."""
    return None if group.about else sum(entry.seal.seconds for entry in group.entries if entry.seal is not None)


def _everything_else(found: CacheIndex) -> str:
    """Return files that belong to no artifact, counted by top folder of the cache, as text: `queries 2 files 40 kB`."""
    groups: dict[str, list[int]] = {}
    for file in found.rest:
        groups.setdefault(file.path.relative_to(found.root).parts[0], []).append(file.bytes)
    return ", ".join(f"{plain(name)} {_count(len(b), 'file')} {_size(sum(b))}" for name, b in sorted(groups.items()))


def _listing(found: CacheIndex) -> dict[str, object]:
    return {
        "cache": str(found.root),
        "artifacts": [
            {
                "folder": str(group.folder),
                "kind": group.told[0],
                "summary": group.told[1],
                "description": group.description,
                "files": [entry.path.name for entry in group.done],
                "items": group.items,
                "bytes": group.bytes,
                "build_seconds": _seconds(group),
                "last_used": _utc(group.last_used),
                "faults": list(map(_fault, group.all_faults)),
            }
            for group in found.groups
        ],
        "earlier": {"files": len(found.earlier), "bytes": sum(entry.bytes for entry in found.earlier)},
        "other": {"files": len(found.rest), "bytes": sum(file.bytes for file in found.rest)},
        "bytes": found.bytes,
    }


def _fault(fault: Fault) -> dict[str, str]:
    return {"path": str(fault.path), "what": fault.what}


def _say_faults(faults: list[Fault], read: str) -> None:
    for fault in faults:
        typer.echo(f"{plain(fault.path)}: {plain(fault.what)}")
    if not faults:
        typer.echo(f"everything is whole: {read}")
        return
    again = "; the next run that needs them makes the broken ones again" if any(f.broken for f in faults) else ""
    typer.echo(f"{_count(len(faults), 'fault')} found in {read}; nothing was changed{again}")


def _name_unknown(root: Path, files: list[File]) -> None:
    """Print the files of the cache that are of unknown origin, a few for each folder at the top of the cache."""
    folders: dict[str, list[File]] = {}
    for file in files:
        folders.setdefault(file.path.relative_to(root).parts[0], []).append(file)
    for name, held in folders.items():
        for file in held[:NAMED]:
            typer.echo(f"unknown: {plain(file.path)} (nothing vouches for it)")
        if len(held) > NAMED:
            typer.echo(f"unknown: {len(held) - NAMED} more below {plain(root / name)}")


def _name_unseen(found: CacheIndex) -> None:
    """Print to standard error the files and folders of the cache that could not be read, or are links."""
    for fault in found.unreadable:
        typer.echo(f"attrbench: left out {plain(fault.path)}: {plain(fault.what)}", err=True)
    _name_links(found)


def _name_links(found: CacheIndex) -> None:
    for path in found.links:
        typer.echo(f"attrbench: left out {plain(path)}: no regular file, and links are not followed", err=True)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(count: int) -> str:
    return decimal(count)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
