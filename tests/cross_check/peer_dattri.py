"""Scores by dattri."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorDataInf, IFAttributorEKFAC, IFAttributorLiSSA
from dattri.algorithm.tracin import DEFAULT_PROJECTOR_KWARGS as TRACIN_DEFAULTS
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import DEFAULT_PROJECTOR_KWARGS as TRAK_DEFAULTS
from dattri.algorithm.trak import TRAKAttributor
from dattri.func.hessian import ihvp_lissa
from dattri.func.projection import random_project
from dattri.task import AttributionTask
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.cross_check.problems import Data


def task(module: nn.Module) -> AttributionTask:
    """The mean loss; TRAK hands over items without a batch dimension, everything else with one."""

    def loss(parameters, data):
        noisy, target = data
        if noisy.dim() == 3:
            noisy, target = noisy[None], target[None]
        predicted = torch.func.functional_call(module, parameters, (noisy,))
        return (predicted - target).square().mean()

    return AttributionTask(loss, module, [module.state_dict()])


def _loader(data: Data, batch: int) -> DataLoader:
    return DataLoader(TensorDataset(data.noisy, data.target), batch_size=batch)


@contextlib.contextmanager
def defaults_kept() -> Iterator[None]:
    """TracIn and TRAK write into their modules' defaults, which are put back afterwards."""
    kept = [(defaults, dict(defaults)) for defaults in (TRACIN_DEFAULTS, TRAK_DEFAULTS)]
    try:
        yield
    finally:
        for defaults, before in kept:
            defaults.clear()
            defaults.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _scores(attributor, train: Data, query: Data, batch: int | None) -> np.ndarray:
    full = _loader(train, batch or len(train.noisy))
    with _quiet():
        attributor.cache(full)
        found = attributor.attribute(_loader(train, len(train.noisy)), _loader(query, len(query.noisy)))
    return found.detach().double().numpy().T


def gradients(module: nn.Module, data: Data) -> np.ndarray:
    """[n, p] per-sample gradients."""
    made = task(module)
    parameters, _ = made.get_param(0)
    return made.get_grad_loss_func(in_dims=(None, 0))(parameters, (data.noisy, data.target)).detach().double().numpy()


IDENTITY = {"proj_type": "identity"}
"""Without it TracIn projects gradients."""


def tracin(module: nn.Module, train: Data, query: Data, projector: dict[str, object] | None = IDENTITY) -> np.ndarray:
    """[m, n] inner products of gradients."""
    with defaults_kept(), _quiet():
        attributor = TracInAttributor(task(module), torch.ones(1), normalized_grad=False, projector_kwargs=projector)
        found = attributor.attribute(_loader(train, len(train.noisy)), _loader(query, len(query.noisy)))
    return found.detach().double().numpy().T


def datainf(
    module: nn.Module, train: Data, query: Data, damping: float | None, layer_name: list[str] | None = None
) -> np.ndarray:
    """[m, n] DataInf scores, a block a module; `damping` is absolute and the same for all, None is 0.1."""
    attributor = IFAttributorDataInf(task(module), layer_name=layer_name, regularization=damping)
    return _scores(attributor, train, query, None)


def datainf_as_it_comes(module: nn.Module, train: Data, query: Data) -> np.ndarray:
    """[m, n] DataInf scores with dattri's own default."""
    return _scores(IFAttributorDataInf(task(module)), train, query, None)


def lissa(
    module: nn.Module, train: Data, query: Data, damping: float, scaling: float, depth: int, batch: int | None = None
) -> np.ndarray:
    """[m, n] LiSSA scores; every step takes the whole Hessian of a batch of the loader.

    Args:
        module: the network.
        train: the training set.
        query: the queries.
        damping: as dattri's; the matrix gets damping * scaling on its diagonal.
        scaling: as dattri's: what the Hessian is divided by.
        depth: number of steps.
        batch: size of the loader's batches; None is one batch of everything.
    """
    size = batch or len(train.noisy)
    attributor = IFAttributorLiSSA(
        task(module), batch_size=size, recursion_depth=depth, damping=damping, scaling=scaling
    )
    return _scores(attributor, train, query, batch)


def lissa_of_rows(train: np.ndarray, query: np.ndarray, damping: float, scaling: float, depth: int) -> np.ndarray:
    """[m, n] scores by dattri's iteration over H = (1/n) G^T G, given as the Hessian of a quadratic in float64."""
    rows = torch.from_numpy(train)
    solve = ihvp_lissa(
        lambda parameters, batch: (batch @ parameters).square().mean() / 2,
        batch_size=len(rows),
        recursion_depth=depth,
        damping=damping,
        scaling=scaling,
    )
    origin = torch.zeros(rows.shape[1], dtype=rows.dtype)
    return solve((origin, rows), torch.from_numpy(query), in_dims=(None, 0)).numpy() @ train.T


def ekfac(module: nn.Module, train: Data, query: Data, damping: float) -> np.ndarray:
    """[m, n] EK-FAC scores of the Linear layers, empirical Fisher, absolute damping."""
    return _scores(IFAttributorEKFAC(task(module), damping=damping), train, query, None)


def projection(parameters: int, length: int, seed: int = 0) -> np.ndarray:
    """[p, k] dattri's Gaussian projection, which divides by sqrt(k)."""
    unit = torch.eye(parameters)
    project = random_project(unit, parameters, proj_dim=length, proj_max_batch_size=32, proj_seed=seed)
    return project(unit).double().numpy()


def trak(module: nn.Module, train: Data, query: Data, length: int, damping: float, seed: int = 0) -> np.ndarray:
    """[m, n] TRAK scores over losses, with Q = 1."""
    with defaults_kept(), _quiet():
        attributor = TRAKAttributor(
            task(module),
            correct_probability_func=lambda parameters, data: torch.zeros(1),
            projector_kwargs={"proj_type": "normal", "proj_dim": length, "proj_seed": seed},
            regularization=damping,
        )
        attributor.cache(_loader(train, len(train.noisy)))
        found = attributor.attribute(_loader(query, len(query.noisy)))
    return found.detach().double().numpy().T
