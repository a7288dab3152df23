"""Layers whose inputs are projected give the projected gradients of autograd; all others give what they gave."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from attrbench.gradients import projected_layers
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.projected_layers import INPUTS, OUTPUTS, POSITIONS
from attrbench.gradients.sketching.input_projection import WIDTH, InputProjection
from tests.gradients.layer_rows import IDS, RULES, SIZE, OwnForward, gaussian, ids, lines, seeded, setup
from tests.gradients.test_layer_rules import convolutions

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PROJECTION = InputProjection(7)
WHOLE = None


def gradients_of(denoiser, batch, projection, backend="hooks", precision="fp32"):
    """Parameter -> its per-sample gradients, [B, numel] or [B, O * k], as they come."""
    parameters = denoiser.attributed_parameters("all")
    work = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"], backend, precision, projection)
    found = {}
    work(batch, lambda offset, rows: found.__setitem__(offset, rows))
    return {name: found[offset] for name, offset in work.offsets.items()}


def assert_projected(make, x, weights, backend="hooks"):
    """The gradients of `weights` are projected by definition, those of all others are the bits of a whole pass."""
    denoiser, batch = setup(seeded(make), x)
    found = gradients_of(denoiser, batch, PROJECTION, backend)
    whole = gradients_of(denoiser, batch, WHOLE, backend)
    for name, parameter in denoiser.module.named_parameters():
        if name in weights:
            assert found[name].shape == (SIZE, len(parameter) * WIDTH), name
            expected = PROJECTION.of_gradients(name, len(parameter), whole[name])
            torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9 * float(whole[name].norm()))
        else:
            assert torch.equal(found[name], whole[name]), name


@pytest.fixture
def every_layer(monkeypatch):
    """Any layer that can be projected is, however small."""
    for bound in ("INPUTS", "OUTPUTS", "POSITIONS"):
        monkeypatch.setattr(projected_layers, bound, 1)


UNGROUPED = [name for name, (make, _) in RULES.items() if getattr(make(), "groups", 0) == 1]
LINEAR = [name for name in RULES if name.startswith("linear")]


@pytest.mark.parametrize("backend", ["hooks", "vmap", "loop"])
@pytest.mark.parametrize("name", [*LINEAR, *UNGROUPED])
def test_each_rule_and_back_end_gives_the_projected_gradient(every_layer, name, backend, caplog):
    make, x = RULES[name]
    assert_projected(lambda: nn.Sequential(make(), nn.Tanh()), x, {"0.weight"}, backend)
    assert not lines(caplog)


@pytest.mark.parametrize("name", sorted(RULES.keys() - {*LINEAR, *UNGROUPED}))
def test_norms_embeddings_and_grouped_convolutions_stay_whole(every_layer, name):
    make, x = RULES[name]
    assert_projected(lambda: nn.Sequential(make(), nn.Tanh()), x, set())


@pytest.mark.slow
@QUICK
@given(convolutions())
def test_convolution_of_any_shape_gives_the_projected_gradient(every_layer, convolution):
    make, shape = convolution
    grouped = make().groups > 1
    assert_projected(lambda: nn.Sequential(make(), nn.Tanh()), gaussian(*shape), set() if grouped else {"0.weight"})


@pytest.mark.parametrize(
    ("inputs", "outputs", "positions", "is_projected"),
    [
        (INPUTS, OUTPUTS, POSITIONS, True),
        (INPUTS - 1, OUTPUTS, POSITIONS, False),
        (INPUTS, OUTPUTS - 1, POSITIONS, False),
        (INPUTS, OUTPUTS, POSITIONS - 1, False),
    ],
)
def test_small_layers_and_those_with_few_positions_stay_whole(inputs, outputs, positions, is_projected):
    x = gaussian(positions, inputs)
    assert_projected(lambda: nn.Sequential(nn.Linear(inputs, outputs)), x, {"0.weight"} if is_projected else set())


def test_a_layer_without_positions_stays_whole():
    assert_projected(lambda: nn.Sequential(nn.Linear(INPUTS, OUTPUTS)), gaussian(INPUTS), set())


class WithLoRA(nn.Module):
    """A wide layer, and an adapter of a rank as large."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(INPUTS, INPUTS)
        self.to_q.lora_A, self.to_q.lora_B = (nn.Linear(INPUTS, INPUTS, bias=False) for _ in range(2))

    def forward(self, x):
        return self.to_q(x) + self.to_q.lora_B(self.to_q.lora_A(x))


def test_matrices_of_lora_stay_whole():
    assert_projected(WithLoRA, gaussian(POSITIONS, INPUTS), {"to_q.weight"})


class FewAndMany(nn.Module):
    """One weight in two layers that see many positions, another in a layer that is called with many and with one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(INPUTS, INPUTS) for _ in range(3))
        self.b.weight = self.a.weight

    def forward(self, x):
        x = self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))
        return torch.tanh(self.c(torch.tanh(x.mean(1))))


@pytest.mark.parametrize("backend", ["hooks", "loop"])
def test_a_weight_used_several_times_is_projected_if_every_use_has_many_positions(backend):
    assert_projected(FewAndMany, gaussian(POSITIONS, INPUTS), {"a.weight"}, backend)


class TiedWithAnEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(IDS, 4), nn.Linear(4, IDS, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        return self.out(torch.tanh(self.embedding(x)))


def test_a_weight_that_an_embedding_shares_stays_whole(every_layer):
    assert_projected(TiedWithAnEmbedding, ids(7), set())


def test_a_layer_that_no_hook_can_answer_for_stays_whole_beside_one_that_is_projected(every_layer):
    assert_projected(lambda: nn.Sequential(nn.Linear(4, 4), OwnForward(4, 3)), gaussian(5, 4), {"0.weight"})


class Aside(nn.Module):
    """A layer whose weight also acts without the layer: hooks can't cover it, and its gradients come from `vmap`."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.layer(x)) @ self.layer.weight


def test_a_projected_layer_that_falls_back_gives_the_projected_gradient(every_layer, caplog):
    assert_projected(Aside, gaussian(5, 4), {"layer.weight"})
    assert any("takes the slower way" in line for line in lines(caplog))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(2))

    def forward(self, x):
        return checkpoint(self.last, checkpoint(self.first, x, use_reentrant=False), use_reentrant=False)


def test_projection_goes_with_gradient_checkpointing(every_layer, caplog):
    assert_projected(Checkpointed, gaussian(5, 4), {f"{part}.{i}.weight" for part in ("first", "last") for i in (0, 2)})
    assert not lines(caplog)


@pytest.mark.parametrize("name", ["linear, [B, N, C]", "conv2d, reflect"])
def test_projection_goes_with_bfloat16_autocast(every_layer, name):
    make, x = RULES[name]
    denoiser, batch = setup(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    denoiser.module.float()
    batch = type(batch)(batch.noisy.float(), batch.target.float(), batch.t, {})
    found, loop = (gradients_of(denoiser, batch, PROJECTION, way, "bf16")["0.weight"] for way in ("hooks", "loop"))
    assert F.cosine_similarity(found.float(), loop.float()).min() > 0.999
    assert (found.float().norm(dim=1) / loop.float().norm(dim=1) - 1).abs().max() < 0.02


def test_gradients_do_not_depend_on_the_batch(every_layer):
    make, x = RULES["conv2d, reflect"]
    denoiser, batch = setup(seeded(lambda: nn.Sequential(make(), nn.Tanh())), x)
    together = gradients_of(denoiser, batch, PROJECTION)["0.weight"]
    for b in range(SIZE):
        alone = gradients_of(denoiser, batch.sample(b), PROJECTION)["0.weight"]
        torch.testing.assert_close(alone[0], together[b], rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return result


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(512, 512), gaussian(16, 512)),
        (lambda: nn.Conv2d(64, 64, 3, padding=1), gaussian(64, 4, 4)),
    ],
    ids=["linear", "convolution"],
)
def test_no_whole_weight_gradient_of_a_projected_layer_is_formed(make, x):
    denoiser, batch = setup(seeded(lambda: nn.Sequential(make())), x)
    parameters = denoiser.attributed_parameters("all")
    largest = {}
    for projection in (WHOLE, PROJECTION):
        work = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"], "hooks", "fp32", projection)
        work(batch, lambda offset, rows: None)  # the first batch is compared with autograd's whole gradients
        with Largest() as seen:
            work(batch, lambda offset, rows: None)
        largest[projection] = seen.numbers
    weight = denoiser.module[0].weight.numel()
    assert largest[WHOLE] == SIZE * weight
    assert largest[PROJECTION] <= weight


def test_a_network_without_wide_layers_says_that_nothing_is_projected(caplog):
    assert_projected(lambda: nn.Sequential(nn.Linear(4, 3)), gaussian(5, 4), set())
    assert any("equals `rotation` here" in line for line in lines(caplog))
