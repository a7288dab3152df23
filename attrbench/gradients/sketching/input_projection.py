"""The random projection of layers' inputs, by which weight gradients are smaller before they are formed.

The gradient of a weight is a sum over positions, G = sum over t of g_t a_t^T, [O, I], of output gradients and inputs.
With random signs P [I, k] / sqrt(k), so that E[P P^T] = 1, the pass forms G P = sum over t of g_t (P^T a_t)^T instead,
[O, k]. Inner products keep their expectation, E<G P, H P> = <G, H>, with the variance, for M = G^T H,

    (|M|^2 + <M, M^T> - 2 sum over i of M_ii^2) / k  <=  2 |G|^2 |H|^2 / k,

and the variances of a network's layers add up, as their matrices are independent. It is far smaller where gradients
are of high rank. A sketch of all G P to v numbers adds its own error, so longer sketches do not get below this one.

The shape is that of FactGraSS (Hu et al. 2025, arXiv:2505.18976), with signs in the place of its mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attrbench.gradients.sketching.rotation import mix
from attrbench.models.noise import seed_of

WIDTH = 64
"""k, the numbers to which the inputs of a layer at one position are projected; one for each bit of a random word."""


@dataclass(frozen=True)
class InputProjection:
    """The random sign matrices that project each layer's inputs to `WIDTH` numbers; nothing but the seed is kept.

    Attributes:
        seed: decides the matrices, together with the names of the layers' weights.
    """

    seed: int

    def matrix(self, weight: str, inputs: int) -> Tensor:
        """Return P, [inputs, WIDTH] float32 on the CPU, of signs divided by sqrt(WIDTH).

        Args:
            weight: name of the layer's weight.
            inputs: I, the columns of the weight as a matrix.
        """
        seed = seed_of("input projection", self.seed, weight)
        words = mix(seed, 0, np.arange(inputs, dtype=np.uint64)).astype("<u8")
        bits = np.unpackbits(words.view(np.uint8).reshape(inputs, -1), axis=1)
        signs = torch.from_numpy(bits).float() * 2 - 1
        return signs / math.sqrt(WIDTH)

    def of_gradients(self, weight: str, outputs: int, gradients: Tensor) -> Tensor:
        """Return the [B, O * WIDTH] gradients G P, by their definition from whole weight gradients [B, O * I].

        Args:
            weight: name of the layer's weight.
            outputs: O, the rows of the weight.
            gradients: [B, O * I].
        """
        rows = gradients.unflatten(1, (outputs, -1))
        projected: Tensor = rows @ self.matrix(weight, rows.shape[2]).to(rows)
        return projected.flatten(1)
