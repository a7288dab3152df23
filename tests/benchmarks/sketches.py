"""The sketch of a gradient of 134 million numbers, against reading it and against the paper's way of sketching."""

from __future__ import annotations

import math
from statistics import median

import torch

from attrbench.gradients.sketching.forms import state_bytes
from attrbench.gradients.sketching.rotation import Sketcher
from tests.benchmarks.timing import Figure, paired, seconds

TOTAL = 134_217_728
LENGTHS = (2**20, 2**16, 2**12)


def speed() -> list[Figure]:
    """To 2^20, 2^16 and 2^12 together, and a batch of small gradients."""
    vector = torch.randn(1, TOTAL)
    sketcher = Sketcher(LENGTHS, 0, TOTAL)

    def sketch() -> None:
        sketcher.start(1, vector.dtype, vector.device)
        sketcher.add(0, vector)
        for length in LENGTHS:
            sketcher.result(length)

    name = "sketch of 134 M to 2^20, 2^16, 2^12"
    figures = [paired(name, sketch, "torch.sum", vector.sum, "<= 3", runs=15)]
    permutation, signs = torch.randperm(TOTAL), torch.randint(0, 2, (TOTAL,)) * 2 - 1

    def permute_sign_sum() -> None:  # one permutation for all lengths, as when the released code is given a list
        shuffled = vector[0][permutation] * signs
        for length in LENGTHS:
            shuffled.reshape(length, -1).sum(1)

    theirs, mine = median(seconds(permute_sign_sum) for _ in range(3)), figures[0].value
    figures.append(
        Figure("permute-sign-sum, int64 permutation", theirs, "s", "our sketch", mine, theirs / mine, ">= 100")
    )
    state = state_bytes("rotation", LENGTHS[0], TOTAL)
    kept = permutation.nbytes + signs.nbytes
    figures.append(Figure("state of permute-sign-sum", kept, "B", "our state", state, kept / state))
    batch = torch.randn(64, 425_281)
    small = Sketcher([4096], 0, batch.shape[1])

    def sketch_batch() -> None:
        small.start(len(batch), batch.dtype, batch.device)
        small.add(0, batch)
        small.result(4096)

    figures.append(paired("sketch of 64 x 425,281 to 4096", sketch_batch, "torch.sum", batch.sum))
    return figures


def statistics() -> list[Figure]:
    """Spread and bias of inner products at full size, over 200 seeds (minutes)."""
    generator = torch.Generator().manual_seed(0)
    rows = 2**13
    kinds = {
        "gaussian": torch.randn(2, TOTAL, generator=generator),
        "heavy-tailed": torch.randn(2, TOTAL, generator=generator).pow_(3),
        "low-rank": torch.einsum(
            "br,bc->brc",
            torch.randn(2, rows, generator=generator),
            torch.randn(2, TOTAL // rows, generator=generator).pow_(3),
        ).flatten(1),
    }
    figures = []
    for kind, vectors in kinds.items():
        vectors[1] += vectors[0]  # a cosine of about 0.7
        vectors /= vectors.norm(dim=1, keepdim=True)
        cosine = float(vectors[0].double() @ vectors[1].double())
        products: dict[int, list[float]] = {length: [] for length in LENGTHS}
        for seed in range(200):
            sketcher = Sketcher(LENGTHS, seed, TOTAL)
            sketcher.start(2, vectors.dtype, vectors.device)
            sketcher.add(0, vectors)
            for length in LENGTHS:
                left, right = sketcher.result(length).double()
                products[length].append(float(left @ right))
        for length, found in products.items():
            values = torch.tensor(found)
            expected = math.sqrt((1 + cosine**2) / length)
            spread, bias = float(values.std()), float(values.mean()) - cosine
            name = f"{kind}, v={length}"
            figures.append(Figure(f"spread, {name}", spread, "", "sqrt((1+cos^2)/v)", expected, spread / expected))
            error = expected / math.sqrt(len(found))
            figures.append(Figure(f"bias, {name}", bias, "", "its standard error", error, bias / error))
        del vectors
    return figures
