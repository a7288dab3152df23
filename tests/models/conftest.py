from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attrbench.contracts.task import Items
from attrbench.models.config import ModelConfig
from attrbench.models.loading import load_denoiser
from tests.models import pipelines
from tests.models.lora_files import FILE

PROMPTS = ("a red card", "flag of the sea", "", "a cat", "a red card")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """kind -> the folder of that tiny pipeline, and `KIND-lora` -> that of a LoRA for it; written on first use."""
    root = tmp_path_factory.mktemp("pipelines")

    @cache
    def find(name):
        kind = name.removesuffix("-lora")
        return pipelines.write(kind, root / name) if name == kind else pipelines.write_lora(kind, root / name)

    return find


@pytest.fixture(scope="session")
def source_of(folders):
    """A source of a tiny pipeline, with its LoRA where that is asked for."""

    def make(kind, lora=False, **options):
        adapter = str(folders(f"{kind}-lora")) if lora else None
        return ModelConfig(model=str(folders(kind)), lora=adapter, **{"sampling_steps": 4, **options})

    return make


@pytest.fixture(scope="session")
def load(source_of):
    """The denoiser of such a source, one a session for equal ones: a test that changes it must take a copy."""

    @cache
    def from_source(source):
        return load_denoiser(source, torch.device("cpu"))

    return lambda *arguments, **options: from_source(source_of(*arguments, **options))


@pytest.fixture(scope="session")
def pictures():
    """Five captioned 16x16 pictures; the last is the first again."""
    images = np.random.default_rng(0).integers(0, 256, (len(PROMPTS), 16, 16, 3), dtype=np.uint8)
    images[-1] = images[0]
    return Items(images, [""] * len(images), list(PROMPTS), "pictures")


@pytest.fixture
def with_lora(folders, tmp_path):
    """The config of a tiny pipeline with a LoRA file of these tensors and this header."""

    def make(kind, tensors, metadata=None, name=FILE):
        save_file(tensors, tmp_path / name, metadata=metadata)
        return ModelConfig(model=str(folders(kind)), lora=str(tmp_path / name), sampling_steps=4)

    return make
