"""The loaded task of several models, with which their pooled records are checked and shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from attrbench.contracts.model_description import ModelDescription
from attrbench.contracts.several_models import several_models
from attrbench.contracts.task import Items, ItemsOutline, OpenTask

if TYPE_CHECKING:
    from attrbench.contracts.denoiser import Denoiser


class OpenSeveralModels(OpenTask):
    """The loaded task of several models: the training pictures that they share, and the queries of all.

    Records are checked and shown with it. Nothing is computed with it: each model has a loaded task of its own.

    Args:
        name: of the task.
        train: the shared training set.
        models: the loaded task of each model, by the options that name it.
    """

    def __init__(self, name: str, train: Items, models: Mapping[str, OpenTask]) -> None:
        self._name, self._train, self._models = name, train, models

    @property
    def train(self) -> Items:
        """Return the training set that the models share."""
        return self._train

    @cached_property
    def queries(self) -> Items:
        """Return the queries of all models, those of the first model first."""
        every = [model.queries for model in self._models.values()]
        seeds = [seed for items in every if items.seeds is not None for seed in items.seeds]
        return Items(
            np.concatenate([items.images for items in every]),
            [group for items in every for group in items.groups],
            [prompt for items in every for prompt in items.prompts],
            hashlib.sha256("/".join(items.fingerprint for items in every).encode()).hexdigest(),
            seeds if len(seeds) == sum(map(len, every)) else None,
        )

    @property
    def query_outline(self) -> ItemsOutline:
        """Return the number of queries of all models, without drawing any."""
        outlines = [model.query_outline for model in self._models.values()]
        if all(outline.is_drawn for outline in outlines):
            return ItemsOutline.of(self.queries)
        return ItemsOutline.to_draw(sum(outline.count for outline in outlines))

    @property
    def denoiser(self) -> Denoiser:
        """Refuse: there are several models.

        Raises:
            UsageError: always; it names one of them.
        """
        self._refuse()

    @property
    def model_description(self) -> ModelDescription:
        """Refuse, as `denoiser`.

        Raises:
            UsageError: always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise several_models(self._name, list(self._models))
