import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.samples import Batch
from attrbench.errors import UsageError
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.gradients.model_outputs import MODEL_OUTPUTS, WEIGHTED
from attrbench.store.shards import Unit
from tests.gradients.layer_rows import lines, rows_of
from tests.gradients.test_per_sample import ToyDenoiser

SHAPE = (3, 2, 4, 5)
FORMULAS = {
    "loss": lambda e, y: sum((e - y) ** 2) / len(e),
    "weighted-loss": lambda e, y: sum((e - y) ** 2) / len(e),
    "squared-norm": lambda e, y: sum(e**2) / len(e),
    "mean": lambda e, y: sum(e) / len(e),
    "l1": lambda e, y: sum(abs(e)),
    "l2": lambda e, y: sum(e**2) ** 0.5,
    "linf": lambda e, y: max(abs(e)),
}
DERIVATIVES = {
    "loss": lambda e, y: 2 * (e - y) / len(e),
    "weighted-loss": lambda e, y: 2 * (e - y) / len(e),
    "squared-norm": lambda e, y: 2 * e / len(e),
    "mean": lambda e, y: np.full(len(e), 1 / len(e)),
    "l1": lambda e, y: np.sign(e),
    "l2": lambda e, y: e / np.linalg.norm(e),
    "linf": lambda e, y: np.sign(e) * (abs(e) == max(abs(e))),
}
JUMPING = {"l1", "linf"}
"""Rounding moves a sign or the place of the largest entry, and with it all of the gradient."""


def pair():
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def source(**options):
    return GradientSource(grid=TimestepGrid(steps=3), noise="per-item", **options)


def whole(denoiser, items, count=3, backend="hooks", **options):
    """[T, count, p] whole gradients."""
    return GradientPass(source(**options), denoiser, Split("train", items), Engine(backend)).whole(Unit(0, count))


def test_every_output_has_its_formula_here():
    assert FORMULAS.keys() == DERIVATIVES.keys() == MODEL_OUTPUTS.keys()
    assert MODEL_OUTPUTS.keys() >= WEIGHTED


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_output_of_each_item_is_its_formula(name):
    e, y = pair()
    expected = [FORMULAS[name](*both) for both in zip(e.flatten(1).numpy(), y.flatten(1).numpy(), strict=True)]
    np.testing.assert_allclose(MODEL_OUTPUTS[name](e, y), expected, rtol=1e-12)


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_output_is_differentiated_to_its_own_item_alone(name):
    e, y = pair()
    jacobian = torch.autograd.functional.jacobian(lambda e: MODEL_OUTPUTS[name](e, y), e).flatten(2).numpy()
    expected = np.zeros(jacobian.shape)
    for b in range(3):
        expected[b, b] = DERIVATIVES[name](e[b].flatten().numpy(), y[b].flatten().numpy())
    np.testing.assert_allclose(jacobian, expected, atol=1e-12)


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_output_agrees_with_finite_differences(name):
    e, y = pair()
    assert torch.autograd.gradcheck(lambda e: MODEL_OUTPUTS[name](e, y), e.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_network_that_predicts_zero_has_finite_gradients(name):
    e, y = torch.zeros(SHAPE, requires_grad=True), pair()[1].float()
    (gradient,) = torch.autograd.grad(MODEL_OUTPUTS[name](e, y).sum(), e)
    assert gradient.isfinite().all()


def test_loss_is_the_mean_squared_error_that_networks_are_trained_with():
    e, y = pair()
    assert MODEL_OUTPUTS["loss"](e, y).mean().item() == pytest.approx(F.mse_loss(e, y).item(), rel=1e-12)


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_weighted_loss_is_the_loss_times_the_weight_of_the_variational_bound(tiny_denoiser, tiny_items, backend):
    beta = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020
    alpha = 1 - beta
    weights = beta / (2 * alpha * (1 - np.cumprod(alpha)))
    t = list(tiny_denoiser.timesteps(source().grid))
    assert len(set(t)) == 3
    plain = whole(tiny_denoiser, tiny_items, output="loss").double()
    weighted = whole(tiny_denoiser, tiny_items, backend=backend, output="weighted-loss").double()
    expected = torch.from_numpy(weights[t])[:, None, None] * plain
    assert ((weighted - expected).norm(dim=2) / expected.norm(dim=2)).max() < 2e-5
    assert (expected.norm(dim=2) / plain.norm(dim=2)).std() > 0


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_weights_multiply_each_items_own_gradients(tiny_denoiser, backend):
    x, noise = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    t, weight = torch.tensor([10, 500, 999]), torch.tensor([0.5, -2.0, 0.0])
    plain = rows_of(tiny_denoiser, Batch(x, noise, t, {}), "loop")
    weighted = rows_of(tiny_denoiser, Batch(x, noise, t, {}, weight), backend)
    scale = plain.norm(dim=1, keepdim=True)
    assert ((weighted - weight[:, None] * plain) / scale).norm(dim=1).max() < 1e-5
    assert not weighted[2].any()


def test_weighted_loss_of_a_model_without_weights_is_a_usage_error():
    denoiser = ToyDenoiser(torch.nn.Conv2d(4, 4, 1))
    with pytest.raises(UsageError, match="no weights for the model output weighted-loss"):
        denoiser.loss_weights(torch.tensor([1]))


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_gradients_of_each_output_in_a_pass_are_those_of_its_formula(name, tiny_denoiser, tiny_items):
    found = whole(tiny_denoiser, tiny_items, count=1, output=name)
    work = GradientPass(source(output=name), tiny_denoiser, Split("train", tiny_items), Engine())
    encoded = tiny_denoiser.encode(tiny_items.images[:1], [""], "model")
    for step, t in enumerate(work.timesteps):
        one = work.samples.batch(0, encoded, torch.tensor([0]), torch.tensor([step]))
        e = tiny_denoiser.module(one.noisy, torch.tensor([t])).sample
        seed = torch.from_numpy(DERIVATIVES[name](e.detach().flatten().numpy(), one.target.flatten().numpy()))
        weight = 1.0 if one.weight is None else float(one.weight)
        direct = torch.autograd.grad(e, list(tiny_denoiser.module.parameters()), (weight * seed).float().view_as(e))
        direct = torch.cat([gradient.flatten() for gradient in direct])
        assert (found[step, 0] - direct).norm() / direct.norm() < 1e-5


@pytest.mark.parametrize("name", sorted(MODEL_OUTPUTS.keys() - JUMPING))
def test_rows_under_bfloat16_are_close_to_those_in_float32(name, tiny_denoiser, tiny_items, caplog):
    reference = whole(tiny_denoiser, tiny_items, output=name)
    rows = whole(tiny_denoiser, tiny_items, output=name, precision="bf16")
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, reference)
    assert F.cosine_similarity(rows, reference, dim=2).min() > 0.99
    assert not lines(caplog)


@pytest.mark.parametrize("backend", ["vmap", "loop"])
def test_back_ends_agree_under_bfloat16(backend, tiny_denoiser, tiny_items):
    hooks = whole(tiny_denoiser, tiny_items, precision="bf16")
    other = whole(tiny_denoiser, tiny_items, backend=backend, precision="bf16")
    assert F.cosine_similarity(hooks, other, dim=2).min() > 0.99
    assert (hooks.norm(dim=2) / other.norm(dim=2) - 1).abs().max() < 0.02


def test_tensor_float_32_changes_nothing_on_the_cpu_and_is_off_again_after_the_pass(tiny_denoiser, tiny_items):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert torch.equal(whole(tiny_denoiser, tiny_items, precision="tf32"), whole(tiny_denoiser, tiny_items))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("tf32", 0.999), ("bf16", 0.99)])
def test_rows_on_cuda_are_close_to_those_on_the_cpu(precision, least, tiny_folder, tiny_denoiser, tiny_items):
    from attrbench.models.families.ddpm import DDPMDenoiser

    denoiser = DDPMDenoiser(tiny_folder, torch.device("cuda"), sampling_steps=5)
    rows = whole(denoiser, tiny_items, precision=precision).cpu()
    assert F.cosine_similarity(rows, whole(tiny_denoiser, tiny_items), dim=2).min() > least
