"""Linear sketches of gradients with no stored state but a seed.

The chunked rotation sketch S_v of a vector x in R^p, for v = R * c with chunk length c:
x is cut into chunks of c; chunk b is multiplied by a sign of its own and by one of 16 vectors of c signs, rolled by a
shift s_b, and added to row r_b of an R x c table, read out as v numbers. All choices are uniform and come from a
counter-based generator, so any part of the vector can be sketched on its own.

It has the properties of the permute-sign-sum sketch that DMin uses (paper section 3.2; methods-spec 3.1) at none
of its 5 to 16 bytes a parameter. Two coordinates meet in one bucket with probability at most 1/v, as under a random
permutation: never within one run of v coordinates (which S_v maps one to one, so that v >= p loses nothing), and
with probability 1/v across two of them. Hence E<Sx, Sy> = <x, y>, with a variance of about
(|x|^2 |y|^2 + <x, y>^2) / v. (Chunks that share signs and shift meet as a whole, with probability 1 / (16 v); for
vectors whose chunks are all alike, the worst case, that adds a sixteenth to the variance.)

Lengths 4096 * 2^r use c = 4096 and nest: S_v is the sum of the rows of S_2v that agree modulo R. All other lengths
use c = v, one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 4096
SIGN_VECTORS = 16


def chunk_length(length: int) -> int:
    """The chunk length c of S_v: 4096 where v = 4096 * 2^r, else v itself."""
    rows = length // CHUNK
    return CHUNK if length % CHUNK == 0 and rows & (rows - 1) == 0 else length


def _sign_vectors(chunk: int) -> int:
    """How many sign vectors chunks choose from; fewer where chunks are long, to keep them within a few MB."""
    return max(1, min(SIGN_VECTORS, 2**20 // chunk))


def _mix(seed: int, purpose: int, counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 of (seed, purpose, counter): the counter-based generator behind signs, shifts and rows."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = counter + np.uint64((seed * 0xD1342543DE82EF95 + purpose * 0x2545F4914F6CDD1D) % 2**64)
        for _ in range(2):  # two rounds, so that neighbouring seeds and counters share nothing
            z = z * golden + golden
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return z


def _rows(seed: int, chunks: NDArray[np.uint64], rows: int) -> NDArray[np.uint64]:
    """The row of each chunk, for a power of two of rows.

    Bit k of the row is bit k of the chunk's number, flipped by a hash of the number's higher bits. So any run of
    `rows` chunks that starts at a multiple of `rows` falls one to one on the rows, chunks of different runs agree
    with probability 1 / rows, and the row among fewer rows is the row among more, modulo their number.
    """
    one = np.uint64(1)
    result = np.zeros_like(chunks)
    for bit in range(rows.bit_length() - 1):
        k = np.uint64(bit)
        flip = _mix(seed, 16 + bit, chunks >> (k + one)) >> np.uint64(63)
        result |= (((chunks >> k) & one) ^ flip) << k
    return result


class Sketcher:
    """Accumulates the sketches of a batch of vectors that arrive in pieces.

    Args:
        lengths: sketch lengths v; those that share a chunk length are folded from the longest.
        seed: all the state there is.
    """

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.lengths = tuple(sorted(set(lengths), reverse=True))
        self.seed = seed
        self._base: dict[int, int] = {}
        for length in self.lengths:
            longer = [b for b in set(self._base.values()) if chunk_length(b) == chunk_length(length)]
            self._base[length] = max(longer, default=length)
        self._signs = {
            c: torch.from_numpy(_signs(_mix(seed, 1, np.arange(c * _sign_vectors(c), dtype=np.uint64)))).view(-1, c)
            for c in {chunk_length(length) for length in self.lengths}
        }
        self._tables: dict[int, Tensor] = {}

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Empties the tables for `size` vectors."""
        self._tables = {
            base: torch.zeros(size, base // chunk_length(base), chunk_length(base), dtype=dtype, device=device)
            for base in set(self._base.values())
        }

    def add(self, offset: int, piece: Tensor) -> None:
        """Adds coordinates offset .. offset + w of every vector; `piece` is [B, w]."""
        for base, table in self._tables.items():
            self._add(base, table, offset, piece)

    def _add(self, base: int, table: Tensor, offset: int, piece: Tensor) -> None:
        c = table.shape[2]
        signs = self._signs[c].to(piece.device, piece.dtype)
        first, last = offset // c, (offset + piece.shape[1] - 1) // c
        numbers = np.arange(first, last + 1, dtype=np.uint64)
        shifts = _mix(self.seed, 2, numbers) % np.uint64(c)
        rows = _rows(self.seed, numbers, table.shape[1])
        flips = _signs(_mix(self.seed, 4, numbers))
        kinds = _mix(self.seed, 5, numbers) % np.uint64(len(signs))
        for index, chunk in enumerate(range(first, last + 1)):
            low, high = max(offset, chunk * c), min(offset + piece.shape[1], (chunk + 1) * c)
            target, shift, flip = table[:, int(rows[index])], int(shifts[index]), float(flips[index])
            sign = signs[int(kinds[index])]
            # The rolled chunk is two runs: positions that stay below c, and those that wrap around.
            wrap = min(max(chunk * c + c - shift, low), high)
            for start, stop, to in ((low, wrap, shift), (wrap, high, shift - c)):
                if start < stop:
                    here = start - chunk * c
                    width = stop - start
                    target[:, here + to : here + to + width].addcmul_(
                        piece[:, start - offset : stop - offset], sign[here : here + width], value=flip
                    )

    def result(self, length: int) -> Tensor:
        """[B, v] sketches of what was added since `start`."""
        table = self._tables[self._base[length]]
        c = table.shape[2]
        rows = length // c
        return table.reshape(len(table), -1, rows, c).sum(1).reshape(len(table), length)


def _signs(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    return np.where(bits >> np.uint64(63), np.float32(1), np.float32(-1))


def sketch(vectors: Tensor, length: int, seed: int) -> Tensor:
    """S_v of each row of `vectors` ([B, p]) in one call: [B, v]."""
    sketcher = Sketcher([length], seed)
    sketcher.start(len(vectors), vectors.dtype, vectors.device)
    sketcher.add(0, vectors)
    return sketcher.result(length)
