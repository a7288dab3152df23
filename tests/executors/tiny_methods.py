"""Methods that every process can import: they edit weights, transform gradients, fail, or end their process."""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from attrbench.contracts.feature import FeatureRequest
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method import ExhaustiveScorer, Method, StateSize
from attrbench.contracts.method_results import Edited, Transformed
from attrbench.contracts.options import Options
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.losses_under_edit import LossesUnderEdit
from attrbench.features.outputs import Outputs

SOURCE = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"), noise="per-item")


class NoOptions(Options):
    """None."""


class Quiet(Method[NoOptions]):
    """The base of methods that are asked for features alone."""

    summary = "for tests"
    Options = NoOptions

    def __init__(self, options=None):
        super().__init__(options or NoOptions())

    def fit(self, train, context):
        return InOrder(train.count)


class InOrder(ExhaustiveScorer):
    """The later an item, the more it matters."""

    def __init__(self, count):
        self.count = count

    def scores(self, query):
        return np.tile(np.arange(self.count, dtype=np.float32), (len(query), 1))

    def size(self):
        return StateSize()


class Losses(Quiet):
    name = "losses"

    @property
    def feature(self):
        return Outputs(source=SOURCE)

    def features(self):
        return FeatureRequest.both(self.feature)


class Rows(Quiet):
    name = "rows"

    @property
    def feature(self):
        return GradientRows(source=SOURCE, sketch=Sketch(length=32))

    def features(self):
        return FeatureRequest.both(self.feature)


class NoEdit(Quiet):
    """Changes nothing."""

    name = "no-edit"
    source = SOURCE

    @property
    def feature(self):
        return LossesUnderEdit(source=self.source, edit=self.key)

    def features(self):
        return FeatureRequest.both(self.feature)

    def edit(self, model, query, context):
        return None


class Ascent(NoEdit):
    """Takes a step up the gradient of the query's loss."""

    name = "ascent"
    source = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"))
    step = 1e-2

    def edit(self, model, query, context):
        parameters = list(query.parameters.values())
        outputs = query.gradients().outputs
        loss = torch.cat([outputs(batch) for _, _, batch in query.batches(8)]).mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        length = torch.stack([gradient.norm() for gradient in gradients]).norm()
        if length > 0:
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(gradient, alpha=self.step / float(length))
        return Edited({"length": float(length)}, state_bytes=7, state_seconds=1000.0, spent_seconds=0.0)


class Ruin(NoEdit):
    """Makes every weight of the first query's copy infinite, the network in training mode, and frees what it can."""

    name = "ruin"

    def edit(self, model, query, context):
        model.module.train()
        if query.first == 0:
            for tensor in model.module.state_dict().values():
                tensor.fill_(float("inf") if tensor.is_floating_point() else 1)


class RaisingEdit(NoEdit):
    name = "raising-edit"

    def edit(self, model, query, context):
        for parameter in model.module.parameters():
            parameter.data.zero_()
        raise ValueError("one\n line")


class Factors(Quiet):
    """Transforms with state that an earlier run took long to build."""

    name = "factors"
    spent = 0.0

    @property
    def feature(self):
        return GradientProducts(source=SOURCE, timesteps="mean", transform=self.key)

    def features(self):
        return FeatureRequest.both(self.feature)

    def transform(self, gradients, context):
        time.sleep(0.05)
        return Transformed(2 * gradients, state_seconds=1000.0, spent_seconds=self.spent)


class Poison(NoEdit):
    """Ends the process that does its job for the second query."""

    name = "poison"

    def edit(self, model, query, context):
        if query.first == 1:
            os._exit(1)


class Slow(Ascent):
    """Leaves its process's id in a file, and takes its time over each query; it asks for nothing else."""

    name = "slow"

    def features(self):
        return FeatureRequest(query=(self.feature,))

    def edit(self, model, query, context):
        context.workspace.mkdir(parents=True, exist_ok=True)
        (context.workspace / f"pid-{os.getpid()}").touch()
        time.sleep(0.4)
        return super().edit(model, query, context)
