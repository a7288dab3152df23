"""Reading of image folders' `metadata.csv` and `metadata.jsonl`, in the `imagefolder` format of `datasets`."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from attrbench.data.manifest import need_column
from attrbench.errors import AttrbenchError

log = logging.getLogger("attrbench.data")

FILES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMN = "file_name"


@dataclass(frozen=True)
class Row:
    """One row of an image folder's metadata file, which describes one image.

    Attributes:
        where: file and line, for messages.
        values: column name -> value.
    """

    where: str
    values: Mapping[str, object]

    def text(self, column: str) -> str:
        """Return the value of a column of this row as text; empty if the row lacks it.

        Raises:
            AttrbenchError: where the value is a list or a table.
        """
        value = self.values.get(column)
        if isinstance(value, list | dict):
            kind = "list" if isinstance(value, list) else "table"
            raise AttrbenchError(f"{self.where}: column '{column}' holds a {kind}, one text is needed")
        return "" if value is None else str(value)


def metadata_files(folder: Path) -> list[Path]:
    """Return the metadata file (`metadata.csv` or `metadata.jsonl`) of a folder, as a list of none or one.

    Raises:
        AttrbenchError: where the folder has `metadata.csv` and `metadata.jsonl`.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if len(files) > 1:
        raise AttrbenchError(f"{folder} has both {' and '.join(FILES)}: remove one of them")
    return files


def read_metadata(path: Path) -> tuple[list[str], list[Row]]:
    """Return the column names and the rows of an image folder's metadata file.

    Raises:
        AttrbenchError: where the file can't be read or parsed; names file and line.
    """
    try:
        if path.suffix == ".csv":
            columns, rows = _read_csv(path)
        else:
            rows = list(_json_rows(path))
            columns = list(dict.fromkeys(column for row in rows for column in row.values))
    except UnicodeDecodeError as error:
        raise AttrbenchError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise AttrbenchError(f"cannot read {path}: {error.strerror}") from None
    if not rows:
        raise AttrbenchError(f"{path} has no rows")
    need_column(columns, FILE_COLUMN, "the images' names", str(path))
    return columns, rows


def _read_csv(path: Path) -> tuple[list[str], list[Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows, short = [], []
        try:
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if None in values:
                    raise AttrbenchError(f"{where}: more values than columns; put quotes around values with commas")
                if None in values.values():
                    short.append(where)
                rows.append(Row(where, values))
        except csv.Error as error:
            raise AttrbenchError(f"{path}, after line {reader.line_num}: {error}") from None
        if short:
            log.warning(
                "%d of %d rows have fewer values than columns, which count as empty; first %s",
                len(short),
                len(rows),
                short[0],
            )
        return list(reader.fieldnames or ()), rows


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise AttrbenchError(f"{where}: not JSON ({error})") from None
            if not isinstance(values, dict):
                raise AttrbenchError(f"{where}: not a JSON object, such as {{'{FILE_COLUMN}': 'a.png'}}")
            yield Row(where, values)
