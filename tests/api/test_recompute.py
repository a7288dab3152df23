"""The script of the docs page gives the scores of attrbench with torch and diffusers alone, on a user's own model."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attrbench
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.task import Items
from attrbench.models.noise import feature_noise

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "recompute-a-score.md"
TASK = """
[task]
name = "mine"
[model]
model = "{model}"
[train]
path = "{folder}/train"
[queries.images]
path = "{folder}/queries"
"""


@pytest.fixture(scope="module")
def script():
    """The names that the page's script leaves."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names = {"__name__": "recompute"}
    exec(compile(block, "recompute.py", "exec"), names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve training images and one query of 8x8 gray pixels."""
    root, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    for split, count in (("train", 12), ("queries", 1)):
        (root / split).mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / split / f"{number:02}.png")
    return root


@pytest.mark.parametrize(("method", "place"), [("grad-dot", 0), ("dmin:v=none", 1)])
def test_the_script_of_the_page_reproduces_the_scores(script, folder, tiny_folder, tmp_path, method, place):
    task = tmp_path / "mine.toml"
    task.write_text(TASK.format(model=tiny_folder, folder=folder))
    results = attrbench.run(method, str(task), out=tmp_path / "out", cache=tmp_path / "cache", progress=False)
    (found,) = results.scores(method)
    direct = script["scores"](tiny_folder, folder / "queries" / "00.png", folder / "train")
    expected = np.array([direct[name][place] for name in sorted(direct)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_noise_and_keys_are_those_that_the_page_names(script):
    import hashlib

    images = np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3)
    images[2] = images[0]
    items = Items(images, [""] * 3, ["a", "b", "a"], "f")
    for place, (image, prompt, again) in enumerate(zip(images, items.prompts, ("", "", "/1"), strict=True)):
        pixels = hashlib.sha256(image.tobytes()).hexdigest()[:32]
        key = hashlib.sha256(f"2x2x3/{pixels}/{prompt}{again}".encode()).hexdigest()[:24]
        assert items.keys[place] == key
        for policy, name in (
            ("shared", ("noise", 7)),
            ("per-timestep", ("noise", 7, 783)),
            ("per-item", ("noise", 7, 783, key)),
        ):
            source = GradientSource(noise=policy, noise_seed=7)
            assert (feature_noise(source, key, 783, (3, 2, 2)) == script["noise"]((3, 2, 2), *name)).all()
