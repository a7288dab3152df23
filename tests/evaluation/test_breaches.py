"""A run refuses a task that breaks its contract where a few items show it, and changes nothing of a good one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import attrbench
from attrbench.conformance.run_check import FewGradients
from attrbench.contracts.options import Options
from attrbench.errors import AttrbenchError, UsageError
from attrbench.evaluation import task_run
from attrbench.evaluation.breaches import LOOSE, Look, batch_breach, items_breach, mode_breach, tolerance
from attrbench.models.families.ddpm import DDPMDenoiser
from tests.conformance.broken_tasks import BROKEN, META, Waves, with_model, with_task
from tests.executors.tiny_task import shard_bytes

SEEN = {
    "batch-mean": "an item's prediction beside 1 other differs by",
    "train-mode": "modules of its network are in train mode, first UNet2DModel: dropout",
    "dropout": "its model predicts something else each time",
    "broadcasts": r"its model's target\(\) gives \[2, 1, 1, 1\] for 2 items of latent_shape \[3, 8, 8\]",
    "float-pictures": "the images of its queries are float64",
    "groups-short": "its training set has 24 images and 23 groups",
}
"""Name of a broken task -> what a run says of it."""


def run(kind, tmp_path, **options):
    settings = {"out": tmp_path / "records", "cache": tmp_path / "cache", "progress": False} | options
    return attrbench.run(FewGradients, kind, **settings)


@pytest.mark.parametrize("name", SEEN)
def test_a_run_refuses_what_a_few_items_show_and_writes_no_record(name, tmp_path):
    with pytest.raises(AttrbenchError, match=f"task waves: .*{SEEN[name]}.*'attrbench check' tries all"):
        run(BROKEN[name][0], tmp_path)
    assert not list(tmp_path.rglob("waves/*.json"))


def test_attribution_of_a_picture_refuses_it_too(tmp_path):
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(AttrbenchError, match="beside 1 other differs"):
        attrbench.attribute(
            FewGradients, BROKEN["batch-mean"][0], images=[picture], cache=tmp_path / "cache", progress=False
        )


def test_a_method_without_gradients_loads_no_model_for_the_look(tmp_path):
    (record,) = attrbench.run(
        "random", BROKEN["train-mode"][0], out=tmp_path / "r", cache=tmp_path / "cache", progress=False
    ).records
    assert record.status == "complete"


@pytest.mark.parametrize("task", [Waves, pytest.param("sd3-lora-mini", marks=pytest.mark.slow)])
def test_the_look_changes_no_byte_of_a_good_task(task, tmp_path, monkeypatch):
    """What text encoders give for a prompt may depend on the prompts beside it, and is kept in memory."""
    limits = {"limit_train": 9, "limit_queries": 2, "keep_scores": True}
    looked = run(task, tmp_path / "looked", **limits)
    monkeypatch.setattr(task_run, "refuse_breaches", lambda world, of_model: None)
    not_looked = run(task, tmp_path / "not", **limits)
    assert shard_bytes(tmp_path / "looked" / "cache") == shard_bytes(tmp_path / "not" / "cache")
    assert (looked.scores("attrbench-check") == not_looked.scores("attrbench-check")).all()


def broken_predict(error):
    def raises(self, noisy, t, conditioning):
        raise error

    return with_task(model=type("Raises", (DDPMDenoiser,), {"predict": raises, "generate": drawn}))


def drawn(self, prompts, seeds):
    return np.stack([np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) for seed in seeds])


def test_an_error_of_the_model_is_one_line_that_names_its_class(tmp_path):
    with pytest.raises(AttrbenchError, match=r"task waves: its model \(.*Raises\) raises KeyError: 't' on two"):
        run(broken_predict(KeyError("t")), tmp_path)


def test_an_error_that_others_can_mend_is_told_by_the_run_where_it_needs_the_model(tmp_path):
    (record,) = run(broken_predict(UsageError("no such timestep")), tmp_path).records
    assert record.status == "failed" and record.error == "no such timestep"


def test_a_single_training_item_is_looked_at_at_two_timesteps(tmp_path):
    def one(self, items):
        return replace(items, images=items.images[:1], groups=["0"], prompts=[""])

    def mean(self, noisy, t, conditioning):
        predicted = DDPMDenoiser.predict(self, noisy, t, conditioning)
        return predicted - predicted.mean(0)

    meta = META.model_copy(update={"train_items": 1})
    broken = type("Broken", (DDPMDenoiser,), {"predict": mean})
    with pytest.raises(AttrbenchError, match="beside 1 other"):
        run(with_task(meta=meta, trained_on=one, model=broken), tmp_path)


def test_rounding_of_coarser_weights_is_no_breach(tiny_denoiser, tiny_items):
    assert tolerance(tiny_denoiser) == LOOSE
    assert batch_breach(Look(tiny_denoiser, tiny_items), 1e-4) is None
    coarse = type("Coarse", (), {"module": torch.nn.Linear(2, 2).bfloat16()})()
    assert tolerance(coarse) == 16 * torch.finfo(torch.bfloat16).eps


def test_a_module_in_train_mode_deep_inside_is_named(tiny_folder):
    denoiser = DDPMDenoiser(tiny_folder, torch.device("cpu"), sampling_steps=2)
    assert mode_breach(denoiser) is None
    denoiser.module.mid_block.resnets[0].dropout.train()
    assert (
        "1 modules of its network are in train mode, first mid_block.resnets.0.dropout" in mode_breach(denoiser).found
    )


@pytest.mark.parametrize("name", ["groups", "prompts", "seeds", "names", "digests"])
def test_lists_of_another_length_than_the_images_are_named(tiny_items, name):
    assert items_breach(tiny_items, "queries") is None
    short = replace(tiny_items, **{name: ["0"] * 11})
    assert items_breach(short, "queries").found == f"its queries has 12 images and 11 {name}"


def test_the_sound_task_runs(tmp_path):
    (record,) = run(with_model(), tmp_path).records
    assert record.status == "complete"
    assert Options is Waves.Options
