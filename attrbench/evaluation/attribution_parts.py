"""Parts of answers of attribution: a training item with its near-duplicates, and what was asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attrbench.contracts.task import Items
from attrbench.version import __version__


@dataclass(frozen=True)
class Row:
    """One training item of an answer, with its near-duplicates among those found.

    Attributes:
        rank: 1 for the strongest; of the lowest scores, 1 for the lowest.
        item: index into the training set.
        score: larger means more influential.
        duplicates: (rank, item, score) of each near-duplicate of it further down, where they are grouped.
    """

    rank: int
    item: int
    score: float
    duplicates: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Subject:
    """The subject of an attribution: task, model, data and limits, by name and by hashes of their contents.

    Attributes:
        task, task_name: the task's label; its name without options.
        checkpoint: path of the weights in place of the task's own; empty for its own.
        fingerprints: hashes of model, adapter (each of its files) and training set.
        left_out: images that could not be read, training items beyond the limit, and whatever else was not looked at.
    """

    task: str
    task_name: str
    checkpoint: str
    fingerprints: Mapping[str, str]
    left_out: Mapping[str, Any]

    def __str__(self) -> str:
        return self.task + (f" with checkpoint {self.checkpoint}" if self.checkpoint else "")

    def facts(self, queries: Items) -> list[tuple[str, str]]:
        """Return what was asked about as (name, text), with the fingerprints of model, data and queries."""
        hashes = {**self.fingerprints, "queries": queries.fingerprint}
        lacking = self.left_out.get("train_items", 0)
        notes = [f"{lacking} training items beyond the limit"] if lacking else []
        notes += self.left_out.get("notes", ())
        facts = [("task", self.task), ("checkpoint", self.checkpoint), ("left out", "; ".join(notes))]
        facts += [(f"fingerprint of {name}", value) for name, value in hashes.items()]
        return [(name, value) for name, value in [*facts, ("attrbench", __version__)] if value]


def item_row(train: Items, rank: int, item: int, score: float, lost: Mapping[int, int]) -> dict[str, Any]:
    """Return a training item that was found as a dict; `lost` counts gradients that were NaN or infinite, by item."""
    return {
        "rank": rank,
        "score": score,
        "item": item,
        "name": train.names[item] if train.names else "",
        "group": train.groups[item],
        "caption": train.prompts[item],
        **({"lost": lost[item]} if item in lost else {}),
    }
