import copy
import json

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.errors import AttrbenchError
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients import batching, hooks
from attrbench.gradients.batching import ENOUGH, LARGEST, BatchSize, ran_out_of_memory
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.shards import FeatureStore, Unit
from tests.gradients.layer_rows import lines

CPU = torch.device("cpu")
SOURCE = GradientSource(grid=TimestepGrid(steps=2), noise="per-item")
FEATURE = GradientRows(source=SOURCE, sketch=Sketch(length=64))
COUNT = 8
FITTING = 3


def never():
    raise AssertionError("asked without need")


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory, in bytes."""
    return lambda amount: monkeypatch.setattr(batching, "free_memory", lambda device: amount)


def test_fixed_size_is_used_as_it_is():
    batch_size = BatchSize(7, CPU)
    assert batch_size.get(never) == batch_size.get(never) == 7


def test_found_size_takes_half_of_the_free_memory(free):
    free(1000)
    assert BatchSize(None, CPU).get(lambda: 10) == 50


@pytest.mark.parametrize(("bytes_per_sample", "expected"), [(1, LARGEST["cpu"]), (0, LARGEST["cpu"]), (10**9, 1)])
def test_found_size_is_between_one_and_the_largest(free, bytes_per_sample, expected):
    free(10_000)
    assert BatchSize(None, CPU).get(lambda: bytes_per_sample) == expected


def test_batch_on_a_cpu_takes_no_more_than_keeps_it_busy(free):
    free(10**12)
    assert BatchSize(None, CPU).get(lambda: 10**7) == ENOUGH["cpu"] // 10**7


def test_bytes_are_asked_for_once(free):
    free(1000)
    batch_size = BatchSize(None, CPU)
    batch_size.get(lambda: 100)
    free(10)
    assert batch_size.get(never) == 5


def test_size_halves_down_to_one_and_says_so(caplog):
    batch_size = BatchSize(13, CPU)
    sizes = []
    while batch_size.get(never) > 1:
        batch_size.shrink()
        sizes.append(batch_size.get(never))
    assert sizes == [6, 3, 1]
    assert [f"with {size} pairs" in line for size, line in zip(sizes, lines(caplog), strict=True)] == [True] * 3


def test_single_pair_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(AttrbenchError, match=r"one item at one timestep do not fit.*cpu.*GB free.*checkpointing"):
        BatchSize(1, CPU).shrink()


def test_halved_size_is_remembered_for_the_next(tmp_path, free):
    memo = tmp_path / "cache" / "memo.json"
    first = BatchSize(40, CPU, memo)
    first.shrink()
    assert json.loads(memo.read_bytes()) == {"batch_size": 20}
    free(1000)
    assert BatchSize(None, CPU, memo).get(lambda: 10) == 20
    assert BatchSize(None, CPU, memo).get(lambda: 100) == 5
    assert BatchSize(30, CPU, memo).get(never) == 30
    first.shrink()
    assert BatchSize(None, CPU, memo).get(lambda: 10) == 10


def test_found_size_that_was_not_halved_is_not_written_down(tmp_path, free):
    free(1000)
    BatchSize(None, CPU, tmp_path / "memo.json").get(lambda: 10)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[1]", b"7", b"{}", b'{"batch_size": null}', b'{"batch_size": 20}'],
)
def test_memo_without_a_seal_is_ignored(tmp_path, free, content):
    free(1000)
    memo = tmp_path / "memo.json"
    memo.write_bytes(content)
    assert BatchSize(None, CPU, memo).get(lambda: 10) == 50


def test_memo_that_cannot_be_written_or_read_does_not_matter(tmp_path, free):
    free(1000)
    (tmp_path / "file").touch()
    for memo in (tmp_path, tmp_path / "file" / "memo.json"):
        batch_size = BatchSize(None, CPU, memo)
        assert batch_size.get(lambda: 10) == 50
        batch_size.shrink()
        assert batch_size.get(never) == 25


def out_of_memory_on_the_cpu():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


def test_running_out_of_memory_is_told_from_other_errors():
    for error in (out_of_memory_on_the_cpu(), torch.OutOfMemoryError("no"), MemoryError()):
        assert ran_out_of_memory(error)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) @ torch.ones(3)
    for error in (shapes.value, RuntimeError(), ValueError("can't allocate memory"), OSError("not enough memory")):
        assert not ran_out_of_memory(error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_running_out_of_memory_on_cuda_is_told():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device="cuda")
    assert ran_out_of_memory(caught.value)


class Narrow(DDPMDenoiser):
    """Runs out of memory on the way forward with more than so many pairs."""

    fitting = FITTING

    def error(self):
        return torch.OutOfMemoryError("CUDA out of memory")

    def predict(self, noisy, t, conditioning):
        self.sizes.append(len(noisy))
        if len(noisy) > self.fitting:
            raise self.error()
        return super().predict(noisy, t, conditioning)


class NarrowOnTheCPU(Narrow):
    def error(self):
        return out_of_memory_on_the_cpu()


class NarrowOnTheWayBack(Narrow):
    """With some of the layers' gradients handed on already."""

    def predict(self, noisy, t, conditioning):
        self.sizes.append(len(noisy))

        def fail(gradient):
            raise self.error()

        def watch(module, inputs, output):
            if len(noisy) > self.fitting and output.requires_grad:
                output.register_hook(fail)

        handle = self.module.mid_block.register_forward_hook(watch)
        try:
            return DDPMDenoiser.predict(self, noisy, t, conditioning)
        finally:
            handle.remove()


class Broken(Narrow):
    def error(self):
        return RuntimeError("shapes do not fit together")


def narrow(denoiser, kind, fitting=FITTING):
    denoiser = copy.copy(denoiser)
    denoiser.__class__ = kind
    denoiser.fitting, denoiser.sizes = fitting, []
    return denoiser


def rows_of(folder, denoiser, items, engine, memo=None):
    store = FeatureStore(folder, {"feature": "rows"})
    unit = Unit(0, COUNT)
    GradientPass(SOURCE, denoiser, Split("train", items), engine, batch_size_file=memo).compute(unit, {FEATURE: store})
    return store.read(unit)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, tiny_denoiser, tiny_items):
    return rows_of(tmp_path_factory.mktemp("expected"), tiny_denoiser, tiny_items, Engine())


def assert_same(a, b):
    np.testing.assert_allclose(a["rows"], b["rows"], atol=2e-5)
    np.testing.assert_allclose(a["norms"], b["norms"], rtol=1e-4)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("kind", [Narrow, NarrowOnTheCPU, NarrowOnTheWayBack])
def test_rows_are_the_same_where_memory_runs_out(
    kind, batch_size, tmp_path, tiny_denoiser, tiny_items, expected, caplog
):
    denoiser = narrow(tiny_denoiser, kind)
    assert_same(rows_of(tmp_path, denoiser, tiny_items, Engine(batch_size=batch_size)), expected)
    assert "out of memory: going on with" in lines(caplog)[-1]
    assert max(denoiser.sizes) > FITTING
    assert denoiser.sizes[-1] <= FITTING
    assert all(parameter.requires_grad for parameter in denoiser.module.parameters())
    assert not any(module._forward_hooks for module in denoiser.module.modules())


def test_next_pass_starts_with_the_size_that_fitted(tmp_path, tiny_denoiser, tiny_items, expected, caplog):
    memo = tmp_path / "memo.json"
    rows_of(tmp_path / "a", narrow(tiny_denoiser, Narrow), tiny_items, Engine(), memo)
    caplog.clear()
    again = narrow(tiny_denoiser, Narrow)
    assert_same(rows_of(tmp_path / "b", again, tiny_items, Engine(), memo), expected)
    assert not lines(caplog)
    assert max(again.sizes) <= FITTING


def test_pass_of_which_a_single_pair_does_not_fit_is_an_error_and_commits_nothing(tmp_path, tiny_denoiser, tiny_items):
    denoiser = narrow(tiny_denoiser, NarrowOnTheWayBack, 0)
    with pytest.raises(AttrbenchError, match="do not fit into the memory"):
        rows_of(tmp_path, denoiser, tiny_items, Engine(batch_size=4))
    assert FeatureStore(tmp_path, {"feature": "rows"}).state(Unit(0, COUNT)) != "done"


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, tiny_denoiser, tiny_items):
    denoiser = narrow(tiny_denoiser, Broken)
    with pytest.raises(RuntimeError, match="shapes do not fit together"):
        rows_of(tmp_path, denoiser, tiny_items, Engine(batch_size=5))
    assert max(denoiser.sizes) == 5


class Scaled(torch.nn.Module):
    """A parameter that hooks leave to vmap."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * self.conv(x)


class ScaledDenoiser(DDPMDenoiser):
    def predict(self, noisy, t, conditioning):
        return self.module(noisy)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        out_of_memory_on_the_cpu,
    ],
    ids=["cuda", "cpu"],
)
def test_memory_that_runs_out_in_vmap_halves_the_batch_and_does_not_give_up_vmap(
    error, tmp_path, tiny_denoiser, tiny_items, monkeypatch, caplog
):
    class NarrowVmap(hooks.VmapGradients):
        def __call__(self, batch, sink):
            if len(batch.t) > FITTING:
                raise error()
            super().__call__(batch, sink)

    denoiser = copy.copy(tiny_denoiser)
    denoiser.__class__ = ScaledDenoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser.module = Scaled()
    wide = rows_of(tmp_path / "wide", denoiser, tiny_items, Engine("loop"))
    monkeypatch.setattr(hooks, "VmapGradients", NarrowVmap)
    assert_same(rows_of(tmp_path / "narrow", denoiser, tiny_items, Engine(batch_size=4)), wide)
    assert not any("vmap does not fit" in line for line in lines(caplog))
    assert any("out of memory: going on with 2" in line for line in lines(caplog))
