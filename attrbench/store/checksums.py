"""Seals: JSON files beside the cached files and folders, with description, size and checksum of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from attrbench.files import write_atomically

SEAL = ".seal.json"
"""Suffix that turns the name of an artifact into that of its seal."""


class Checked(BaseModel):
    """A base class of JSON documents that contain a checksum of their other fields, to detect damage.

    Attributes:
        check: sha256 of the other fields, as JSON in their order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    check: str = ""

    def write(self, path: Path) -> None:
        """Write the document as JSON with a checksum of its fields to `path`, atomically."""
        write_atomically(path, self.model_copy(update={"check": self._digest()}).model_dump_json().encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a document that `write` wrote, verifying its checksum.

        Raises:
            OSError: where the file can't be read.
            ValueError: where its content does not match its checksum.
        """
        content = cls.model_validate_json(path.read_bytes())
        if content.check != content._digest():
            raise ValueError("its own checksum differs")
        return content

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"check"}).encode()).hexdigest()


class Seal(Checked):
    """The description of a cached file or folder, with its size and checksum: the content of its seal file.

    Attributes:
        kind: kind of data, in free text ("index", "generated queries").
        summary: one line that describes the data ("HNSW graph of 5,000 rows, M=16").
        bytes: size of the data.
        sha256: hash of the file's content, or of the paths and contents of a folder's files.
        seconds: seconds that building took.
        created_by: version of attrbench that built it.
        facts: further JSON values stored by the builder.
    """

    kind: str
    summary: str
    bytes: int
    sha256: str
    seconds: float
    created_by: str
    facts: dict[str, Any] = {}

    def fits(self, data: Path) -> bool:
        """Return whether a file or folder has the size and checksum in this seal; reads all of it."""
        return data_bytes(data) == self.bytes and measure(data) == (self.bytes, self.sha256)


class Measure(NamedTuple):
    """The size in bytes and the sha256 of a file, or of all files of a folder."""

    bytes: int
    sha256: str


def measure(data: Path) -> Measure:
    """Compute size and sha256 of a file, or of all files below a folder including their paths.

    Raises:
        OSError: where a file can't be read.
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
    """Return the size in bytes of a file, or the total size of all files below a folder."""
    return sum(path.stat().st_size for path in files_of(data))


def files_of(data: Path) -> Iterator[Path]:
    """Yield the file itself, or all files below a folder sorted by path."""
    yield from sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]


def seal_path(data: Path) -> Path:
    """Return the path of the seal (JSON with size and checksum) that lies beside a cached file or folder."""
    return data.with_name(data.name + SEAL)
