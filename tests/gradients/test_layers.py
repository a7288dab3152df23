from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from attrbench.contracts.samples import Batch
from attrbench.errors import AttrbenchError
from attrbench.gradients import hooks
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.layers import has_rule
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from tests.gradients.test_per_sample import ToyDenoiser, assert_equal_rows

SIZE = 4
IDS = 5
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def seeded(make):
    """A module with random weights, biases and norm gains, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module


def gaussian(*shape, seed=2):
    return torch.randn(SIZE, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(*shape):
    return torch.randint(0, IDS, (SIZE, *shape), generator=torch.Generator().manual_seed(2))


def setup(module, x):
    denoiser = ToyDenoiser(module)
    with torch.no_grad():
        shape = denoiser.predict(x, None, {}).shape[1:]
    return denoiser, Batch(x, gaussian(*shape, seed=3), torch.arange(SIZE), {})


def rows_of(denoiser, batch, backend="hooks", precision="fp32"):
    parameters = denoiser.attributed_parameters("all")
    gradients = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"], backend, precision)
    rows = torch.full((len(batch.t), gradients.total), torch.nan, dtype=torch.float64)
    seen = []

    def sink(offset, values):
        seen.append(offset)
        rows[:, offset : offset + values.shape[1]] = values

    gradients(batch, sink)
    assert sorted(seen) == sorted(gradients.offsets.values())  # each parameter once
    return rows


def assert_right(module, x, zeros=False):
    """Hooks give the rows that autograd gives, sample by sample; `zeros` where these may be zero."""
    denoiser, batch = setup(module, x)
    loop = rows_of(denoiser, batch, "loop")
    assert zeros or loop.norm(dim=1).min() > 0
    assert_equal_rows(rows_of(denoiser, batch), loop)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("attrbench")]


def diffusers_rms_norm(dim, bias):
    from diffusers.models.normalization import RMSNorm

    return RMSNorm(dim, 1e-3, bias=bias)


RULES = {
    "linear, [B, C]": (lambda: nn.Linear(4, 3), gaussian(4)),
    "linear, [B, N, C]": (lambda: nn.Linear(4, 3), gaussian(5, 4)),
    "linear, [B, N, M, C]": (lambda: nn.Linear(4, 3), gaussian(5, 2, 4)),
    "linear, [B, C], no bias": (lambda: nn.Linear(4, 3, bias=False), gaussian(4)),
    "linear, [B, N, C], no bias": (lambda: nn.Linear(4, 3, bias=False), gaussian(5, 4)),
    "linear, transposed input": (lambda: nn.Linear(4, 3), gaussian(4, 5).transpose(1, 2)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), gaussian(4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2), gaussian(4, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (1, 3, 2), (1, 2, 1), (0, 1, 1), groups=2), gaussian(2, 3, 5, 4)),
    "conv2d, depthwise, no bias": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), gaussian(4, 5, 5)),
    "conv2d, the stride leaves a rest": (lambda: nn.Conv2d(3, 4, 2, stride=3), gaussian(3, 7, 6)),
    "conv2d, channels last": (
        lambda: nn.Conv2d(4, 6, 3, padding=1),
        gaussian(4, 5, 5).to(memory_format=torch.channels_last),
    ),
    "conv1d, circular": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), gaussian(2, 6)),
    "conv2d, circular, stride": (
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=(1, 2), padding_mode="circular", groups=2),
        gaussian(2, 5, 6),
    ),
    "conv2d, reflect": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), gaussian(2, 5, 6)),
    "conv2d, replicate": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), gaussian(2, 5, 6)),
    "conv3d, circular": (lambda: nn.Conv3d(2, 2, 3, padding=1, padding_mode="circular"), gaussian(2, 3, 3, 4)),
    "conv1d, same": (lambda: nn.Conv1d(2, 3, 4, padding="same"), gaussian(2, 6)),
    "conv2d, same, even kernel": (lambda: nn.Conv2d(2, 4, (2, 4), padding="same", groups=2), gaussian(2, 5, 6)),
    "conv2d, same, dilated": (lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=(1, 3)), gaussian(2, 5, 6)),
    "conv2d, same, reflect": (
        lambda: nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"),
        gaussian(2, 5, 6),
    ),
    "conv3d, same": (lambda: nn.Conv3d(2, 2, (1, 2, 3), padding="same"), gaussian(2, 3, 3, 4)),
    "conv2d, valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), gaussian(2, 5, 6)),
    "group norm, [B, C, N]": (lambda: nn.GroupNorm(2, 4), gaussian(4, 5)),
    "group norm, [B, C, H, W]": (lambda: nn.GroupNorm(2, 4, eps=1e-2), gaussian(4, 3, 5)),
    "group norm, [B, C, D, H, W]": (lambda: nn.GroupNorm(1, 4), gaussian(4, 2, 3, 2)),
    "layer norm, [B, C]": (lambda: nn.LayerNorm(4), gaussian(4)),
    "layer norm, [B, N, C]": (lambda: nn.LayerNorm(4, eps=1e-2), gaussian(5, 4)),
    "layer norm, [B, N, M, C]": (lambda: nn.LayerNorm(4), gaussian(5, 2, 4)),
    "layer norm, no bias": (lambda: nn.LayerNorm(4, bias=False), gaussian(5, 4)),
    "layer norm over two dimensions": (lambda: nn.LayerNorm((3, 4)), gaussian(5, 3, 4)),
    "layer norm over all of a sample": (lambda: nn.LayerNorm((3, 4)), gaussian(3, 4)),
    "layer norm over two dimensions, no bias": (lambda: nn.LayerNorm((3, 4), bias=False), gaussian(5, 3, 4)),
    "diffusers' rms norm": (lambda: diffusers_rms_norm(4, False), gaussian(5, 4)),
    "diffusers' rms norm, bias": (lambda: diffusers_rms_norm(4, True), gaussian(2, 5, 4)),
    "diffusers' rms norm, bias, [B, C]": (lambda: diffusers_rms_norm(4, True), gaussian(4)),
    "embedding": (lambda: nn.Embedding(IDS, 3), ids(7)),
    "embedding, [B, N, M]": (lambda: nn.Embedding(IDS, 3), ids(4, 2)),
    "embedding, padding": (lambda: nn.Embedding(IDS, 3, padding_idx=1), ids(7)),
    "embedding, padding counted from the end": (lambda: nn.Embedding(IDS, 3, padding_idx=-1), ids(7)),
    "embedding, int32": (lambda: nn.Embedding(IDS, 3), ids(7).int()),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_gives_autograds_gradients(name, caplog):
    make, x = RULES[name]
    assert_right(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    assert not lines(caplog)


def in_bfloat16(module, x):
    """Rows of hooks and of the loop where the forward pass runs under bfloat16 autocast."""
    denoiser, batch = setup(module, x)
    denoiser.module.float()
    noisy = batch.noisy.float() if batch.noisy.is_floating_point() else batch.noisy
    batch = Batch(noisy, batch.target.float(), batch.t, {})
    return [rows_of(denoiser, batch, backend, "bf16") for backend in ("hooks", "loop")]


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


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


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


class SharedParameters(nn.Module):
    """One weight in two linear layers, one in an embedding and the layer that reads it out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(IDS, 4)
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, IDS, bias=False)
        self.b.weight = self.a.weight
        self.out.weight = self.embedding.weight

    def forward(self, x):
        return self.out(self.b(torch.tanh(self.a(self.embedding(x)))))


class SharedWithALayerWithoutARule(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), OwnForward(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(torch.tanh(self.a(x))))


class CalledTwice(nn.Module):
    """With one shape and with another."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x):
        x = torch.tanh(self.norm(self.layer(x)))
        return self.norm(self.layer(x.mean(1))).tanh()


class SecondCallInVain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x).tanh()
        self.layer(y)
        return y


class DetachedOnTheWay(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).detach())


@pytest.mark.parametrize("kind", [SharedParameters, CalledTwice, SecondCallInVain, DetachedOnTheWay])
def test_layers_used_several_times_or_in_vain_keep_their_hooks(kind, caplog):
    assert_right(seeded(kind), ids(7) if kind is SharedParameters else gaussian(5, 4))
    assert not lines(caplog)


def test_parameter_shared_with_a_layer_without_a_rule_falls_back_and_others_do_not(caplog):
    assert_right(seeded(SharedWithALayerWithoutARule), gaussian(5, 4))
    text = "\n".join(lines(caplog))
    assert "a.weight" in text
    assert "c.weight" not in text


class ReluInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(F.relu_(self.a(x)))


class PartSetToZero(ReluInPlace):
    def forward(self, x):
        h = self.a(x)
        h[:, 0] = 0
        return self.b(h)


class ViewChanged(ReluInPlace):
    def forward(self, x):
        h = self.a(x)
        h[..., :2].mul_(2)
        return self.b(h)


class SumInPlace(ReluInPlace):
    def forward(self, x):
        h = self.a(x)
        h += self.b(x)
        return h.tanh()


class ConvolutionThenInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv1d(5, 4, 1), nn.GroupNorm(2, 4)

    def forward(self, x):
        return F.silu(self.norm(F.silu(self.a(x), inplace=True)), inplace=True)


@pytest.mark.parametrize("kind", [ReluInPlace, PartSetToZero, ViewChanged, SumInPlace, ConvolutionThenInPlace])
def test_work_in_place_after_a_layer_does_not_change_its_gradients(kind, caplog):
    assert_right(seeded(kind), gaussian(5, 4))
    assert not lines(caplog)


class InputChangedAfterwards(ReluInPlace):
    def forward(self, x):
        h = self.a(x)
        y = self.b(h)
        h.mul_(2)
        return y


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_input_that_is_changed_after_its_layer_is_an_error_as_with_plain_autograd(precision):
    denoiser, batch = setup(seeded(InputChangedAfterwards), gaussian(5, 4))
    for backend in ("hooks", "loop"):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            rows_of(denoiser, batch, backend, precision)


class AlsoUsedDirectly(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(F.linear(torch.tanh(self.a(x)), self.a.weight)))


class EmbeddingReadOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(IDS, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(torch.tanh(self.b(self.a(x))), self.a.weight)


class BiasUsedDirectly(AlsoUsedDirectly):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x) + self.a.bias))


@pytest.mark.parametrize("kind", [AlsoUsedDirectly, EmbeddingReadOut, BiasUsedDirectly])
def test_parameter_used_both_in_its_module_and_directly_is_found_and_named(kind, caplog):
    assert_right(seeded(kind), ids(7) if kind is EmbeddingReadOut else gaussian(5, 4))
    text = "\n".join(lines(caplog))
    wrong = "a.bias" if kind is BiasUsedDirectly else "a.weight"
    assert f"no gradient hook for {wrong}: it differs from autograd's gradient" in text
    assert "b.weight" not in text


def test_parameter_used_both_in_its_module_and_directly_is_found_in_tensor_float_32_too():
    denoiser, batch = setup(seeded(AlsoUsedDirectly), gaussian(5, 4))
    assert_equal_rows(rows_of(denoiser, batch, precision="tf32"), rows_of(denoiser, batch, "loop"))


def test_parameter_used_both_in_its_module_and_directly_is_found_in_bfloat16_too():
    hooks, loop = in_bfloat16(seeded(AlsoUsedDirectly), gaussian(5, 4))
    assert F.cosine_similarity(hooks, loop).min() > 0.99


class PositionEmbedding(nn.Module):
    """Looked up once for the whole batch."""

    def __init__(self):
        super().__init__()
        self.positions, self.layer = nn.Embedding(5, 4), nn.Linear(4, 4)

    def places(self):
        return torch.arange(5)

    def forward(self, x):
        return self.layer(torch.tanh(x + self.positions(self.places())))


class PositionEmbeddingOfOneRow(PositionEmbedding):
    def places(self):
        return torch.arange(5)[None]


def test_layer_that_sees_one_input_for_the_whole_batch_falls_back(caplog):
    assert_right(seeded(PositionEmbedding), gaussian(5, 4))
    text = "\n".join(lines(caplog))
    assert "positions.weight" in text
    assert "layer.weight" not in text


def test_layer_that_sees_one_row_for_the_whole_batch_falls_back():
    assert_right(seeded(PositionEmbeddingOfOneRow), gaussian(5, 4))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 4), nn.LayerNorm(4))

    def forward(self, x):
        return x + self.layers(x)


class Checkpointed(nn.Module):
    reentrant = False

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def run(self, block, x):
        return checkpoint(block, x, use_reentrant=self.reentrant)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.last(x)


class CheckpointedFromTheStart(Checkpointed):
    def forward(self, x):
        for block in self.blocks:
            x = self.run(block, x)
        return x


class CheckpointedOneLayer(Checkpointed):
    def forward(self, x):
        return self.last(torch.tanh(self.run(self.first, x)))


class CheckpointedTwice(Checkpointed):
    def forward(self, x):
        x = self.first(x)
        return self.last(self.run(self.blocks[0], self.run(self.blocks[0], x)))


class InsideAndOutside(Checkpointed):
    def forward(self, x):
        return self.last(self.run(self.blocks[0], self.blocks[0](self.first(x))))


class TwiceInOneCheckpoint(Checkpointed):
    def forward(self, x):
        return self.last(self.run(lambda x: self.blocks[0](self.blocks[0](x)), self.first(x)))


class Nested(Checkpointed):
    def forward(self, x):
        return self.run(lambda x: self.last(self.run(self.blocks[1], self.run(self.blocks[0], x))), self.first(x))


class InPlaceInACheckpoint(Checkpointed):
    def forward(self, x):
        return self.last(self.run(lambda x: F.relu_(self.blocks[0].layers[0](x))[..., :4], self.first(x)))


CHECKPOINTED = [
    Checkpointed,
    CheckpointedFromTheStart,
    CheckpointedOneLayer,
    CheckpointedTwice,
    InsideAndOutside,
    TwiceInOneCheckpoint,
    Nested,
    InPlaceInACheckpoint,
]


@pytest.mark.parametrize("kind", CHECKPOINTED)
def test_layers_under_gradient_checkpointing_keep_their_hooks(kind, caplog):
    assert_right(seeded(kind), gaussian(5, 4))
    assert not lines(caplog)


class CheckpointedWithABareParameter(Checkpointed):
    """vmap knows no checkpointing."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return super().forward(x * self.gain)


def test_fall_back_under_gradient_checkpointing_takes_one_sample_at_a_time(caplog):
    assert_right(seeded(CheckpointedWithABareParameter), gaussian(5, 4))
    text = "\n".join(lines(caplog))
    assert "no gradient hook for gain" in text
    assert "one sample at a time" in text


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("kind", CHECKPOINTED)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_gives_right_numbers_or_an_error_that_says_what_to_do(kind, precision):
    module = seeded(kind)
    denoiser, batch = setup(module, gaussian(5, 4))
    expected = rows_of(denoiser, batch, "loop")
    module.reentrant = True
    try:
        rows = rows_of(denoiser, batch, precision=precision)
    except (AttrbenchError, RuntimeError) as error:
        assert "use_reentrant=False" in str(error)  # noqa: PT017
    else:
        assert_equal_rows(rows, expected)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_reentrant_checkpointing_after_a_layer_gives_right_numbers_or_our_own_error():
    module = seeded(Checkpointed)
    denoiser, batch = setup(module, gaussian(5, 4))
    module.reentrant = True
    with suppress(AttrbenchError):
        rows_of(denoiser, batch)


def to_cuda(denoiser, batch):
    denoiser.module.cuda()
    denoiser.device = torch.device("cuda")
    return denoiser, Batch(batch.noisy.cuda(), batch.target.cuda(), batch.t.cuda(), {})


CUDA = {name: (lambda make=make: nn.Sequential(make(), nn.Tanh()), x) for name, (make, x) in RULES.items()}
CUDA |= {kind.__name__: (kind, gaussian(5, 4)) for kind in CHECKPOINTED}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CUDA)
def test_hooks_on_cuda_give_autograds_gradients_there_and_on_the_cpu(name, caplog):
    make, x = CUDA[name]
    denoiser, batch = setup(seeded(make), x)
    on_cpu = rows_of(denoiser, batch, "loop")
    denoiser, batch = to_cuda(denoiser, batch)
    hooks = rows_of(denoiser, batch)
    for expected in (rows_of(denoiser, batch, "loop"), on_cpu):  # a norm may work in single precision inside
        assert ((hooks - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-6
    assert not lines(caplog)


def test_comparison_with_autograd_takes_all_parameters_of_a_small_model_and_some_of_a_large_one():
    parameters = {str(i): nn.Parameter(torch.zeros(10 * (i + 1))) for i in range(50)}
    total = sum(p.numel() for p in parameters.values())
    assert hooks._spread(parameters, total) == parameters
    some = hooks._spread(parameters, total - 1)
    assert 0.9 * total / 10 < sum(p.numel() for p in some.values()) <= total / 10
    assert some == hooks._spread(parameters, total - 1)
