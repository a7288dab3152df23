"""dattri's faults, each in a few lines on a layer or two, with an explicit solve beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from dattri.algorithm.tracin import TracInAttributor
from dattri.func import fisher
from dattri.func.hessian import ihvp_at_x_lissa
from torch import nn

from tests.cross_check import exact, peer_dattri
from tests.cross_check.drawn import drawn
from tests.cross_check.report import Fault, fault, measured, relative, spearman

DAMPING = 1e-3
BASIS = "dattri-ekfac-basis"
BIAS = "dattri-ekfac-bias"
TOKENS = "dattri-ekfac-tokens"


def two_layers(bias: bool) -> nn.Module:
    """Linear, tanh, Linear."""
    return nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4, bias=bias))


def ekfac_basis() -> Fault:
    """No biases: nothing but the basis is wrong, and turning it round makes the scores right."""
    module, train, query = drawn(lambda: two_layers(bias=False))
    truth = ekfac_truth(module, train, query)
    theirs = peer_dattri.ekfac(module, train, query, DAMPING)
    with basis_turned_round():
        turned = peer_dattri.ekfac(module, train, query, DAMPING)
    return fault(
        BASIS,
        "dattri",
        "EK-FAC rotates with Q V Q^T where eigh's columns ask for Q^T V Q, in Lambda and in the inverse alike",
        f"against the explicit inverse: {measured(theirs, truth)};"
        f" with eigenvectors transposed beforehand: {measured(turned, truth)}",
        spearman(theirs, truth) < 0.999 and relative(turned, truth) < 1e-4,
    )


def ekfac_bias() -> Fault:
    """The basis put right; the result is what comes of reading (W, b), laid end to end, as rows of [W b]."""
    module, train, query = drawn(lambda: two_layers(bias=True))
    truth, misread = ekfac_truth(module, train, query), ekfac_truth(module, train, query, misread=True)
    with basis_turned_round():
        theirs = peer_dattri.ekfac(module, train, query, DAMPING)
    return fault(
        BIAS,
        "dattri",
        "EK-FAC lays a layer's weight and bias end to end and reads them as the rows of [W b]: all after W's"
        " first row is out of place",
        f"basis put right, against the explicit inverse: {measured(theirs, truth)};"
        f" against the inverse misread so: {measured(theirs, misread)}",
        spearman(theirs, truth) < 0.999 and relative(theirs, misread) < 1e-4,
    )


def ekfac_tokens() -> Fault:
    """A Linear layer over positions."""
    module, train, query = drawn(lambda: nn.Linear(4, 3), shape=(5, 4))
    raised = _raised(lambda: peer_dattri.ekfac(module, train, query, DAMPING))
    says = "EK-FAC of a Linear layer whose input has three dimensions, as in transformers, raises"
    return fault(TOKENS, "dattri", says, raised, raised.startswith("UnboundLocalError"))


def datainf_default() -> Fault:
    """DataInf as it comes."""
    module, train, query = drawn(lambda: two_layers(bias=True))
    theirs = peer_dattri.datainf_as_it_comes(module, train, query)
    bad = np.mean(~np.isfinite(theirs))
    return fault(
        "dattri-datainf-default",
        "dattri",
        "DataInf's regularization is 0.0 by default, and it is divided by",
        f"{bad:.0%} of the scores are not finite",
        bad == 1,
    )


def datainf_layer_name() -> Fault:
    """DataInf over the second layer alone, which has 32 parameters; the first has 21."""
    module, train, query = drawn(lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 8)))
    g, q = (exact.gradients(module, *data)[:, 21:] for data in (train, query))
    whole, cut = {"": slice(None)}, {"a": slice(21), "b": slice(21, None)}
    truth, other = (exact.datainf(q, g, blocks, dict.fromkeys(blocks, DAMPING)) for blocks in (whole, cut))
    theirs = peer_dattri.datainf(module, train, query, DAMPING, ["2.weight", "2.bias"])
    return fault(
        "dattri-datainf-layer-name",
        "dattri",
        "DataInf with layer_name cuts the chosen layers' gradient at the offsets of the whole model's layers",
        f"second layer (32 parameters) of two, as one block: {measured(theirs, truth)};"
        f" cut after 21, the size of the first layer: {measured(theirs, other)}",
        relative(theirs, truth) > 1e-3 and relative(theirs, other) < 1e-4,
    )


def lissa_batches() -> Fault:
    """A linear model, so that the Hessian is the same everywhere; the loader has four batches instead of one."""
    module, train, query = drawn(lambda: nn.Linear(4, 3))
    g, q = (exact.gradients(module, *data) for data in (train, query))
    cuts = [slice(first, first + 6) for first in range(0, 24, 6)]
    parts = [exact.hessian(module, train.noisy[cut], train.target[cut]) for cut in cuts]
    top = max(float(np.linalg.eigvalsh(part)[-1]) for part in parts)
    lam = 0.1 * top
    truth = exact.damped(q, g, sum(parts) / len(parts), lam)
    added = sum(exact.damped(q, g, part, lam) for part in parts)
    depth = math.ceil(math.log(1e-8) / math.log(1 - lam / (top + lam)))
    theirs = peer_dattri.lissa(module, train, query, lam / (top + lam), top + lam, depth, batch=6)
    one = peer_dattri.lissa(module, train, query, lam / (top + lam), top + lam, depth)
    return fault(
        "dattri-lissa-batches",
        "dattri",
        "LiSSA adds up the inverse-Hessian products of the loader's batches",
        f"4 batches, against the explicit inverse: {measured(theirs, truth)};"
        f" against the sum of the batches' inverses: {measured(theirs, added)};"
        f" one batch, against the explicit inverse: {measured(one, truth)}",
        relative(theirs, truth) > 0.1 and relative(theirs, added) < 1e-4 and relative(one, truth) < 1e-4,
    )


def lissa_at_x() -> Fault:
    """Counts the rows that the function sees at each step."""
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    seen: set[int] = set()

    def quadratic(x: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        seen.add(len(batch))
        return (batch @ x).square().mean() / 2

    solve = ihvp_at_x_lissa(
        quadratic, torch.zeros(3), rows, in_dims=(None, 0), batch_size=6, num_repeat=1, recursion_depth=2
    )
    solve(torch.ones(1, 3))
    return fault(
        "dattri-lissa-at-x",
        "dattri",
        "ihvp_at_x_lissa hands batch_size and num_repeat on in each other's place",
        f"asked for batches of 6, the loss saw batches of {sorted(seen)}",
        seen == {1},
    )


def projector_defaults() -> Fault:
    """One attributor's projection turns up in another that was given none."""
    task = peer_dattri.task(drawn(lambda: two_layers(bias=True))[0])
    with peer_dattri.defaults_kept():
        TracInAttributor(task, torch.ones(1), False, projector_kwargs={"proj_dim": 2})
        after = TracInAttributor(task, torch.ones(1), False).projector_kwargs["proj_dim"]
    return fault(
        "dattri-projector-defaults",
        "dattri",
        "TracIn and TRAK write their projector_kwargs into the module's defaults, for all attributors to come",
        f"a TracIn made without projector_kwargs, after one with proj_dim=2, has proj_dim={after}",
        after == 2,
    )


def tracin_projects() -> Fault:
    """TracIn without any projection asked for."""
    module, train, query = drawn(lambda: two_layers(bias=True))
    g, q = (exact.gradients(module, *data) for data in (train, query))
    theirs = peer_dattri.tracin(module, train, query, projector=None)
    return fault(
        "dattri-tracin-projects",
        "dattri",
        "TracIn with projector_kwargs=None projects gradients to 512 numbers, though None reads as no projection",
        f"against inner products of the 59 gradients: {measured(theirs, q @ g.T)}",
        relative(theirs, q @ g.T) > 1e-3,
    )


FAULTS: dict[str, Callable[[], Fault]] = {
    BASIS: ekfac_basis,
    BIAS: ekfac_bias,
    TOKENS: ekfac_tokens,
    "dattri-datainf-default": datainf_default,
    "dattri-datainf-layer-name": datainf_layer_name,
    "dattri-lissa-batches": lissa_batches,
    "dattri-lissa-at-x": lissa_at_x,
    "dattri-projector-defaults": projector_defaults,
    "dattri-tracin-projects": tracin_projects,
}


def basis_turned_round() -> mock._patch:
    """dattri's eigenvectors transposed, which its transposed use of them undoes."""
    found = fisher.estimate_eigenvector

    def turned(covariances: dict) -> dict:
        return {name: (a.T, s.T) for name, (a, s) in found(covariances).items()}

    return mock.patch.object(fisher, "estimate_eigenvector", turned)


def ekfac_truth(module: nn.Module, train, query, misread: bool = False) -> np.ndarray:
    """[m, n] EK-FAC scores by explicit matrices; misread: of gradients whose (W, b) are taken for rows of [W b]."""
    g, q = (exact.gradients(module, *data) for data in (train, query))
    scores, start = np.zeros((len(q), len(g))), 0
    for layer in exact.layers(module, *train).values():
        matrix, _ = (exact.Layer(layer.inputs, layer.signals, bias=False) if misread else layer).ekfac()
        columns = slice(start, start + len(matrix))
        scores += exact.damped(q[:, columns], g[:, columns], matrix, DAMPING)
        start = columns.stop
    return scores


def _raised(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"
