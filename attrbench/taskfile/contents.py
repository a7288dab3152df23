"""The schema of a task file. The docstring under a field is its documentation (docs/how-to/own-model.md)."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.options import Options
from attrbench.contracts.seeds import LARGEST_SEED, is_seed

MOST_SEEDS = 10_000


class TaskTable(BaseModel):
    """The table `[task]` of a task file: name, summary and version of the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The folder of its records; letters, digits, '.', '_' and '-'."""
    summary: str = "own model"
    """One line."""
    version: int = Field(1, ge=1)
    """Raise it when the task becomes another one: versions are never mixed on a leaderboard."""


class QueryTable(BaseModel):
    """The tables `[queries]` and `[tuning]` of a task file: images to attribute, given or generated.

    The model generates one image for each prompt and seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: list[str] | str | None = None
    """A list; or a file: text with a prompt a line, or CSV with a column `prompt` and perhaps `group`."""
    seeds: list[int] | str = "0"
    """A list, or a range such as "0-9". A model without prompts draws one picture a seed."""
    groups: list[str] | None = None
    """The group of each prompt (of each seed, without prompts); compared with those of the training images."""
    images: DatasetSource | None = None
    """A folder of pictures, or a table as [train]; instead of prompts and seeds, or beside them."""

    @field_validator("images", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("prompts", "groups")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value is not None and not len(value):
            raise ValueError("the list is empty")
        return value

    @field_validator("seeds")
    @classmethod
    def _countable(cls, value: list[int] | str) -> list[int] | str:
        if not seeds_of(value):
            raise ValueError("the list is empty")
        return value

    @model_validator(mode="after")
    def _something(self) -> QueryTable:
        drawn = self.prompts is not None or "seeds" in self.model_fields_set
        if not drawn and self.images is None:
            raise ValueError("give prompts, seeds (for a model without prompts) or images")
        if self.groups is not None and not drawn:
            raise ValueError("groups belong to prompts or seeds; those of images are a column (group_column)")
        if self.groups is not None and not isinstance(self.prompts, str):
            count = len(seeds_of(self.seeds)) if self.prompts is None else len(self.prompts)
            if len(self.groups) != count:
                what = "seeds" if self.prompts is None else "prompts"
                raise ValueError(f"{len(self.groups)} groups for {count} {what}")
        return self

    @property
    def draws(self) -> bool:
        """Return whether these queries include images that the model must generate from prompts or seeds."""
        return self.prompts is not None or "seeds" in self.model_fields_set


class TaskFile(Options):
    """The contents of a task file: tables for the task, model, training set, queries and tuning queries."""

    task: TaskTable
    model: ModelConfig
    train: DatasetSource
    queries: QueryTable | None = None
    tuning: QueryTable | None = Field(None, exclude=True)


def seeds_of(seeds: list[int] | str) -> list[int]:
    """Return the list of seeds given in a task file as a list or as a range such as `0-9`.

    Raises:
        ValueError: where it is neither.
    """
    if isinstance(seeds, list):
        if not all(map(is_seed, seeds)) or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds are different numbers from 0 to {LARGEST_SEED}")
        return seeds
    match = re.fullmatch(r"\s*(\d{1,30})\s*(?:-\s*(\d{1,30})\s*)?", seeds)
    if match is None:
        raise ValueError(f"'{seeds}' is no range of seeds, such as \"0-9\"")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 <= last - first < MOST_SEEDS:
        raise ValueError(f"a range goes up, over at most {MOST_SEEDS} seeds")
    if not is_seed(last):
        raise ValueError(f"seeds are numbers from 0 to {LARGEST_SEED}")
    return list(range(first, last + 1))
