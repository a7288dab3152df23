"""Compute the rotation sketch: a random linear compression of gradients that needs no stored state but a seed.

It has the properties of the permutation sketch of DMin (Lin et al. 2024, arXiv:2412.08637, section 3.2) without its 5
to 16 bytes for each parameter: two coordinates meet in one bucket with probability at most 1/v, under independent
signs. Hence E<Sx, Sy> = <x, y>, with a variance of about (|x|^2 |y|^2 + <x, y>^2) / v. A sketch to v >= p loses
nothing. All choices are uniform and come from a counter-based generator, so any part of a vector can be sketched on
its own, on any device.

Chunks. To v = R * c with chunk length c, x is cut into chunks of c; chunk b is multiplied by a sign of its own and
by one of 16 vectors of c signs, rolled by a shift s_b, and added to row r_b of an R x c table, read out as v numbers.
Coordinates of one run of v never meet; those of different runs meet with probability 1/v. (Chunks that share signs
and shift meet as a whole, with probability 1 / (16 v); for vectors whose chunks are all alike, the worst case, that
adds a sixteenth to the variance.) Lengths 4096 * 2^r use c = 4096 and nest: S_v is the sum of the rows of S_2v that
agree modulo R (up to V, where there are blocks). All other lengths use c = v, one row.

Blocks. Thousands of short chunks would cost more than reading the vector, so a vector of more than 2^22 numbers is
first added up in blocks of V = max(2^20, v), each multiplied by one vector of V signs and a sign of its own and
rolled by a random shift; the V sums are then sketched in chunks. The two stages are independent: the variance
is that of v, and at most 1/V more, for vectors whose blocks are all alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 4096
SIGN_VECTORS = 16
BLOCK = 2**20
DIRECT = 2**22
"""Vectors up to this length are sketched in chunks directly, longer ones in two stages."""
FEW = 1024
"""Numbers of a chunk, B * c, of so few that a call for each chunk would cost more than the arithmetic."""
SHORT = 2**16
"""Pieces up to this length may have a place in the table remembered for each of their numbers."""
AT_ONCE = 2**26
"""Numbers of a piece, B * w, that are added together where calls are dear, which takes a few times their memory."""


def _is_call_dear(device: torch.device) -> bool:
    """Return whether a call costs more than the arithmetic on a chunk of numbers, as on GPUs."""
    return device.type != "cpu"


def chunk_length(length: int) -> int:
    """Return the chunk length c of the rotation sketch to v numbers: 4096 if v = 4096 * 2^r, else v."""
    rows = length // CHUNK
    return CHUNK if length % CHUNK == 0 and rows & (rows - 1) == 0 else length


def _sign_vectors(chunk: int) -> int:
    """Return how many random sign vectors a sketch's chunks choose from; fewer for long chunks, to save memory."""
    return max(1, min(SIGN_VECTORS, 2**20 // chunk))


def mix(seed: int, purpose: int, counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the splitmix64 hash of (seed, purpose, counter): the random numbers behind signs, shifts and rows."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = counter + np.uint64((seed * 0xD1342543DE82EF95 + purpose * 0x2545F4914F6CDD1D) % 2**64)
        for _ in range(2):  # two rounds, so that neighboring seeds and counters share nothing
            z = z * golden + golden
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return z


def _rows(seed: int, chunks: NDArray[np.uint64], rows: int) -> NDArray[np.uint64]:
    """Return the row of the sketch's table that each chunk is added to; the number of rows is a power of two.

    Bit k of the row is bit k of the chunk's number, flipped by a hash of the number's higher bits. So any run of
    `rows` chunks that starts at a multiple of `rows` falls one to one on the rows, chunks of different runs agree
    with probability 1 / rows, and the row among fewer rows is the row among more, modulo their number.
    """
    one = np.uint64(1)
    result = np.zeros_like(chunks)
    for bit in range(rows.bit_length() - 1):
        k = np.uint64(bit)
        flip = mix(seed, 16 + bit, chunks >> (k + one)) >> np.uint64(63)
        result |= (((chunks >> k) & one) ^ flip) << k
    return result


class Sketcher:
    """An accumulator of rotation sketches of a batch of vectors whose columns are added part by part.

    Args:
        lengths: sketch lengths v; those that share a chunk length are folded from the longest.
        seed: decides the sketch; nothing else is stored.
        total: length p of the vectors.
    """

    def __init__(self, lengths: Sequence[int], seed: int, total: int) -> None:
        blocks = {length: max(BLOCK, length) for length in lengths}
        direct = [length for length in lengths if total <= max(DIRECT, blocks[length])]
        self._chunks: dict[int | None, _Chunks] = {None: _Chunks(direct, seed)} if direct else {}
        self._blocks: dict[int, _Blocks] = {}
        self._stage: dict[int, int | None] = dict.fromkeys(direct)
        for block in {blocks[length] for length in lengths if length not in direct}:
            mine = [length for length in lengths if length not in direct and blocks[length] == block]
            self._blocks[block] = _Blocks(block, seed)
            self._chunks[block] = _Chunks(mine, seed)
            self._stage |= dict.fromkeys(mine, block)
        self._open = False

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reset the sketches to zero for a batch of `size` vectors."""
        for chunks in self._chunks.values():
            chunks.start(size, dtype, device)
        for blocks in self._blocks.values():
            blocks.start(size, dtype, device)
        self._open = bool(self._blocks)

    def add(self, offset: int, piece: Tensor) -> None:
        """Add coordinates offset .. offset + w of every vector to the sketches; `piece` is [B, w]."""
        if None in self._chunks:
            self._chunks[None].add(offset, piece)
        for blocks in self._blocks.values():
            blocks.add(offset, piece)

    def result(self, length: int) -> Tensor:
        """Return the [B, v] sketches of the vectors added since `start`; no further `add` is allowed."""
        if self._open:
            for block, blocks in self._blocks.items():
                self._chunks[block].add(0, blocks.result())
            self._open = False
        return self._chunks[self._stage[length]].result(length)


class _Blocks:
    """The first stage of sketching long vectors: blocks of V coordinates, signed, rolled and summed to [B, 2 V]."""

    def __init__(self, block: int, seed: int) -> None:
        self._table = torch.empty(0)
        self.block = block
        self.seed = seed
        self._signs = torch.from_numpy(_signs(mix(seed, 6, np.arange(block, dtype=np.uint64))))

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._signs = self._signs.to(device, dtype)
        self._table = _zeros(self._table, (size, 2 * self.block), dtype, device)

    def add(self, offset: int, piece: Tensor) -> None:
        first, last = offset // self.block, (offset + piece.shape[1] - 1) // self.block
        numbers = np.arange(first, last + 1, dtype=np.uint64)
        shifts = mix(self.seed, 7, numbers) % np.uint64(self.block)
        flips = _signs(mix(self.seed, 8, numbers))
        for b, shift, flip in zip(range(first, last + 1), shifts.tolist(), flips.tolist(), strict=True):
            _add_rotated(self._table, piece, offset - b * self.block, self._signs, shift, flip)

    def result(self) -> Tensor:
        return self._table[:, : self.block].add_(self._table[:, self.block :])  # in place: nothing is added any more


class _Chunks:
    """The second stage of sketching: chunks, each signed, rolled and added to a row of a [B, R, 2 c] table."""

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.seed = seed
        self._base: dict[int, int] = {}
        for length in sorted(set(lengths), reverse=True):
            longer = [b for b in set(self._base.values()) if chunk_length(b) == chunk_length(length)]
            self._base[length] = max(longer, default=length)
        self._signs = {
            c: torch.from_numpy(_signs(mix(seed, 1, np.arange(c * _sign_vectors(c), dtype=np.uint64)))).view(-1, c)
            for c in {chunk_length(length) for length in lengths}
        }
        self._tables: dict[int, Tensor] = {}
        self._views: dict[int, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}
        self._places: dict[tuple[int, int, int], list[tuple[int, int, int, int, float]]] = {}
        self._scattered: dict[tuple[int, int, int, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._folded: dict[int, Tensor] = {}

    def start(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._signs = {c: signs.to(device, dtype) for c, signs in self._signs.items()}
        for base in set(self._base.values()):
            shape = (size, base // chunk_length(base), 2 * chunk_length(base))
            self._tables[base] = _zeros(self._tables.get(base), shape, dtype, device)
        self._views = {
            base: (self._signs[chunk_length(base)].unbind(), t.unbind(1)) for base, t in self._tables.items()
        }
        self._folded = {}

    def add(self, offset: int, piece: Tensor) -> None:
        for base, (signs, targets) in self._views.items():
            if self._is_small(piece, chunk_length(base)):
                places, flips = self._numbers(base, offset, piece)
                self._tables[base].view(len(piece), -1).scatter_add_(1, places.expand_as(piece), piece * flips)
                continue
            if _is_call_dear(piece.device):
                most = max(1, AT_ONCE // (len(piece) * chunk_length(base))) * chunk_length(base)
                for first in range(0, piece.shape[1], most):
                    part = piece.narrow(1, first, min(most, piece.shape[1] - first))
                    self._add_at_once(base, offset + first, part)
                continue
            for start, row, kind, shift, flip in self._cells(base, offset, piece.shape[1]):
                _add_rotated(targets[row], piece, start, signs[kind], shift, flip)

    def _add_at_once(self, base: int, offset: int, piece: Tensor) -> None:
        """Add a piece to a table by a fixed number of calls, however many chunks it overlaps.

        Chunks of whole runs, each of which falls one to one on the rows, are summed over runs; those of the runs at
        both ends fall on different rows. So no two calls add to one number at once, and equal calls give equal bits.
        """
        c, width = chunk_length(base), piece.shape[1]
        cells = self._cells(base, offset, width)
        starts, rows, kinds, shifts, flips = zip(*cells, strict=True)
        rows_of, kinds_of, shifts_of = (torch.tensor(each, device=piece.device) for each in (rows, kinds, shifts))
        signs = self._signs[c][kinds_of] * torch.tensor(flips, device=piece.device, dtype=piece.dtype)[:, None]
        chunks = F.pad(piece, (starts[0], len(cells) * c - starts[0] - width)).unflatten(1, (-1, c)) * signs
        columns = (torch.arange(c, device=piece.device) - shifts_of[:, None]) % c
        chunks = chunks.gather(2, columns.expand_as(chunks))
        table = self._tables[base][..., :c]
        run, first = base // c, offset // c  # a run of chunks has as many as the table has rows
        low = min(-first % run, len(cells))
        high = low + (len(cells) - low) // run * run
        for part in (slice(0, low), slice(high, None)):
            table.index_add_(1, rows_of[part], chunks[:, part])
        if high > low:
            runs = torch.arange(low, high, run, device=piece.device)[:, None]
            order = runs + rows_of[low:high].view(-1, run).argsort(dim=1)
            table += chunks[:, order.flatten()].unflatten(1, (-1, run)).sum(1)

    @staticmethod
    def _is_small(piece: Tensor, chunk: int) -> bool:
        """Return whether to add a piece by one scatter call instead of chunk by chunk, with bitwise equal results."""
        return not _is_call_dear(piece.device) and len(piece) * chunk <= FEW and 2 * chunk < piece.shape[1] <= SHORT

    def _numbers(self, base: int, offset: int, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each column of a piece its index in the flattened sketch table ([w]) and its sign ([w])."""
        width = piece.shape[1]
        key = (base, offset, width, piece.dtype)
        if key not in self._scattered:
            c = chunk_length(base)
            places, flips = piece.new_empty(width, dtype=torch.int64), piece.new_empty(width)
            for start, row, kind, shift, flip in self._cells(base, offset, width):
                low, high = max(start, 0), min(start + width, c)
                first = row * 2 * c + shift + low
                places[low - start : high - start] = torch.arange(first, first + high - low)
                flips[low - start : high - start] = flip * self._signs[c][kind, low:high]
            self._scattered[key] = places, flips
        return self._scattered[key]

    def _cells(self, base: int, offset: int, width: int) -> list[tuple[int, int, int, int, float]]:
        """Return each chunk that a piece overlaps: piece's start in it, sketch row, index of signs, shift, own sign."""
        key = (base, offset, width)
        if key not in self._places:
            c = chunk_length(base)
            first, last = offset // c, (offset + width - 1) // c
            numbers = np.arange(first, last + 1, dtype=np.uint64)
            rows = _rows(self.seed, numbers, base // c)
            kinds = mix(self.seed, 5, numbers) % np.uint64(len(self._signs[c]))
            shifts = mix(self.seed, 2, numbers) % np.uint64(c)
            flips = _signs(mix(self.seed, 4, numbers))
            starts = range(offset - first * c, offset - last * c - 1, -c)
            parts = (rows.tolist(), kinds.tolist(), shifts.tolist(), flips.tolist())
            self._places[key] = list(zip(starts, *parts, strict=True))
        return self._places[key]

    def result(self, length: int) -> Tensor:
        base = self._base[length]
        c = chunk_length(base)
        if base not in self._folded:
            self._folded[base] = _wrapped(self._tables[base])
        folded = self._folded[base]
        for shorter in self._base:  # longest first: each is folded from the one before
            if self._base[shorter] == base and base > shorter >= length:
                if shorter not in self._folded:
                    self._folded[shorter] = folded.reshape(len(folded), -1, shorter // c, c).sum(1)
                folded = self._folded[shorter]
        return folded.flatten(1)


def _zeros(old: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of zeros, in the old tensor's memory if shape and type fit, as new memory pages are slow."""
    if old is not None and old.shape == shape and old.dtype == dtype and old.device == device:
        return old.zero_()
    return torch.zeros(shape, dtype=dtype, device=device)


def _add_rotated(table: Tensor, piece: Tensor, start: int, signs: Tensor, shift: int, flip: float) -> None:
    """Add the part of `piece` in one cell (a chunk of c coordinates) to `table`, times signs and rolled by `shift`.

    A fused multiply-add over a contiguous run, which a CPU does at about the speed of reading. Where calls are dear,
    `_Chunks._add_at_once` takes all chunks of a piece together; blocks are so long that a call for each costs nothing.

    Args:
        table: [B, 2 c], added to in place; what is rolled beyond c stays there until `_wrapped`.
        piece: [B, w] coordinates of which the first lies `start` behind the cell's first (negative: before it).
        start: see `piece`.
        signs: [c] signs by position in the cell.
        shift: coordinate j of the cell goes to j + shift.
        flip: the cell's own sign.
    """
    low = max(start, 0)
    width = min(start + piece.shape[1], len(signs)) - low
    here = piece.narrow(1, low - start, width)  # narrow: slices take twice as long, and there may be many cells
    if width < len(signs):
        signs = signs.narrow(0, low, width)
    table.narrow(1, low + shift, width).addcmul_(here, signs, value=flip)


def _wrapped(table: Tensor) -> Tensor:
    """Return the [..., 2 c] table folded to [..., c]: the half rolled beyond the end is added to the first half."""
    c = table.shape[-1] // 2
    return table[..., :c] + table[..., c:]


def _signs(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    return np.where(bits >> np.uint64(63), np.float32(1), np.float32(-1))


def sketch(vectors: Tensor, length: int, seed: int) -> Tensor:
    """Return the [B, v] rotation sketches of the rows of `vectors` ([B, p])."""
    sketcher = Sketcher([length], seed, vectors.shape[1])
    sketcher.start(len(vectors), vectors.dtype, vectors.device)
    sketcher.add(0, vectors)
    return sketcher.result(length)
