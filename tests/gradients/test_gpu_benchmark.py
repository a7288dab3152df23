"""The GPU's benchmark runs on any device, so that its first run on a GPU can succeed."""

import pytest
import torch

from tests.benchmarks import gpu, gradients, timing

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_figure_of_the_gpu_benchmark_is_measured_on_a_cpu_too(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "paired", lambda *args, **more: timing.paired(*args[:5], runs=1))
    monkeypatch.setattr(gradients, "SIZE", 4)
    figures = [*gpu.passes(CPU), *gpu.sketches(CPU, 2**21), *gpu.products(CPU, 64)]
    assert len(figures) == len(gpu.PRECISIONS) + 3
    assert all(figure.value > 0 and figure.reference > 0 for figure in figures)
    timing.print_table(figures)
    assert len(capsys.readouterr().out.splitlines()) == len(figures) + 1


def test_without_a_device_it_says_so_and_ends_well(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out == "bench-gpu: skipped, torch finds no CUDA device here\n"
