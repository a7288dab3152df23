"""A task of two models: the tiny task of the checks, with three and with two queries."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Literal

from attrbench.conformance.toy_task import OpenToy, ToyTask
from attrbench.contracts.options import Options
from attrbench.contracts.several_models import SeveralModels
from attrbench.contracts.task import Items, Task
from attrbench.data.open_several_models import OpenSeveralModels

ASKED = {"reported": ([0, 3, 4], [5, 0]), "tuning": ([4], [5])}


class TwoOptions(Options):
    model: int | None = None
    query_set: Literal["reported", "tuning"] = "reported"


class OpenOfTwo(OpenToy):
    def __init__(self, workspace, asked):
        super().__init__(workspace, "generated")
        self._asked = asked

    @cached_property
    def queries(self) -> Items:
        whole = self._generated
        chosen = {name: [getattr(whole, name)[i] for i in self._asked] for name in ("groups", "prompts", "seeds")}
        return replace(whole, images=whole.images[self._asked], fingerprint=f"queries {self._asked}", **chosen)


class TwoModels(Task[TwoOptions], SeveralModels):
    meta = ToyTask.meta.model_copy(update={"name": "two-models", "main_metric": "recall@5"})
    tuning = {"query_set": "tuning"}  # noqa: RUF012
    Options = TwoOptions

    @property
    def parts(self):
        return [{"model": "0"}, {"model": "1"}] if self.options.model is None else []

    def open(self, workspace):
        asked = ASKED[self.options.query_set]
        if self.options.model is not None:
            return OpenOfTwo(workspace, asked[self.options.model])
        models = {f"model={number}": OpenOfTwo(workspace, each) for number, each in enumerate(asked)}
        return OpenSeveralModels(self.meta.name, models["model=0"].train, models)
