"""`make bench-gpu`: passes, sketches and search on a CUDA device, each against a reference on the same device.

The rows are those of `make bench`, and the precisions that only a GPU is fast at. Without a device it says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch

from attrbench.gradients.hooks import HookedGradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import Precision
from attrbench.gradients.sketching.rotation import Sketcher
from tests.benchmarks.gradients import Network, PassWithSketches, noisy_batch
from tests.benchmarks.sketches import LENGTHS, TOTAL
from tests.benchmarks.timing import Figure, paired, print_table

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
ROWS, WIDTH, QUERIES = 9_288, 40_960, 16


def main() -> int:
    """Print the table; 0 also where there is no device."""
    if not torch.cuda.is_available():
        sys.stdout.write("bench-gpu: skipped, torch finds no CUDA device here\n")
        return 0
    device = torch.device("cuda")
    sys.stdout.write(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    figures = [*passes(device), *sketches(device, TOTAL), *products(device, ROWS)]
    print_table(figures)
    return int(any(figure.kept is False for figure in figures))


def passes(device: torch.device) -> list[Figure]:
    """Per-sample gradients with sketches against a plain batched backward of the same precision."""
    network, batch = Network(device), noisy_batch(device)
    parameters = dict(network.module.named_parameters())
    figures = []
    for precision in PRECISIONS:
        hooks = HookedGradients(network, parameters, MODEL_OUTPUTS["loss"], precision)
        work = PassWithSketches(hooks)

        def plain(hooks: HookedGradients = hooks) -> None:
            network.module.zero_grad()
            hooks.outputs(batch).sum().backward()

        title = f"per-sample gradients and sketches, {precision}"
        run, reference = (_done(call, device) for call in (lambda work=work: work(batch), plain))
        figures.append(paired(title, run, "plain batched backward", reference))
    return figures


def sketches(device: torch.device, total: int) -> list[Figure]:
    """A gradient sketched to three lengths against one read of it."""
    vector = torch.randn(1, total, device=device)
    sketcher = Sketcher(LENGTHS, 0, total)

    def sketch() -> None:
        sketcher.start(1, vector.dtype, vector.device)
        sketcher.add(0, vector)
        for length in LENGTHS:
            sketcher.result(length)

    name = f"sketch of {total / 1e6:.0f} M to 2^20, 2^16, 2^12"
    return [paired(name, _done(sketch, device), "torch.sum", _done(vector.sum, device), runs=15)]


def products(device: torch.device, rows: int) -> list[Figure]:
    """Scores of all rows for one query and for 16 against one read of the matrix."""
    matrix = torch.randn(rows, WIDTH, device=device)
    read = _done(matrix.sum, device)
    figures = []
    for count in (1, QUERIES):
        queries = torch.randn(WIDTH, count, device=device)
        run = _done(lambda queries=queries: (matrix @ queries).topk(min(100, rows), dim=0), device)
        figures.append(paired(f"exact top 100, {count} queries", run, "one read of the matrix", read))
    return figures


def _done(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a call that waits until the device has done the work."""

    def run() -> None:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    sys.exit(main())
