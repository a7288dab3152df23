"""What methods are given, without a store or a trained model: rows, products, and a small network in float64."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.method import Context
from attrbench.contracts.task import Items, OpenTask, TaskMeta
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.execute import Progress, compute
from attrbench.evaluation.feature_reader import FeatureReader
from attrbench.evaluation.jobs import TaskReference, use_world
from attrbench.evaluation.plan import make_plan
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import request_methods
from attrbench.evaluation.world import TaskWorld
from attrbench.executors.inline import InlineExecutor, InlineOptions
from attrbench.features.gradient_gram import GradientGram
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.images import Images
from attrbench.features.outputs import Outputs
from attrbench.features.views import QueryProducts, QueryRows
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.models.timesteps import grid_timesteps
from attrbench.plugins.registry import registry
from attrbench.store.fingerprint import fingerprint

KINDS = {
    "rows": GradientRows,
    "products": GradientProducts,
    "gram": GradientGram,
    "outputs": Outputs,
    "images": Images,
}


def _declared(features, views):
    """Return the view of each declared feature, given by its kind."""
    by_kind = {KINDS[name]: view for name, view in views.items()}
    return {feature: by_kind[type(feature)] for feature in features}


def train_features(method, count, **views):
    """Return what `fit` gets of `count` training items: a view for each kind of feature that the method declares.

    Args:
        method: its own features are the keys.
        count: number of training items.
        views: by the names in `KINDS`; two features of one kind get the same.
    """
    return TrainFeatures(count, _declared(method.features().train, views))


def query_features(method, count, **views):
    """Return what a scorer of the method gets of `count` queries; arguments as for `train_features`."""
    return QueryFeatures(np.arange(count), _declared(method.features().query, views))


class InMemory:
    """Raw gradients ([n, w], or [n, T, w]) as rows of unit norm beside their norms, in blocks of 8."""

    def __init__(self, raw):
        raw = np.asarray(raw, "f8")
        raw = raw[:, None] if raw.ndim == 2 else raw
        norms = np.linalg.norm(raw, axis=2)
        self.norms = norms.astype("f4")
        self._rows = (raw / np.maximum(norms, 1e-30)[:, :, None]).astype("f4")
        self.count, self.width = len(raw), raw.shape[1] * raw.shape[2]
        self.row_bytes = 4 * self.width
        self.layers, self.sizes = None, {"": raw.shape[2]}

    def take(self, items):
        return self._rows[items]

    def blocks(self):
        for first in range(0, self.count, 8):
            yield first, self._rows[first : first + 8]

    def codes(self):
        return None

    def asked(self):
        """Return the rows as those of queries."""
        return QueryRows(self._rows, self.norms)

    def query(self, method):
        """Return what a scorer of the method gets of queries with these rows."""
        return query_features(method, self.count, rows=self.asked())

    def train(self, method, layers=None, sizes=None, **others):
        """Return what `fit` gets of training items with these rows.

        Args:
            method: whose features are the keys.
            layers: name and columns of each layer, where they are kept apart.
            sizes: parameters of each layer; as many as there are columns, unless other numbers are given.
            others: views of other kinds of features, as for `train_features`.
        """
        columns = layers or {"": slice(0, self._rows.shape[2])}
        rows = copy.copy(self)
        rows.layers = layers
        rows.sizes = sizes or {name: part.stop - part.start for name, part in columns.items()}
        return train_features(method, self.count, rows=rows, **others)


def raw_rows(count, seed, width=12):
    """Random gradients whose coordinates are of very different size."""
    return np.random.default_rng(seed).normal(size=(count, width)) * np.linspace(0.2, 3, width)


def products(asked, train):
    """Return the products of raw gradients [m, T, p] of queries and [n, T, p] of training items."""
    values = np.einsum("mtp,ntp->mnt", asked, train)
    norms = (np.linalg.norm(raw, axis=2) for raw in (asked, train))
    return QueryProducts(values, *norms)


def no_model(*_):
    pytest.fail("no model is needed")


def context(seed=0, workspace=Path(), denoiser=no_model, training=no_model):
    return Context(seed, 10, workspace, "key", denoiser, training, queries=no_model)


def seeded(make, seed=0):
    """A module in float64 whose random weights are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


class Small(Denoiser):
    """A network in float64 that sees (1 - a) x + a noise, a = t / 1000, and is to tell the noise."""

    dtype = torch.float64

    def __init__(self, module, shape, sampler=()):
        self.module = module.to(self.dtype).eval()
        self.device = torch.device("cpu")
        self.latent_shape = shape
        self.training_steps = 1000
        self.sampler = sampler
        self.fingerprint = fingerprint([repr(module), *(value.tolist() for value in module.state_dict().values())])

    def encode(self, images, prompts, image_range):
        return Encoded(torch.from_numpy(images).permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1)

    def attributed_parameters(self, which):
        return dict(self.module.named_parameters())

    def timesteps(self, grid):
        return grid_timesteps(grid, self.training_steps, self.sampler_timesteps)

    def sampler_timesteps(self):
        return tuple(self.sampler)

    def noisy(self, latents, noise, t):
        a = t.to(latents.dtype)[:, None, None, None] / 1000
        return (1 - a) * latents + a * noise

    def predict(self, noisy, t, conditioning):
        return self.module(noisy)

    def target(self, latents, noise, t):
        return noise

    def generate(self, prompts, seeds):
        raise NotImplementedError


def small_items(count, shape, seed=0, seeds=None):
    """Random pictures of three groups."""
    channels, height, width = shape
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    groups = [str(i % 3) for i in range(count)]
    return Items(images, groups, [""] * count, fingerprint([seed, images.tolist()]), seeds)


LOSS = GradientSource(grid=TimestepGrid(kind="uniform", steps=3), noise="per-item")


def small_samples(denoiser, count=6, source=LOSS, kind=NoisySamples):
    return kind(source, denoiser, Split("train", small_items(count, denoiser.latent_shape)))


def everything(samples):
    """All samples in one batch, timestep by timestep."""
    ((_, _, batch),) = samples.batches(10**6, samples.count)
    return batch


class InTurn(NoisySamples):
    """The samples in turn: as many draws as there are samples make each of them once, more make them all again."""

    def drawn(self, size, draws):
        every = everything(self)
        return every.select(torch.arange(size) % len(every.t))


def batch_gradients(denoiser, batch):
    """[B, p] float64 gradients of the loss, by plain autograd sample by sample."""
    parameters = list(denoiser.attributed_parameters("all").values())
    rows = []
    for noisy, target in zip(batch.noisy, batch.target, strict=True):
        loss = (denoiser.module(noisy[None])[0] - target).square().mean()
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def dense_curvature(denoiser, batch, kind):
    """[p, p] mean over the batch of the loss's Hessian, or of J^T (2/d) J, by `torch.autograd.functional`."""
    named = denoiser.attributed_parameters("all")
    sizes = [parameter.numel() for parameter in named.values()]

    def predicted(flat):
        parts = zip(named.items(), flat.split(sizes), strict=True)
        values = {name: part.view_as(parameter) for (name, parameter), part in parts}
        return torch.func.functional_call(denoiser.module, values, (batch.noisy,))

    flat = torch.cat([parameter.detach().flatten() for parameter in named.values()])
    if kind == "hessian":
        return torch.autograd.functional.hessian(lambda at: (predicted(at) - batch.target).square().mean(), flat)
    jacobian = torch.autograd.functional.jacobian(lambda at: predicted(at).flatten(), flat)
    return jacobian.T @ jacobian * 2 / len(jacobian)


class SmallTask(OpenTask):
    """An open task of what it is given."""

    train, queries, denoiser = None, None, None

    def __init__(self, denoiser, train, queries):
        self.denoiser, self.train, self.queries = denoiser, train, queries


def meta_of(opened):
    words = dict.fromkeys(("summary", "model", "dataset", "license", "memory"), "none")
    return TaskMeta(name="small", version=1, train_items=len(opened.train), **words)


class SmallRun:
    """Methods on an open task, by the way that a run takes: plan, jobs, shards, views.

    Args:
        opened: the task.
        folder: of records and cache.
        specs: the methods.

    Attributes:
        world: the task with the settings of the run.
        plan: what is to be computed.
        requests: the methods.
    """

    def __init__(self, opened, folder, *specs):
        self.requests = request_methods(registry(), specs)
        settings = RunSettings(folder / "out", folder / "cache")
        settings.make_folders()
        self.world = TaskWorld(meta_of(opened), opened, settings)
        self.plan = make_plan(self.world, self.requests)
        self.progress = Progress(self.plan)

    def compute(self):
        """Carry the plan out in this process."""
        reference = TaskReference.of(None, self.world.settings)
        use_world(reference, self.world)
        self.progress = compute(self.plan, self.world, reference, InlineExecutor(InlineOptions()), Silent())
        return self

    def features(self, request):
        """Return what the method declared; raises why it can't be had."""
        return self.progress.features(request.label)

    def fitted(self, request):
        """Return the method's scorer, and what it gets of the queries."""
        reader = FeatureReader(self.world, self.features(request))
        context = self.world.context(request, reader.fingerprint, self.plan.depth)
        return request.method.fit(reader.train(), context), reader.query()


def scores_by_run(opened, folder, *specs):
    """Return the [m, n] scores of each method, by the way that a run takes."""
    run = SmallRun(opened, folder, *specs).compute()
    scorers = [run.fitted(request) for request in run.requests]
    return [np.asarray(scorer.scores(query), "f8") for scorer, query in scorers]
