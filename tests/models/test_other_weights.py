"""Other weights of a model (`--checkpoint`): what training scripts leave, and identities that follow the weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from attrbench.models.other_weights import adapter_digests, with_weights
from tests.models import pipelines

FILE = "diffusion_pytorch_model.safetensors"
NETWORKS = {"sd1": "unet", "sd3": "transformer"}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def trained(request, folders, tmp_path_factory):
    """A model's configuration, the same pipeline with other weights of its network, and the network's name."""
    network = NETWORKS[request.param]
    pipeline = pipelines.build(request.param)
    with torch.no_grad():
        for parameter in pipelines.network_of(pipeline).parameters():
            parameter *= 1.25
    whole = tmp_path_factory.mktemp("trained")
    pipeline.save_pretrained(whole)
    return ModelConfig(model=str(folders(request.param)), sampling_steps=4), whole, network


def test_every_form_of_a_checkpoint_is_the_model_that_was_saved_whole(trained, tmp_path):
    config, whole, network = trained
    checkpoint = tmp_path / "checkpoint-500"
    shutil.copytree(whole / network, checkpoint / network)
    (checkpoint / "optimizer.bin").write_bytes(b"never read")
    expected = describe_model(ModelConfig(model=str(whole), sampling_steps=4)).fingerprint
    assert expected != describe_model(config).fingerprint
    forms = (whole, checkpoint, checkpoint / network, checkpoint / network / FILE)
    for form in forms:
        assert describe_model(with_weights(config, form)).fingerprint == expected
    saved = load_file(whole / network / FILE)
    loaded = load_denoiser(with_weights(config, checkpoint), torch.device("cpu")).module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_a_text_encoder_in_the_checkpoint_is_taken_too(trained, tmp_path):
    config, whole, network = trained
    for part in (network, "text_encoder"):
        shutil.copytree(whole / part, tmp_path / "step" / part)
    weights = next((tmp_path / "step" / "text_encoder").glob("*.safetensors"))
    state = load_file(weights)
    save_file({name: tensor * 2 for name, tensor in state.items()}, weights, metadata={"format": "pt"})
    other = describe_model(with_weights(config, tmp_path / "step")).fingerprint
    assert other != describe_model(with_weights(config, whole / network)).fingerprint


def test_another_lora_takes_the_place_of_the_models_own(folders, tmp_path):
    own = ModelConfig(model=str(folders("sd1")), lora=str(folders("sd1-lora")))
    later = pipelines.write_lora("sd1", tmp_path / "checkpoint-500", seed=1)
    other = with_weights(own, later)
    assert describe_model(other).fingerprint != describe_model(own).fingerprint
    file = next(later.glob("*.safetensors"))
    assert describe_model(with_weights(own, file)).fingerprint == describe_model(other).fingerprint
    assert adapter_digests(other) != adapter_digests(own)
    assert adapter_digests(own.model_copy(update={"lora": None})) == {}


def test_weights_of_another_network_are_refused_when_they_are_loaded(folders, tmp_path):
    config = ModelConfig(model=str(folders("sd1")))
    save_file({"conv_in.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(AttrbenchError, match="model="):
        load_denoiser(with_weights(config, tmp_path / "other.safetensors"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((), "there is no such file or folder"),
        (("notes.txt",), "no weights for model"),
        ((FILE,), "no weights for model"),
    ],
)
def test_what_holds_no_weights_of_the_model_is_one_line(folders, tmp_path, made, words):
    place = tmp_path / "checkpoint-7"
    for name in made:
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(b"")
    with pytest.raises(UsageError, match=words) as error:
        with_weights(ModelConfig(model=str(folders("sd1"))), place)
    assert "\n" not in str(error.value)
