"""The digest of a class without a file follows its code and what the code refers to, and nothing else."""

import textwrap
import types

import pytest

from attrbench.code_digest import UNKNOWN, class_digest, is_fileless
from attrbench_methods.first_order.dmin import DMin

CLASS = """
import functools
import math
import numpy as np
from attrbench_methods.first_order.dmin import DMin

FACTOR = 2.0
TABLE = {"a": [1, 2, {3, 4}], "b": np.arange(3)}

def helper(x):
    return deeper(x) * FACTOR

def deeper(x, power=2):
    return x ** power

@functools.cache
def cached():
    return 5

class Part(DMin):
    name = "part"
    weight = 3

    class Options(DMin.Options):
        alpha: float = 1.0

    @property
    def doubled(self):
        return self.weight * 2

    @staticmethod
    def plain():
        return [x for x in TABLE if x != "c"]

    def fit(self, train, context):
        def inner():
            return helper(math.sqrt(4)) + cached()
        return inner()
"""


class Cells:
    """A notebook: cells run in one namespace."""

    def __init__(self, *cells):
        self.module = types.ModuleType("notebook_without_file")
        self.number = 0
        for cell in cells:
            self.run(cell)

    def run(self, cell):
        self.number += 1
        exec(compile(textwrap.dedent(cell), f"<cell {self.number}>", "exec"), self.module.__dict__)

    @property
    def digest(self):
        return class_digest(self.module.Part)


@pytest.fixture
def cells():
    return Cells(CLASS)


def test_the_same_cell_run_again_has_the_same_digest(cells):
    first = cells.digest
    cells.run(CLASS)
    assert cells.digest == first and len(first) == 64
    cells.run("\n\n# a comment, and lines before\n" + CLASS)
    assert cells.digest == first
    assert Cells(CLASS).digest == first


def test_an_unrelated_cell_changes_nothing(cells):
    first = cells.digest
    cells.run("other = 5\nsqrt = 3\nweight = 4\ndef unrelated(): return other")
    assert cells.digest == first


@pytest.mark.parametrize(
    "edit",
    [
        "def helper(x):\n    return deeper(x) + FACTOR",
        "def deeper(x, power=3):\n    return x ** power",
        "FACTOR = 2.5",
        "TABLE['a'][2].add(5)",
        "TABLE['b'][1] = 7",
        "@functools.cache\ndef cached():\n    return 6",
        "math = np",
    ],
)
def test_an_edit_of_what_the_class_refers_to_changes_the_digest(cells, edit):
    first = cells.digest
    cells.run(edit)
    assert cells.digest != first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight = 3", "weight = 4"),
        ("alpha: float = 1.0", "alpha: float = 2.0"),
        ("alpha: float = 1.0", "beta: float = 1.0"),
        ("self.weight * 2", "self.weight * 3"),
        ('x != "c"', 'x != "d"'),
        ("math.sqrt(4)", "math.sqrt(5)"),
        ("math.sqrt(4)", "math.exp(4)"),
        ("+ cached()", "- cached()"),
        ("class Part(DMin)", "class Part(DMin.__mro__[1])"),
    ],
)
def test_an_edit_of_the_class_changes_the_digest(cells, old, new):
    assert old in CLASS
    assert Cells(CLASS.replace(old, new)).digest != cells.digest


def test_a_class_that_refers_to_what_has_no_digest_is_unknown_and_differs_each_time():
    source = "import threading\nlock = threading.Lock()\nclass Part:\n    def f(self): return lock"
    cells = Cells(source)
    first = cells.digest
    assert first.startswith(UNKNOWN) and cells.digest == first
    cells.run(source)
    assert cells.digest != first


def test_torch_tensors_count_by_their_numbers():
    source = "import torch\nW = torch.ones(3, dtype=torch.bfloat16)\nclass Part:\n    def f(self): return W"
    cells = Cells(source)
    first = cells.digest
    assert not first.startswith(UNKNOWN) and Cells(source).digest == first
    cells.run("W[1] = 2")
    assert cells.digest != first


def test_recursion_and_cycles_end():
    cells = Cells("class Part:\n    def f(self): return Part, g\ndef g(n): return g(n - 1), Part")
    assert len(cells.digest) == 64


def test_classes_with_a_file_have_none():
    assert class_digest(DMin) == ""
    assert not is_fileless("math") and not is_fileless("builtins") and is_fileless("__main__")


def test_a_module_of_the_users_own_counts_by_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_helpers_a.py").write_text("def f(): return 1")
    (tmp_path / "own_helpers_b.py").write_text("def f(): return 1  # other")
    source = "import {} as helpers\nclass Part:\n    def f(self): return helpers.f()"
    assert Cells(source.format("own_helpers_a")).digest != Cells(source.format("own_helpers_b")).digest
    first = Cells(source.format("own_helpers_a")).digest
    (tmp_path / "own_helpers_a.py").write_text("def f(): return 2")
    assert Cells(source.format("own_helpers_a")).digest != first


def test_the_key_of_a_transform_follows_the_code(cells):
    first = cells.module.Part(cells.module.Part.Options()).key
    cells.run("FACTOR = 3.0")
    assert cells.module.Part(cells.module.Part.Options()).key != first
    assert DMin(DMin.Options()).key == f"dmin v{DMin.version} {DMin.Options().model_dump_json()}"
