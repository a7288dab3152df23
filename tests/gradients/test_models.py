import copy
import gc
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from attrbench.contracts.samples import Batch
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.sketching.rotation import sketch
from tests.gradients.layer_rows import direct_rows, lines, rows_of
from tests.gradients.test_per_sample import ToyDenoiser
from tests.models import pipelines

SIZE = 3
CHECKPOINTED = {
    "unet": "ResnetBlock2D",
    "sd1": "BasicTransformerBlock",
    "sd3": "JointTransformerBlock",
    "sd3.5": "JointTransformerBlock",
}


class Conditioned(ToyDenoiser):
    """Any network of diffusers; of its parameters, those with `part` in their names."""

    def __init__(self, module, part=""):
        self.module = module.eval()
        self.device = torch.device("cpu")
        self.part = part

    def attributed_parameters(self, which):
        return {name: p for name, p in self.module.named_parameters() if self.part in name}

    def predict(self, noisy, t, conditioning):
        return self.module(noisy, timestep=t, return_dict=False, **conditioning)[0]


def unet(**options):
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def sd1():
    return pipelines.unet(text_width=12)


def sd3(**options):
    return pipelines.transformer(text_width=12, pooled_width=10, channels=4, **options)


MODELS = {
    "unet": unet,
    "sd1": sd1,
    "sd3": sd3,
    "sd3.5": lambda: sd3(qk_norm="rms_norm", dual_attention_layers=(0,)),
}
PARTS = {"all": "", "blocks": "transformer_blocks", "lora": "lora_"}
CASES = [(kind, part) for kind in MODELS for part in PARTS if (kind, part) != ("unet", "blocks")]


def adapted(module, **options):
    """With LoRA on all attention layers."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=pipelines.TARGETS, **options)
    if hasattr(module, "add_adapter"):
        module.add_adapter(config)
    else:
        peft.inject_adapter_in_model(config, module)
    return module


@cache
def prototype(kind, lora):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        module = MODELS[kind]()
        if lora:
            adapted(module)
        for name, parameter in module.named_parameters():
            if "lora_B" in name:  # zero as it is made, and with it A's gradients
                nn.init.normal_(parameter, std=0.3)
            elif parameter.dim() == 1:
                nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return module


def model(kind, part, dtype=torch.float32, checkpointing=False):
    denoiser = Conditioned(copy.deepcopy(prototype(kind, part == "lora")), PARTS[part])
    if dtype == torch.float64:
        denoiser.module.double()
    if checkpointing:
        denoiser.module.enable_gradient_checkpointing()
    return denoiser


def batch_of(kind, dtype=torch.float32, size=SIZE):
    generator = torch.Generator().manual_seed(5)

    def gaussian(*shape):
        return torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype)

    channels = 1 if kind == "unet" else 4
    conditioning = {} if kind == "unet" else {"encoder_hidden_states": gaussian(5, 12)}
    if kind.startswith("sd3"):
        conditioning["pooled_projections"] = gaussian(10)
    t = torch.tensor([3, 500, 999]).repeat(size)[:size]
    return Batch(gaussian(channels, 8, 8), gaussian(channels, 8, 8), t, conditioning)


def relative_error(a, b):
    assert b.norm(dim=1).min() > 0
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).max())


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(("kind", "part"), CASES)
def test_hooks_give_the_gradients_of_the_loop(kind, part, checkpointing, caplog):
    denoiser = model(kind, part, checkpointing=checkpointing)
    flags = {name: p.requires_grad for name, p in denoiser.module.named_parameters()}
    batch = batch_of(kind)
    loop = rows_of(denoiser, batch, "loop")
    assert relative_error(rows_of(denoiser, batch), loop) < 1e-5
    assert not lines(caplog)
    assert hooks_of(denoiser.module) == 0
    assert {name: p.requires_grad for name, p in denoiser.module.named_parameters()} == flags
    assert all(p.grad is None for p in denoiser.module.parameters())


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_hooks_give_the_gradients_of_plain_diffusers_calls(kind, part):
    denoiser, batch = model(kind, part, torch.float64), batch_of(kind, torch.float64)
    assert relative_error(rows_of(denoiser, batch), direct_rows(denoiser, batch)) < 1e-10


@pytest.mark.parametrize(("kind", "part"), CASES)
def test_hooks_under_bfloat16_give_the_gradients_of_the_loop_under_bfloat16(kind, part, caplog):
    denoiser, batch = model(kind, part), batch_of(kind)
    hooks, loop = (rows_of(denoiser, batch, backend, "bf16") for backend in ("hooks", "loop"))
    assert F.cosine_similarity(hooks, loop).min() > 0.99
    assert not lines(caplog)


@pytest.mark.parametrize("kind", MODELS)
def test_both_lora_matrices_have_gradients_and_nothing_else_is_attributed(kind):
    denoiser, batch = model(kind, "lora"), batch_of(kind)
    parameters = denoiser.attributed_parameters("")
    offsets = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"]).offsets
    rows = rows_of(denoiser, batch)
    assert {name.split(".lora_")[1] for name in parameters} == {"A.default.weight", "B.default.weight"}
    for name, parameter in parameters.items():
        assert rows[:, offsets[name] : offsets[name] + parameter.numel()].norm(dim=1).min() > 0, name


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}], ids=["dora", "rslora"])
def test_other_kinds_of_lora_give_the_gradients_of_the_loop(options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        denoiser = Conditioned(adapted(sd3(), **options).double(), "lora_")
        for parameter in denoiser.attributed_parameters("").values():
            parameter.data += 0.1 * torch.randn_like(parameter)
    batch = batch_of("sd3", torch.float64)
    assert relative_error(rows_of(denoiser, batch), rows_of(denoiser, batch, "loop")) < 1e-10


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_scaled_lora_gives_the_gradients_of_the_loop(scale):
    denoiser, batch = model("sd1", "lora", torch.float64), batch_of("sd1", torch.float64)
    before = rows_of(denoiser, batch)
    denoiser.module.set_adapters("default", scale)
    after = rows_of(denoiser, batch)
    assert relative_error(after, rows_of(denoiser, batch, "loop")) < 1e-10
    assert relative_error(after, before) > 1e-3


def test_class_conditional_unet_gives_the_gradients_of_the_loop():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        denoiser = Conditioned(unet(num_class_embeds=4))
    plain = batch_of("unet")
    batch = Batch(plain.noisy, plain.target, plain.t, {"class_labels": torch.tensor([0, 3, 0])})
    assert relative_error(rows_of(denoiser, batch), rows_of(denoiser, batch, "loop")) < 1e-5


@pytest.mark.parametrize("part", ["all", "lora"])
@pytest.mark.parametrize("kind", MODELS)
def test_checkpointed_blocks_run_twice_a_pass_and_others_once(kind, part):
    def calls(checkpointing):
        denoiser, batch = model(kind, part, checkpointing=checkpointing), batch_of(kind)
        parameters = denoiser.attributed_parameters("")
        gradients = per_sample_gradients(denoiser, parameters, MODEL_OUTPUTS["loss"])
        gradients(batch, lambda offset, rows: None)  # the first batch is examined too
        counts = {name: 0 for name, m in denoiser.module.named_modules() if type(m).__name__ == CHECKPOINTED[kind]}
        for name in counts:
            block = denoiser.module.get_submodule(name)
            block.register_forward_pre_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
        gradients(batch, lambda offset, rows: None)
        return counts

    assert set(calls(False).values()) == {1}
    counts = set(calls(True).values())
    assert 2 in counts
    assert counts <= {1, 2}  # what lies before the first attributed layer is not needed again


@pytest.fixture
def no_collector():
    """What is freed meanwhile is freed because nothing refers to it."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("part", ["all", "lora"])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_a_layer_are_dropped_once_handed_on(kind, part, no_collector):
    denoiser, batch = model(kind, part), batch_of(kind)
    gradients = per_sample_gradients(denoiser, denoiser.attributed_parameters(""), MODEL_OUTPUTS["loss"])
    gradients(batch, lambda offset, rows: None)
    handed, alive = [], []

    def sink(offset, rows):
        handed.append(StorageWeakRef(rows.untyped_storage()))
        alive.append(sum(not reference.expired() for reference in handed))

    gradients(batch, sink)
    assert len(handed) == len(gradients.parameters)
    assert max(alive) <= 2  # a layer's weight and bias
    assert all(reference.expired() for reference in handed)


class InputsAlive:
    """A model output that notes how many of the attributed layers' inputs are alive at the end of the forward pass.

    What the batch itself holds does not count.
    """

    def __init__(self, denoiser, batch):
        self.references, self.counts = {}, []
        self.given = {value.untyped_storage().data_ptr() for value in (batch.noisy, *batch.conditioning.values())}
        attributed = {id(p) for p in denoiser.attributed_parameters("").values()}
        for module in denoiser.module.modules():
            if attributed & {id(p) for p in module.parameters(recurse=False)}:
                module.register_forward_pre_hook(self.note)

    def note(self, module, inputs):
        storage = inputs[0].untyped_storage()
        if storage.data_ptr() not in self.given:
            self.references.setdefault(module, StorageWeakRef(storage))

    def alive(self):
        return sum(not reference.expired() for reference in self.references.values())

    def __call__(self, predicted, target):
        self.counts.append((self.alive(), len(self.references)))
        return MODEL_OUTPUTS["loss"](predicted, target)


@pytest.mark.parametrize(("kind", "part"), [case for case in CASES if case[0] != "unet" and case[1] != "all"])
def test_inputs_of_checkpointed_layers_are_not_kept_through_the_forward_pass(kind, part, no_collector):
    def pass_through(checkpointing):
        denoiser, batch = model(kind, part, checkpointing=checkpointing), batch_of(kind)
        spy = InputsAlive(denoiser, batch)
        gradients = per_sample_gradients(denoiser, denoiser.attributed_parameters(""), spy)
        gradients(batch, lambda offset, rows: None)
        spy.references.clear()
        gradients(batch, lambda offset, rows: None)
        assert spy.alive() == 0  # nor is any behind the pass
        return spy.counts[-1]

    alive, layers = pass_through(False)
    assert alive == layers > 0
    alive, layers = pass_through(True)
    assert alive < layers / 4


def to_cuda(denoiser, batch):
    denoiser.module.cuda()
    denoiser.device = torch.device("cuda")
    conditioning = {name: value.cuda() for name, value in batch.conditioning.items()}
    return Batch(batch.noisy.cuda(), batch.target.cuda(), batch.t.cuda(), conditioning)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(("kind", "part"), CASES)
def test_hooks_on_cuda_give_the_gradients_of_the_loop(kind, part, checkpointing, caplog):
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-6)):
        denoiser = model(kind, part, dtype, checkpointing)
        on_cpu = rows_of(denoiser, batch_of(kind, dtype), "loop")
        batch = to_cuda(denoiser, batch_of(kind, dtype))
        hooks = rows_of(denoiser, batch)
        assert relative_error(hooks, rows_of(denoiser, batch, "loop")) < tolerance
        assert relative_error(hooks, on_cpu) < 1e-3  # diffusers embeds timesteps in single precision
    assert not lines(caplog)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "part"), CASES)
def test_bfloat16_on_cuda_stays_close_to_float32(kind, part, caplog):
    denoiser = model(kind, part)
    batch = to_cuda(denoiser, batch_of(kind))
    hooks = rows_of(denoiser, batch, precision="bf16")
    assert F.cosine_similarity(hooks, rows_of(denoiser, batch, "loop", "bf16")).min() > 0.99
    assert F.cosine_similarity(hooks, rows_of(denoiser, batch, "loop")).min() > 0.9
    assert not lines(caplog)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("length", [64, 1000, 4096, 8192])
def test_sketches_on_cuda_equal_those_on_the_cpu(length):
    denoiser, batch = model("sd3", "all"), batch_of("sd3")
    rows = rows_of(denoiser, batch, "loop").float()
    assert relative_error(sketch(rows.cuda(), length, 42).cpu(), sketch(rows, length, 42)) < 1e-5
    long = torch.randn(2, 2**22 + 12_345, generator=torch.Generator().manual_seed(0))  # by way of blocks
    assert relative_error(sketch(long.cuda(), length, 42).cpu(), sketch(long, length, 42)) < 1e-5
