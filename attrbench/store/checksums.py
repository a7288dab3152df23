"""Seals: the JSON file beside a kept file or folder that says what it is and proves both of them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from attrbench.files import write_atomically

SEAL = ".seal.json"
"""What the name of a seal has behind the name of its data."""


class Checked(BaseModel):
    """A JSON file that holds a checksum of its own content.

    Attributes:
        check: sha256 of the other fields, as JSON in their order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str = ""

    def write(self, path: Path) -> None:
        """Write the fields with their checksum to `path`, atomically."""
        write_atomically(path, self.model_copy(update={"check": self._digest()}).model_dump_json().encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `write` wrote to `path`.

        Raises:
            OSError: where it can't be read.
            ValueError: where it is not what was written.
        """
        content = cls.model_validate_json(path.read_bytes())
        if content.check != content._digest():
            raise ValueError("its own checksum differs")
        return content

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"check"}).encode()).hexdigest()


class Seal(Checked):
    """What is known of a kept file or folder.

    Attributes:
        kind: what sort of thing it is, in free text ("index", "generated queries").
        summary: one line for people that says which one ("HNSW graph of 5,000 rows, M=16").
        bytes: size of the data.
        sha256: of the file's content, or of the paths and contents of a folder's files.
        seconds: what making it took.
        created_by: version of attrbench that made it.
        facts: whatever else its maker wants to find again, as JSON.
    """

    kind: str
    summary: str
    bytes: int
    sha256: str
    seconds: float
    created_by: str
    facts: dict[str, Any] = {}

    def fits(self, data: Path) -> bool:
        """Return whether `data` is the file or folder that was sealed; reads all of it."""
        return data_bytes(data) == self.bytes and measure(data) == (self.bytes, self.sha256)


class Measure(NamedTuple):
    """Size and sha256 of a file or folder."""

    bytes: int
    sha256: str


def measure(data: Path) -> Measure:
    """Return size and checksum of a file, or of all files below a folder with their paths.

    Raises:
        OSError: where something can't be read.
    """
    if not data.is_dir():
        with data.open("rb") as file:
            return Measure(data.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    digest = hashlib.sha256()
    for path in files_of(data):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(data).as_posix()}\0{content}\0".encode())
    return Measure(data_bytes(data), digest.hexdigest())


def data_bytes(data: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    return sum(path.stat().st_size for path in files_of(data))


def files_of(data: Path) -> Iterator[Path]:
    """Yield the file itself, or all files below a folder by their paths."""
    yield from sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]


def seal_path(data: Path) -> Path:
    """Return where the seal of a file or folder lies: beside it."""
    return data.with_name(data.name + SEAL)
