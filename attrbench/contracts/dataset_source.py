"""Declarations of where images come from (a folder or a data set), which can be read without opening any data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DatasetSource(BaseModel):
    """A declared source of images and captions: a local folder, or a data set of the library `datasets`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    """A folder of images (with or without metadata.csv), a folder written by `datasets`, or a hub id."""
    revision: str | None = None
    """Of a hub id: branch, tag or commit. A commit is the only one that stays what it is."""
    subset: str | None = None
    """Of a hub id with several configurations: which one."""
    split: str | None = None
    """Of a data set: which split (its own only one, else `train`). Of a folder: the subfolder of that name."""
    image_column: str | None = None
    """Of a data set: the column of images; by default the only one there is."""
    caption_column: str | None = None
    """The column of captions; by default `text` or `caption`, where there is one."""
    group_column: str | None = None
    """The column of groups; by default `group`, where there is one. Folders without metadata: names of subfolders."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """What becomes of images that can't be read: `refuse` names them and stops, `skip` goes on without them."""
    follow_links: bool = Field(False, exclude=True)  # changes no item, only whether there is an error
    """Of a folder: whether symbolic links in it may lead out of it."""
