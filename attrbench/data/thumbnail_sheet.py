"""The thumbnail sheet: one file beside a task's records, with the pictures that reports on these records show.

It is a ZIP archive, `OUT/TASK/thumbnails-FINGERPRINT.zip`, that any program opens: a picture for each item
(`queries/0.png`, `train/17.webp`), the scores of each record's top items (`scores/IDENTITY.json`), and `index.json`
with the task, its fingerprint, and the group, caption and name of every item. The archive has a checksum for each
entry, is replaced as a whole, and is a function of what it holds. Runs that write to one folder take turns.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from attrbench.contracts.thumbnails import Thumbnail, Thumbnails
from attrbench.data.thumbnail_pictures import media_type
from attrbench.files import write_atomically
from attrbench.store.locks import LOCK, lock
from attrbench.text import one_line

PATTERN = "thumbnails-*.zip"
CAPTION = 600
"""Characters of a caption, group or name that are kept."""
MOST_BYTES = 1 << 29
"""Size of an archive's contents beyond which it is not read."""
ENDINGS = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpg"}
Index = Annotated[int, Field(ge=0, lt=1 << 53)]
Text = Annotated[str, Field(max_length=CAPTION + 1)]
Scores = TypeAdapter(list[list[float | None]])


class ItemText(BaseModel):
    """The texts of one item in `index.json`, beside the path of its picture."""

    model_config = ConfigDict(extra="forbid")

    picture: str
    group: Text = ""
    caption: Text = ""
    name: Text = ""


class SheetIndex(BaseModel):
    """The contents of `index.json`: the task, and the texts of its queries and training items by index."""

    model_config = ConfigDict(extra="forbid")

    thumbnail_schema: Literal[1] = 1
    task: str
    fingerprint: str
    queries: dict[Index, ItemText]
    train: dict[Index, ItemText]


def sheet_path(folder: Path, task: str, fingerprint: str) -> Path:
    """Return where a task's thumbnail sheet lies below a folder of records."""
    return folder / task / f"thumbnails-{fingerprint[:10]}.zip"


def add_thumbnails(path: Path, thumbnails: Thumbnails) -> None:
    """Join thumbnails with those that a sheet has, and write it, unless that changes nothing.

    A sheet that can't be read, or is of another task, is replaced.

    Raises:
        OSError: where it can't be written to.
    """
    with lock(path.with_name(path.name + LOCK), wait=True):
        try:
            earlier = read_thumbnails(path)
        except (OSError, ValueError):
            earlier = None
        if earlier is not None and earlier.fingerprint == thumbnails.fingerprint:
            thumbnails = earlier.joined(thumbnails)
        if thumbnails != earlier:
            write_atomically(path, _archive(thumbnails))


def find_thumbnails(folder: Path) -> tuple[dict[str, Thumbnails], list[str]]:
    """Return fingerprint -> thumbnails of all sheets below a folder, and one line for each that could not be read."""
    found: dict[str, Thumbnails] = {}
    problems = []
    for path in sorted(folder.rglob(PATTERN)):
        try:
            sheet = read_thumbnails(path)
        except (OSError, ValueError) as error:
            problems.append(f"{one_line(path)}: {one_line(error)[:300]}")
            continue
        earlier = found.get(sheet.fingerprint)
        found[sheet.fingerprint] = sheet if earlier is None else earlier.joined(sheet)
    return found, problems


def read_thumbnails(path: Path) -> Thumbnails:
    """Return the thumbnails of a sheet; items without picture are left out.

    Raises:
        OSError: where the file can't be read.
        ValueError: where it is damaged, too large, or no thumbnail sheet.
    """
    if not path.is_file():
        raise OSError("no regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"holds more than {MOST_BYTES >> 20} MiB")
            index = SheetIndex.model_validate_json(archive.read("index.json"))
            return Thumbnails(
                index.task,
                index.fingerprint,
                dict(_items(archive, index.queries)),
                dict(_items(archive, index.train)),
                dict(_scores(archive)),
            )
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, ValidationError) as error:
        raise ValueError(f"not a readable thumbnail sheet: {_first_line(error)}") from None


def _items(archive: zipfile.ZipFile, texts: Mapping[int, ItemText]) -> Iterator[tuple[int, Thumbnail]]:
    for item, text in texts.items():
        picture = archive.read(text.picture)
        if media_type(picture) is None:
            raise ValueError(f"{text.picture} is no PNG, WebP or JPEG file")
        yield item, Thumbnail(picture, text.group, text.caption, text.name)


def _scores(archive: zipfile.ZipFile) -> Iterator[tuple[str, list[list[float | None]]]]:
    for name in archive.namelist():
        place = Path(name)
        if place.parent == Path("scores"):
            yield place.stem, Scores.validate_json(archive.read(name))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _archive(thumbnails: Thumbnails) -> bytes:
    """Return the bytes of a sheet, which depend on its contents alone; pictures are not compressed once more."""
    texts: dict[str, dict[int, ItemText]] = {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split, items in (("queries", thumbnails.queries), ("train", thumbnails.train)):
            texts[split] = {}
            for item, thumbnail in sorted(items.items()):
                place = f"{split}/{item}.{ENDINGS[media_type(thumbnail.picture) or 'image/png']}"
                archive.writestr(zipfile.ZipInfo(place), thumbnail.picture)
                shown = (_cut(text) for text in (thumbnail.group, thumbnail.caption, thumbnail.name))
                texts[split][item] = ItemText(
                    picture=place, **dict(zip(("group", "caption", "name"), shown, strict=True))
                )
        for identity, scores in sorted(thumbnails.scores.items()):
            _write_json(archive, f"scores/{identity}.json", json.dumps(scores, separators=(",", ":")))
        index = SheetIndex(task=thumbnails.task, fingerprint=thumbnails.fingerprint, **texts)
        _write_json(archive, "index.json", index.model_dump_json(exclude_defaults=True, indent=0))
    return buffer.getvalue()


def _write_json(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _cut(text: str) -> str:
    """Return a text that is kept, without lone surrogates, which no file can hold, and cut where it is long."""
    known = text.encode("utf-8", "replace").decode()
    return known if len(known) <= CAPTION else f"{known[:CAPTION]}…"
