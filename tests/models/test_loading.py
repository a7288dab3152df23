"""Finding models: local folders, the hub, and one line for everything that may be wrong with either."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.families.ddpm import DDPM, DDPMDenoiser
from attrbench.models.families.stable_diffusion import StableDiffusionDenoiser
from attrbench.models.families.stable_diffusion3 import StableDiffusion3Denoiser
from attrbench.models.loading import load_denoiser
from tests.models import pipelines

CPU = torch.device("cpu")


def error_of(source, match):
    with pytest.raises(AttrbenchError, match=match) as caught:
        load_denoiser(source, CPU)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(("kind", "family"), [("sd1", StableDiffusionDenoiser), ("sd3", StableDiffusion3Denoiser)])
def test_the_family_is_that_of_the_index(kind, family, load):
    assert type(load(kind)) is family


def test_a_ddpm_folder_is_the_ddpm_adapter_itself(tiny_folder, tiny_denoiser):
    denoiser = load_denoiser(ModelConfig(model=str(tiny_folder)), CPU)
    assert type(denoiser) is DDPMDenoiser
    assert denoiser.fingerprint == tiny_denoiser.fingerprint
    assert denoiser.sampling_steps == 50
    checkpointed = load_denoiser(ModelConfig(model=str(tiny_folder), gradient_checkpointing=True), CPU)
    assert checkpointed.module.is_gradient_checkpointing


def test_a_ddpm_whose_files_lie_at_the_top_of_its_folder_is_found(tiny_folder, tiny_denoiser, tmp_path):
    for part in ("unet", "scheduler"):
        for file in (tiny_folder / part).iterdir():
            shutil.copy(file, tmp_path / file.name)
    shutil.copy(tiny_folder / "model_index.json", tmp_path)
    denoiser = load_denoiser(ModelConfig(model=str(tmp_path)), CPU)
    assert denoiser.fingerprint == tiny_denoiser.fingerprint


@pytest.mark.parametrize(
    "options", [{"lora": "x"}, {"dtype": "float16"}, {"offload": True}, {"vae": "sample"}, {"resolution": 16}], ids=str
)
def test_options_that_a_ddpm_has_not_are_named(options, tiny_folder):
    error_of(ModelConfig(model=str(tiny_folder), **options), next(iter(options)))
    with pytest.raises(UsageError, match="attributed=lora"):
        load_denoiser(ModelConfig(model=str(tiny_folder), attributed="lora"), CPU)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nowhere", "nowhere", "a/b/c", "~/no-such-folder"])
def test_a_path_that_does_not_exist_is_named(model):
    error_of(ModelConfig(model=model), rf"model={model}: there is no such folder")


def test_a_folder_without_an_index_is_named(tmp_path):
    error_of(ModelConfig(model=str(tmp_path)), rf"no model_index.json in {tmp_path}.*save_pretrained")
    for broken in ("{", "[" * 100_000):
        (tmp_path / "model_index.json").write_text(broken)
        error_of(ModelConfig(model=str(tmp_path)), "not valid JSON")


def test_an_unknown_pipeline_class_is_named_with_those_that_are_known(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    line = error_of(ModelConfig(model=str(tmp_path)), "FluxPipeline")
    for known in ("DDPMPipeline", "StableDiffusionPipeline", "StableDiffusion3Pipeline"):
        assert known in line


@pytest.mark.parametrize("lost", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer"])
def test_a_folder_with_missing_parts_is_one_line(lost, folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders("sd1"), folder)
    shutil.rmtree(folder / lost) if (folder / lost).is_dir() else (folder / lost).unlink()
    error_of(ModelConfig(model=str(folder)), f"model={folder}")


def test_a_damaged_weights_file_is_one_line(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders("sd3"), folder)
    (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"not a safetensors file")
    error_of(ModelConfig(model=str(folder)), f"model={folder}")


# --- LoRA


def test_a_lora_may_be_a_folder_a_file_or_the_only_file_of_another_name(folders, load, tmp_path):
    source = ModelConfig(model=str(folders("sd1")))
    folder = folders("sd1-lora")
    shutil.copy(folder / "pytorch_lora_weights.safetensors", tmp_path / "mine.safetensors")
    found = [
        load_denoiser(source.model_copy(update={"lora": str(path)}), CPU).fingerprint
        for path in (folder, folder / "pytorch_lora_weights.safetensors", tmp_path, tmp_path / "mine.safetensors")
    ]
    assert len(set(found)) == 1
    shutil.copy(tmp_path / "mine.safetensors", tmp_path / "other.safetensors")
    error_of(source.model_copy(update={"lora": str(tmp_path)}), r"mine.safetensors, other.safetensors\): name the file")


def test_a_lora_that_is_not_there_is_named(folders, tmp_path):
    source = ModelConfig(model=str(folders("sd1")))
    error_of(source.model_copy(update={"lora": "./nowhere"}), "lora=./nowhere: there is no such file or folder")
    error_of(source.model_copy(update={"lora": str(tmp_path)}), "no pytorch_lora_weights.safetensors there")


def test_a_lora_that_fits_nothing_is_named(folders, tmp_path):
    source = ModelConfig(model=str(folders("sd1")))
    error_of(source.model_copy(update={"lora": str(folders("sd3-lora"))}), "does not fit model")
    file = tmp_path / "other.safetensors"
    save_file(
        {"unet.no_block.to_q.lora_A.weight": torch.zeros(4, 8), "unet.no_block.to_q.lora_B.weight": torch.zeros(8, 4)},
        file,
    )
    error_of(source.model_copy(update={"lora": str(file)}), "does not fit model")
    save_file({"weight": torch.zeros(4, 8)}, file)
    error_of(source.model_copy(update={"lora": str(file)}), "does not fit model")
    file.write_bytes(b"no")
    error_of(source.model_copy(update={"lora": str(file)}), "other.safetensors is no readable safetensors file")


def test_a_lora_of_which_only_a_part_fits_is_refused(folders, tmp_path):
    from safetensors.torch import load_file

    state = load_file(folders("sd1-lora") / "pytorch_lora_weights.safetensors")
    for side, shape in (("A", (4, 8)), ("B", (8, 4))):
        state[f"unet.mid_block.attentions.9.to_q.lora_{side}.weight"] = torch.zeros(shape)
    save_file(state, tmp_path / "more.safetensors")
    source = ModelConfig(model=str(folders("sd1")), lora=str(tmp_path / "more.safetensors"))
    error_of(source, "does not fit model")


# --- the hub


def test_weights_that_change_under_the_same_size_and_time_are_another_state(tmp_path):
    from attrbench.models import model_fingerprint

    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    file.parent.mkdir(parents=True)
    states = []
    for content in (b"weights", b"Weights"):
        file.write_bytes(content)
        os.utime(file, (1, 1))
        model_fingerprint._digest.cache_clear()  # as in another process
        states.append(model_fingerprint.models_state([str(tmp_path / "model"), None, "someone/hub-id"]))
    assert states[0] != states[1] and len(states[0]) == 1


def test_sources_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError):
        ModelConfig(model="a/b", attributed="some")
    with pytest.raises(ValidationError):
        ModelConfig(model="a/b", resolutoin=256)
    assert hash(ModelConfig(model="a/b")) == hash(ModelConfig(model="a/b"))


def test_the_source_alone_brings_no_torch():
    code = "import attrbench.models.config, sys; print(sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_pipelines_of_the_tests_are_as_their_families_are_saved(folders):
    assert pipelines.index_of(folders("sd1"))["_class_name"] == "StableDiffusionPipeline"
    assert pipelines.index_of(folders("sd3"))["_class_name"] == "StableDiffusion3Pipeline"


# --- families


def registered(monkeypatch, *plugins):
    """A registry of these (name of the family, import string), each from a plugin of its own."""
    from attrbench.models import loading
    from attrbench.plugins.registry import Plugin, Registry

    known = Registry()
    for number, (name, target) in enumerate(plugins):
        module = SimpleNamespace(register_model_families=lambda register, n=name, t=target: register(n, "a family", t))
        known.load(Plugin(f"plugin{number}", f"dist{number}", "1"), lambda module=module: module)
    monkeypatch.setattr(loading, "registry", lambda: known)


DDPM_TARGET = "attrbench.models.families.ddpm:DDPM"


class Mine(DDPM):
    """Another family for the same pipelines."""

    name = "mine"


def test_a_family_that_cannot_be_imported_is_named_and_stops_no_other(monkeypatch, tiny_folder, tiny_denoiser, caplog):
    registered(monkeypatch, ("broken", "no_such_package.family:Family"), ("ddpm", DDPM_TARGET))
    assert load_denoiser(ModelConfig(model=str(tiny_folder)), CPU).fingerprint == tiny_denoiser.fingerprint
    (record,) = caplog.records
    assert "model family 'broken' of dist0 1 can't be loaded: ModuleNotFoundError" in record.message


def test_two_families_that_take_one_pipeline_class_are_both_named(monkeypatch, tiny_folder):
    registered(monkeypatch, ("ddpm", DDPM_TARGET), ("mine", f"{__name__}:Mine"))
    error_of(ModelConfig(model=str(tiny_folder)), "DDPMPipeline are taken by the model families ddpm and mine")


def test_without_a_family_no_pipeline_is_known(monkeypatch, tiny_folder):
    registered(monkeypatch)
    error_of(ModelConfig(model=str(tiny_folder)), "is a DDPMPipeline; .* know none")


def test_registering_families_brings_no_torch():
    code = (
        "from attrbench.plugins.registry import load_registry; import sys;"
        "print(load_registry().names('model_family'), sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    environment = os.environ | {"ATTRBENCH_LOAD_PLUGINS": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "['ddpm', 'stable-diffusion', 'stable-diffusion-3'] []\n"


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_the_resolution_of_a_folder_is_that_of_its_pictures(kind, folders, load):
    from attrbench.models.loading import find_pipeline, own_resolution

    assert own_resolution(*find_pipeline(ModelConfig(model=str(folders(kind))))) == load(kind).image_shape[0]


def test_a_family_without_random_weights_says_so(tiny_folder):
    error_of(ModelConfig(model=str(tiny_folder), weights="random"), "the family ddpm has no weights=random")
