"""Each mini ships its query pictures, so that records of all machines answer the same queries."""

import logging

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.task import Workspace
from attrbench.store.artifacts import Artifact
from attrbench_tasks.minis.customized import MODELS, CustomizedMini
from attrbench_tasks.minis.ddpm_icons import DDPMIconsMini
from attrbench_tasks.minis.ddpm_mnist import DDPMMnistMini
from attrbench_tasks.minis.digits import DigitsMini
from attrbench_tasks.minis.mnist14 import MNIST14Mini
from attrbench_tasks.minis.planted import PlantedLoRAMini
from attrbench_tasks.minis.query_pictures import SHIPPED, KeptPictures
from attrbench_tasks.minis.text_to_image import SD3FullMini, SD3LoRAMini, SD14LoRAMini
from attrbench_tasks.removal.mnist_removal import MnistRemovalMini
from attrbench_tasks.shipped_weights import WEIGHTS

WITH_TUNING = [
    DigitsMini,
    DDPMMnistMini,
    DDPMIconsMini,
    MNIST14Mini,
    SD14LoRAMini,
    SD3LoRAMini,
    SD3FullMini,
    PlantedLoRAMini,
]
CUSTOMIZED = [{"model": model, **options} for model in range(MODELS) for options in ({}, CustomizedMini.tuning)]
SETS = [
    *((kind, dict(options)) for kind in WITH_TUNING for options in ({}, kind.tuning)),
    (MnistRemovalMini, {}),
    *((CustomizedMini, options) for options in CUSTOMIZED),
]
NAMES = [f"{kind.meta.name}{''.join(map(str, options.values()))}" for kind, options in SETS]


def opened(kind, options, cache):
    return kind(kind.Options(**options)).open(Workspace(cache, torch.device("cpu")))


@pytest.mark.parametrize(("kind", "options"), SETS, ids=NAMES)
def test_queries_ship_and_nothing_is_drawn_for_them(kind, options, tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise AssertionError("drew a picture")

    for denoiser in Denoiser.__subclasses__():
        monkeypatch.setattr(denoiser, "generate", refuse)
    task = opened(kind, options, tmp_path)
    outline, queries = task.query_outline, task.queries
    assert outline.is_drawn and outline.fingerprint == queries.fingerprint
    assert len(queries) == outline.count and len(set(queries.seeds)) == len(queries)
    assert not (tmp_path / "queries").exists() or not any((tmp_path / "queries").glob("*generated*"))


@pytest.mark.parametrize(("kind", "options"), SETS, ids=NAMES)
def test_the_shipped_pictures_are_those_that_the_shipped_model_draws(kind, options, tmp_path):
    task = opened(kind, options, tmp_path)
    queries = task.queries
    ends = [0, len(queries) - 1]
    again = task.denoiser.generate([queries.prompts[query] for query in ends], [queries.seeds[query] for query in ends])
    difference = np.abs(again.astype(int) - queries.images[ends].astype(int))
    assert difference.max() <= 2, "other weights? run python -m attrbench_tasks.ship_queries"


def test_no_file_ships_that_no_task_reads():
    shipped = {path.stem for path in WEIGHTS.rglob(f"{SHIPPED}/*.safetensors")}
    assert len(shipped) == len(SETS)


@pytest.fixture
def pictures(tmp_path):
    artifact = Artifact(tmp_path / "cache" / "key.safetensors", "generated queries", "two pictures")
    return KeptPictures(artifact, 2, lambda: {"images": np.ones((2, 4, 4, 1), np.uint8)}, tmp_path / SHIPPED)


def test_pictures_of_a_damaged_file_are_drawn_again_and_a_line_says_so(pictures, caplog):
    path = pictures.ship()
    assert pictures.arrays()["images"].shape == (2, 4, 4, 1)
    save_file({"images": np.zeros((2, 4, 4, 1), np.uint8)}, path)
    with caplog.at_level(logging.WARNING):
        assert pictures.arrays()["images"].min() == 1
    assert "is damaged" in caplog.text and "drawing the pictures again" in caplog.text


def test_shipped_pictures_come_before_those_of_the_cache(pictures):
    pictures.ship()
    pictures.artifact.write_bytes(b"others")
    assert pictures.arrays()["images"].min() == 1
