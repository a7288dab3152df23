"""Records with the paths of their files, found in folders, or named by path, identity or method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attrbench.contracts.record import Record, fault, read_file, records_below
from attrbench.errors import AttrbenchError, UsageError, unknown_name
from attrbench.text import one_line


@dataclass(frozen=True)
class KeptRecord:
    """A record with the path of the file that holds it."""

    path: Path
    record: Record

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the record may be called by: method with options, method, and the beginning of its identity."""
        return self.record.method.label, self.record.method.name, self.record.identity[:10]


def kept_records(
    places: Iterable[str | Path], warn: Callable[[str], object], rankings: bool = True
) -> list[KeptRecord]:
    """Return the records in files or below folders, with their paths.

    Args:
        places: files and folders.
        warn: called with one line for each file below a folder that is left out.
        rankings: whether their rankings are read, too.

    Raises:
        AttrbenchError: for a file or folder that is not there, or a file that is no record.
    """
    return readable_records(places, lambda problem: warn(f"left out {problem}"), rankings)


def readable_records(
    places: Iterable[str | Path], tell: Callable[[str], object], rankings: bool = True
) -> list[KeptRecord]:
    """Return what `kept_records` does, and call `tell` with path and fault of each file that is no readable record."""
    found: list[KeptRecord] = []
    for place in map(Path, places):
        if place.is_file():
            found.append(read_record(place, rankings))
            continue
        if not place.is_dir():
            where = one_line(place)
            raise AttrbenchError(
                f"no folder {where}: run 'attrbench run' first, or name a record or a folder of records"
            )
        records, problems = records_below(place, rankings)
        found += [KeptRecord(path, record) for path, record in records.items()]
        for problem in problems:
            tell(problem)
    return found


def read_record(path: Path, rankings: bool = True) -> KeptRecord:
    """Return the record in a file, with its rankings or without.

    Raises:
        AttrbenchError: one line, for a file that can't be read or is no record.
    """
    try:
        record = read_file(path, rankings)
    except (OSError, ValueError) as error:
        raise AttrbenchError(f"{one_line(path)}: {fault(error)}") from None
    if record is None:
        raise AttrbenchError(f"{one_line(path)}: JSON, but no record of a run")
    return KeptRecord(path, record)


def named_records(name: str, among: Sequence[KeptRecord]) -> list[KeptRecord]:
    """Return the records that a name means: of a method with these options, else of the method, else by identity.

    Args:
        name: a method with or without options, or at least six characters of an identity.
        among: the records to choose from.

    Raises:
        UsageError: for a name that none of them has.
    """
    for place in (0, 1):
        if found := [kept for kept in among if kept.names[place] == name]:
            return found
    found = [kept for kept in among if len(name) >= 6 and kept.record.identity.startswith(name)]
    if not found:
        raise unknown_name("record", name, {kept.record.method.label for kept in among})
    return found


def one_record(name: str, places: Sequence[str | Path], warn: Callable[[str], object]) -> KeptRecord:
    """Return the record that a path or a name means.

    Args:
        name: the path of a record's file, or a name as `named_records` takes it.
        places: files and folders to look in for a name.
        warn: as for `kept_records`.

    Raises:
        UsageError: for a name that no record has, or several.
        AttrbenchError: for a file that is no record.
    """
    if Path(name).is_file():
        return read_record(Path(name))
    found = named_records(name, kept_records(places, warn))
    if len(found) > 1:
        meant = ", ".join(one_line(kept.path) for kept in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UsageError(f"'{one_line(name)}' may be any of {len(found)} records: {meant}")
    return found[0]
