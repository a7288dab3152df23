"""Seals: the JSON file beside a data file that proves both of them whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from attrbench.files import sha256_of, write_atomically


class Seal(BaseModel):
    """What is known of a data file.

    Attributes:
        bytes, sha256: of the data file.
        check: sha256 of the seal's own other fields, as JSON in their order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str
    check: str = ""

    def write(self, data: Path) -> None:
        """Writes the seal of the file `data`; from then on that file counts."""
        write_atomically(seal_path(data), self.model_copy(update={"check": self._digest()}).model_dump_json().encode())

    @classmethod
    def read(cls, data: Path) -> Self:
        """The seal of the file `data`.

        Raises:
            OSError: where it can't be read.
            ValueError: where it is not what was written.
        """
        seal = cls.model_validate_json(seal_path(data).read_bytes())
        if seal.check != seal._digest():
            raise ValueError("its own checksum differs")
        return seal

    def fits(self, data: Path) -> bool:
        """Whether the file `data` is the one that was sealed; reads all of it."""
        return data.stat().st_size == self.bytes and sha256_of(data) == self.sha256

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"check"}).encode()).hexdigest()


class IndexSeal(Seal):
    """The seal of an index file, with the seconds that building it took."""

    seconds: float


class ImageSeal(Seal):
    """The seal of a file of decoded images.

    Attributes:
        shape: [n, H, W, C] of the bytes.
        bad: item and reason of every image that could not be read; they are not among the n.
    """

    shape: tuple[int, int, int, int]
    bad: list[tuple[int, str]] = []


def seal_path(data: Path) -> Path:
    """Where the seal of a data file lies."""
    return data.with_suffix(".json")


def write_sealed(path: Path, data: bytes) -> None:
    """Writes a data file and its seal, the seal last; where that fails, neither stays."""
    try:
        seal_path(path).unlink(missing_ok=True)
        write_atomically(path, data)
        Seal(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()).write(path)
    except OSError:
        drop(path)
        raise


def drop(path: Path) -> None:
    """Removes a data file and its seal, as far as they are there and can be removed."""
    for file in (seal_path(path), path):
        try:
            file.unlink(missing_ok=True)
        except OSError:
            continue


def is_whole(path: Path, kind: type[Seal] = Seal) -> bool:
    """Whether a data file is there with a seal of this kind that fits; reads all of it."""
    try:
        return kind.read(path).fits(path)
    except (OSError, ValueError):
        return False
