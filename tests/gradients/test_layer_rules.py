"""Each rule for a layer gives autograd's gradients, and layers without a rule fall back to them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.layers import has_rule
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from tests.gradients.layer_rows import (
    IDS,
    RULES,
    OwnForward,
    assert_right,
    gaussian,
    ids,
    in_bfloat16,
    lines,
    rows_of,
    seeded,
    setup,
)
from tests.gradients.test_per_sample import assert_equal_rows

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", RULES)
def test_each_rule_gives_autograds_gradients(name, caplog):
    make, x = RULES[name]
    assert_right(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    assert not lines(caplog)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_gives_autograds_gradients_under_bfloat16_autocast(name, caplog):
    make, x = RULES[name]
    hooks, loop = in_bfloat16(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    assert F.cosine_similarity(hooks, loop).min() > 0.999
    assert (hooks.norm(dim=1) / loop.norm(dim=1) - 1).abs().max() < 0.02
    assert not lines(caplog)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize(("normalized", "shape"), [(4, (4,)), (4, (2, 5, 4)), ((5, 4), (2, 5, 4))])
def test_rms_norm_of_torch_gives_autograds_gradients_to_single_precision(eps, normalized, shape, caplog):
    module = seeded(lambda: nn.Sequential(nn.RMSNorm(normalized, eps=eps), nn.Tanh()))
    denoiser, batch = setup(module, gaussian(*shape))
    loop = rows_of(denoiser, batch, "loop")
    assert ((rows_of(denoiser, batch) - loop).norm(dim=1) / loop.norm(dim=1)).max() < 1e-6
    assert not lines(caplog)


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_rms_norm_of_torch_gives_autograds_gradients_to_double_precision(eps):
    assert_right(seeded(lambda: nn.Sequential(nn.RMSNorm(4, eps=eps), nn.Tanh())), gaussian(2, 5, 4))


@pytest.mark.slow
@QUICK
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_linear_of_any_shape_gives_autograds_gradients(caplog, between, inputs, outputs, bias):
    assert_right(seeded(lambda: nn.Sequential(nn.Linear(inputs, outputs, bias), nn.Tanh())), gaussian(*between, inputs))
    assert not lines(caplog)


@st.composite
def convolutions(draw):
    n = draw(st.integers(1, 3))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    groups, kernel, dilation = draw(st.integers(1, 3)), several(1, 3), several(1, 2)
    mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if draw(st.booleans()):
        stride, padding = (1,) * n, "same"
        shape = [s + draw(st.integers(1, 3)) for s in span]
    else:
        stride, padding = several(1, 3), several(0, 2)
        shape = [max(s, p + 1) + draw(st.integers(0, 3)) for s, p in zip(span, padding, strict=True)]
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    bias = draw(st.booleans())
    make = lambda: kind(inputs, outputs, kernel, stride, padding, dilation, groups, bias, mode)  # noqa: E731
    return make, (inputs, *shape)


@pytest.mark.slow
@QUICK
@given(convolutions())
def test_convolution_of_any_shape_gives_autograds_gradients(caplog, convolution):
    make, shape = convolution
    assert_right(seeded(lambda: nn.Sequential(make(), nn.Tanh())), gaussian(*shape), zeros=True)  # all in the padding
    assert not lines(caplog)


def test_embedding_of_one_label_a_sample_gives_autograds_gradients():
    assert_right(seeded(lambda: nn.Sequential(nn.Embedding(IDS, 3), nn.Tanh())), ids())


def test_group_norm_of_vectors_gives_autograds_gradients():
    assert_right(seeded(lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh())), gaussian(4))


def test_embedding_with_sparse_gradients_gives_autograds_gradients():
    dense = seeded(lambda: nn.Sequential(nn.Embedding(IDS, 3), nn.Tanh()))
    sparse = seeded(lambda: nn.Sequential(nn.Embedding(IDS, 3, sparse=True), nn.Tanh()))
    expected = rows_of(*setup(dense, ids(7)), "loop")
    assert_equal_rows(rows_of(*setup(sparse, ids(7))), expected)


class OwnConvolution(nn.Conv1d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.tanh(), bias)


class LooksLikeRMSNorm(nn.Module):
    """Named as a layer with a rule, but computing something else."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.eps = 1e-3

    def forward(self, x):
        return x * self.weight


LooksLikeRMSNorm.__name__ = "RMSNorm"

WITHOUT_A_RULE = {
    "embedding, max_norm": (lambda: nn.Embedding(IDS, 3, max_norm=1.0), ids(7)),
    "embedding, scaled by frequency": (lambda: nn.Embedding(IDS, 3, scale_grad_by_freq=True), ids(7)),
    "a linear layer with its own forward": (lambda: OwnForward(4, 3), gaussian(5, 4)),
    "a transposed convolution": (lambda: nn.ConvTranspose1d(4, 3, 2), gaussian(4, 5)),
    "batch norm": (lambda: nn.BatchNorm1d(4), gaussian(4, 5)),
    "prelu": (lambda: nn.PReLU(), gaussian(4)),
    "a convolution with its own inner part": (lambda: OwnConvolution(4, 3, 2), gaussian(4, 5)),
    "a class of the same name": (LooksLikeRMSNorm, gaussian(5, 4)),
    "weight norm as a parametrization": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), gaussian(5, 4)),
}


@pytest.mark.parametrize("name", WITHOUT_A_RULE)
def test_layer_without_a_rule_falls_back_and_gives_autograds_gradients(name, caplog):
    make, x = WITHOUT_A_RULE[name]
    assert_right(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    assert any("takes the slower way" in line for line in lines(caplog))


def test_subclass_has_a_rule_only_without_its_own_forward():
    class Plain(nn.Linear):
        pass

    assert has_rule(Plain(2, 2))
    assert not has_rule(OwnForward(2, 2))


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
def test_rows_of_some_of_the_parameters_carry_no_graph(backend):
    """A pass can't write them otherwise, and the graph would stay in memory with them."""
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 4), OwnForward(4, 3), nn.Tanh()))
    denoiser, batch = setup(module, gaussian(5, 4))
    parameters = dict(module[1].named_parameters(prefix="1"))
    asking = []
    gradients = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"], backend)
    gradients(batch, lambda offset, rows: asking.append(rows.requires_grad))
    assert asking == [False, False]


class Attention(nn.Module):
    """torch's own uses its output layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_torchs_attention_falls_back_and_gives_autograds_gradients(caplog):
    assert_right(seeded(Attention), gaussian(5, 4))
    assert any("attention.out_proj.weight: it is used without calling its module" in line for line in lines(caplog))


class ExtraParameter(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.gain = nn.Parameter(torch.ones(4))


class UsesTheExtraParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = ExtraParameter()

    def forward(self, x):
        return torch.tanh(self.layer(x)) * self.layer.gain


def pruned():
    return prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make", [UsesTheExtraParameter, pruned, lambda: nn.utils.weight_norm(nn.Linear(4, 3))], ids=["extra", "prune", "wn"]
)
def test_layer_with_other_parameters_than_its_rule_knows_gives_autograds_gradients(make):
    assert_right(seeded(make), gaussian(5, 4))
