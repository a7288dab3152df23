"""Thumbnails: small pictures of a task's queries and training items, so that reports need neither task nor network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of one item as the bytes of a file, with what the task says of the item.

    Attributes:
        picture: a PNG, WebP or JPEG file.
        group: the item's group, which the detection rate compares; empty for none.
        caption: its prompt; empty for none.
        name: its name for people, such as that of its file; empty for none.
    """

    picture: bytes
    group: str = ""
    caption: str = ""
    name: str = ""


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails of one task: of its queries, and of the training items that records rank at the top.

    Attributes:
        task: the task's name.
        fingerprint: `TaskInfo.fingerprint` of the records that they belong to.
        queries, train: thumbnail by index of the item; not every item has one.
        scores: by identity of a record: for each query the scores of the first items of its ranking; None where a
            score is not known. Records hold no scores.
    """

    task: str
    fingerprint: str
    queries: Mapping[int, Thumbnail] = field(default_factory=dict)
    train: Mapping[int, Thumbnail] = field(default_factory=dict)
    scores: Mapping[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)

    def joined(self, other: Thumbnails) -> Thumbnails:
        """Return these thumbnails and scores together with others of the same task, which win where both have one."""
        return Thumbnails(
            self.task,
            self.fingerprint,
            {**self.queries, **other.queries},
            {**self.train, **other.train},
            {**self.scores, **other.scores},
        )
