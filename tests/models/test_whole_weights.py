"""A pipeline's weights are exactly those of its configuration, or refused in one line that names file and tensor."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from attrbench.errors import AttrbenchError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser

CPU = torch.device("cpu")
PARTS = {
    "ddpm": [("unet", "diffusion_pytorch_model")],
    "sd1": [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")],
    "sd3": [("transformer", "diffusion_pytorch_model"), ("text_encoder_2", "model"), ("text_encoder_3", "model")],
}
CASES = [(kind, part, f"{part}/{name}.safetensors") for kind, parts in PARTS.items() for part, name in parts]


@pytest.fixture
def copy_of(folders, tiny_folder, tmp_path):
    """A copy of a tiny pipeline's folder that may be changed."""
    return lambda kind: shutil.copytree(tiny_folder if kind == "ddpm" else folders(kind), tmp_path / "model")


def refusal(folder, load=lambda config: load_denoiser(config, CPU)):
    with pytest.raises(AttrbenchError) as caught:
        load(ModelConfig(model=str(folder)))
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 700
    assert line.startswith(f"model={folder}: ")
    return line


def rewrite(file, change):
    state = load_file(file)
    name = next(name for name in sorted(state) if state[name].dim() == 2)
    change(state, name)
    save_file(state, file, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize(("kind", "part", "file"), CASES, ids=str)
def test_a_missing_tensor_is_named_with_its_file(kind, part, file, copy_of):
    folder = copy_of(kind)
    name = rewrite(folder / file, lambda state, name: state.pop(name))
    _, lacks, tensor = refusal(folder).partition(f"{folder / file} lacks the tensor ")
    assert lacks
    assert name.endswith(tensor.split()[0])  # transformers leaves a prefix out


@pytest.mark.parametrize(("kind", "part", "file"), CASES, ids=str)
def test_a_tensor_too_many_is_named_with_its_file(kind, part, file, copy_of):
    folder = copy_of(kind)
    rewrite(folder / file, lambda state, name: state.update({"surplus\x1b.weight": torch.zeros(2)}))
    assert f"{folder / file} holds the tensor surplus?.weight" in refusal(folder)


@pytest.mark.parametrize(("kind", "part", "file"), CASES, ids=str)
def test_a_tensor_of_another_shape_is_named_with_its_file(kind, part, file, copy_of):
    folder = copy_of(kind)
    name = rewrite(folder / file, lambda state, name: state.update({name: torch.zeros(3, 5)}))
    line = refusal(folder)
    assert str(folder / file) in line
    assert name.removeprefix("text_model.") in line
    assert "[3, 5]" in line


@pytest.mark.parametrize(("kind", "part", "file"), CASES, ids=str)
@pytest.mark.parametrize("load", [describe_model, lambda config: load_denoiser(config, CPU)], ids=["plan", "run"])
def test_a_file_cut_short_is_one_line_in_the_plan_already(kind, part, file, load, copy_of):
    folder = copy_of(kind)
    whole = (folder / file).read_bytes()
    for damaged in (whole[:-4], whole[: len(whole) // 2], whole[:30], b""):
        (folder / file).write_bytes(damaged)
        assert f"{folder / file} is no readable safetensors file" in refusal(folder, load)


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", "unet/config.json"])
def test_a_file_that_gives_no_bytes_is_one_line(name, copy_of):
    folder = copy_of("sd1")
    file = folder / name
    if not file.is_file():
        file = next(file for file in (folder / "tokenizer").iterdir() if file.is_file())
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(AttrbenchError) as caught:
        load_denoiser(ModelConfig(model=str(folder)), CPU)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "short"])
def test_a_checkpoint_that_is_not_the_networks_is_named(change, copy_of):
    folder = copy_of("ddpm")
    (folder / "checkpoints").mkdir()
    file = folder / "checkpoints" / "step-3.safetensors"
    shutil.copy(folder / "unet/diffusion_pytorch_model.safetensors", file)
    denoiser = load_denoiser(ModelConfig(model=str(folder)), CPU)
    denoiser.at("step-3")
    changes = {
        "missing": lambda state, name: state.pop(name),
        "surplus": lambda state, name: state.update(surplus=torch.zeros(1)),
        "shape": lambda state, name: state.update({name: torch.zeros(3, 5)}),
        "short": lambda state, name: None,
    }
    rewrite(file, changes[change])
    if change == "short":
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AttrbenchError, match=f"checkpoint step-3: {file}"):
        denoiser.at("step-3")


def test_names_that_older_versions_gave_are_no_surplus(copy_of, load):
    """CLIP's `position_ids`, and the autoencoder's attention of before, are in the published weights of SD 1.4."""
    folder = copy_of("sd1")
    text, vae = folder / "text_encoder/model.safetensors", folder / "vae/diffusion_pytorch_model.safetensors"
    rewrite(text, lambda state, name: state.update({"text_model.embeddings.position_ids": torch.arange(16)[None]}))
    state = load_file(vae)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, before in old.items():
        state = {name.replace(f".{new}.", f".{before}."): value for name, value in state.items()}
    assert any(".proj_attn." in name for name in state)
    save_file(state, vae, metadata={"format": "pt"})
    image = torch.zeros(1, 16, 16, 3).numpy().astype("uint8")
    found, expected = (
        model.encode(image, ["a cat"], "model")
        for model in (load_denoiser(ModelConfig(model=str(folder)), CPU), load("sd1"))
    )
    assert torch.equal(found.latents, expected.latents)
    torch.testing.assert_close(found.conditioning["text"], expected.conditioning["text"], rtol=1e-5, atol=1e-6)
