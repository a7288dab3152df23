"""Structured nonsense: values, documents and text that are a little, or very, different from what is expected."""

from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 10_001, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e-320, 1e308, -0.0)
TEXTS = (
    "",
    " ",
    "none",
    "null",
    "true",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_000",
    " 3",
    "3 ",
    "0x10",
    "３",
    "../..",
    "a|b",
    "|",
    "=",
    ",",
    ":",
    "été",
    "日本語",
    "\u202eright to left",
    "\x1b[2J\x1b[31mred",
    "line\nbreak",
    "=cmd()",
    "[link](http://example.com)",
    "<script>",
    "{0}",
    "%s",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "x" * 5_000,
)


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return a value that JSON and TOML can hold."""
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind < 4:
        return chance.choice(TEXTS)
    if kind == 4:
        return chance.choice((True, False, float("nan"), float("inf"), chance.randint(-5, 50), chance.random()))
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS[4:20]) or "k": value(chance, depth + 1) for _ in range(chance.randrange(3))}


def changed(document: Any, chance: random.Random) -> Any:
    """Return a copy of a document of tables and lists with one to three of its parts changed, removed or added."""
    whole = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        table = whole
        while True:
            inner = [
                part
                for part in (table.values() if isinstance(table, dict) else table)
                if part and isinstance(part, dict | list)
            ]
            if not inner or chance.random() < 0.3:
                break
            table = chance.choice(inner)
        _change(table, chance)
    return whole


def _change(table: Any, chance: random.Random) -> None:
    if isinstance(table, list):
        place = chance.randrange(len(table)) if table else 0
        table[place : place + chance.randrange(2)] = [value(chance)] * chance.randrange(3)
        return
    keys = list(table)
    key, what = (chance.choice(keys) if keys else "new"), chance.randrange(8)
    if what == 0 and keys:
        del table[key]
    elif what == 1:
        table[text(key, chance) or "new"] = value(chance)
    elif what == 2 and keys:
        table[text(key, chance) or "new"] = table.pop(key)
    elif what == 3 and keys:
        table[key] = table[chance.choice(keys)]
    elif what == 4 and isinstance(table.get(key), str):
        table[key] = text(table[key], chance)
    else:
        table[key] = _alike(table[key], chance) if keys and chance.random() < 0.6 else value(chance)


def _alike(given: Any, chance: random.Random) -> Any:
    """Return another value of the same type."""
    if isinstance(given, bool):
        return not given
    if isinstance(given, int | float):
        return chance.choice((*NUMBERS, given + 1, -given, given * 2))
    if isinstance(given, str):
        return text(given, chance)
    return chance.sample(given, len(given)) if isinstance(given, list) else given


def text(whole: str, chance: random.Random) -> str:
    """Return a text with a few characters changed, left out, doubled or put in."""
    letters = list(whole)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(letters) + 1)
        new = chance.choice(
            (chance.choice(TEXTS)[:6], chr(chance.randrange(1, 127)), chr(chance.randrange(128, 0x2FFF)))
        )
        letters[place : place + chance.randrange(3)] = chance.choice((list(new), [], letters[place : place + 2] * 2))
    return "".join(letters)


def data(whole: bytes, chance: random.Random) -> bytes:
    """Return bytes with some flipped, cut off, put in or repeated."""
    what, place = chance.randrange(5), chance.randrange(len(whole) + 1)
    if what == 0:
        return whole[:place]
    if what == 1:
        return whole[:place] + chance.randbytes(chance.randint(1, 8)) + whole[place:]
    if what == 2:
        return whole[:place] + whole[place // 2 :]
    if what == 3:
        return chance.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 100_000, b'{"a":' * 50_000, b"\0")) + whole
    flipped = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(flipped)
