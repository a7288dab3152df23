"""Every kind of method runs on Stable Diffusion as it does on DDPMs, by the way that a run takes."""

from dataclasses import replace

import numpy as np
import pytest

from attrbench.errors import Unavailable
from tests.methods.in_memory import SmallTask, scores_by_run

EVERY = (
    "dmin:timesteps=2,v=64",
    "dmin:timesteps=2,v=none,target=noise",
    "grad-dot:timesteps=2",
    "grad-cos:timesteps=2,v=64",
    "d-trak:timesteps=2,v=64",
    "trak:timesteps=2,v=64",
    "das:timesteps=2,v=64",
    "journey-trak:timesteps=2,v=64,sampling_steps=4",
    "journey-trak:timesteps=2,v=64,at=400,draws=2",
    "datainf:timesteps=2,v=16,blocks=module",
    "lissa:timesteps=2,v=16",
    "ekfac:timesteps=2,draws=16",
    "untrained:timesteps=2,v=64",
    "latent",
)


@pytest.fixture
def task(pictures, load):
    """Two of the training pictures are the queries, which the model is said to have drawn."""

    def make(kind, lora):
        queries = replace(pictures, images=pictures.images[1:3], prompts=pictures.prompts[1:3], groups=["", ""])
        return SmallTask(load(kind, lora), pictures, replace(queries, seeds=[4, 9], fingerprint="queries"))

    return make


@pytest.mark.parametrize(("kind", "lora"), [("sd1", True), ("sd1-v", False), ("sd3", True), ("sd3", False)])
def test_scores_are_finite_and_a_copy_is_found(kind, lora, task, tmp_path):
    specs = [spec for spec in EVERY if lora or not spec.startswith(("ekfac", "untrained"))]
    found = dict(zip(specs, scores_by_run(task(kind, lora), tmp_path, *specs), strict=True))
    for spec, scores in found.items():
        assert scores.shape == (2, 5), spec
        assert np.isfinite(scores).all(), spec
    for spec in ("dmin:timesteps=2,v=64", "latent"):
        assert found[spec].argmax(axis=1).tolist() == [1, 2], spec


def test_methods_over_checkpoints_say_that_there_are_none(task, tmp_path):
    with pytest.raises((Unavailable, KeyError), match="checkpoints"):
        scores_by_run(task("sd1", True), tmp_path, "tracin:timesteps=2")
