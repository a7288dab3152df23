"""A LoRA on every layer of a network, convolutions among them, has the per-sample gradients that autograd gives it."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from tests.gradients.layer_rows import direct_rows, lines, rows_of
from tests.gradients.test_models import MODELS, Conditioned, batch_of, relative_error

KINDS = ("sd1", "sd3")


def adapted_everywhere(kind, **options):
    """A tiny network with a LoRA on each of its Linear and Conv2d layers, A and B drawn anew, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = MODELS[kind]()
        layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        network.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=layers, **options))
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
    return Conditioned(network.double(), "lora_"), layers


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_give_the_gradients_of_plain_calls_of_the_network(kind, checkpointing, caplog):
    denoiser, layers = adapted_everywhere(kind)
    if checkpointing:
        denoiser.module.enable_gradient_checkpointing()
    batch, parameters = batch_of(kind, torch.float64), denoiser.attributed_parameters("")
    assert len(parameters) == 2 * len(layers)
    rows, direct = rows_of(denoiser, batch), direct_rows(denoiser, batch)
    assert not lines(caplog)  # no parameter takes the slower way
    assert direct.norm(dim=1).min() > 0
    sizes = [parameter.numel() for parameter in parameters.values()]
    for name, found, expected in zip(parameters, rows.split(sizes, 1), direct.split(sizes, 1), strict=True):
        assert (found - expected).norm() <= 1e-9 * expected.norm(), name


def test_adapted_convolutions_are_those_of_all_kernels_and_strides():
    denoiser, _ = adapted_everywhere("sd1")
    down = [module for name, module in denoiser.module.named_modules() if name.endswith("lora_A.default")]
    convolutions = {(m.kernel_size[0], m.stride[0], m.groups) for m in down if isinstance(m, nn.Conv2d)}
    assert convolutions == {(1, 1, 1), (3, 1, 1), (3, 2, 1)}
    up = [module for name, module in denoiser.module.named_modules() if name.endswith("lora_B.default")]
    assert {m.kernel_size for m in up if isinstance(m, nn.Conv2d)} == {(1, 1)}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}], ids=["dora", "rslora"])
def test_other_kinds_of_lora_give_the_gradients_of_plain_calls_too(options):
    denoiser, _ = adapted_everywhere("sd1", **options)
    batch = batch_of("sd1", torch.float64)
    assert relative_error(rows_of(denoiser, batch), direct_rows(denoiser, batch)) < 1e-10
