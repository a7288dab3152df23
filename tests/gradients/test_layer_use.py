"""However a network uses its layers, their hooks give autograd's gradients or fall back to them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attrbench.gradients import hooks
from tests.gradients.layer_rows import (
    IDS,
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


def test_comparison_with_autograd_takes_all_parameters_of_a_small_model_and_some_of_a_large_one():
    parameters = {str(i): nn.Parameter(torch.zeros(10 * (i + 1))) for i in range(50)}
    total = sum(p.numel() for p in parameters.values())
    assert hooks._spread(parameters, total) == parameters
    some = hooks._spread(parameters, total - 1)
    assert 0.9 * total / 10 < sum(p.numel() for p in some.values()) <= total / 10
    assert some == hooks._spread(parameters, total - 1)
