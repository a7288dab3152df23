"""Models on the hub: one line for each answer of it, and its cache serves without it."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from attrbench.models.config import ModelConfig
from attrbench.models.loading import load_denoiser
from tests.models.test_loading import error_of

CPU = torch.device("cpu")
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Sets what the hub answers, instead of asking it; the cache is empty."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("attrbench.hub.hub_or_cache", _answering)

    def answer(error):
        def download(*arguments, **options):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    return answer


class _answering:  # noqa: N801
    def __enter__(self):
        return True

    def __exit__(self, *error):
        return None


def http_error(kind, status):
    return kind("refused\nmore", response=SimpleNamespace(status_code=status, headers={}, request=None))


def test_a_gated_model_comes_with_the_steps(hub):
    from huggingface_hub import errors

    for kind, status in ((errors.GatedRepoError, 403), (errors.GatedRepoError, 401), (errors.HfHubHTTPError, 403)):
        hub(http_error(kind, status))
        line = error_of(ModelConfig(model=SD3), SD3)
        for step in (f"https://huggingface.co/{SD3}", "accept", "license", "`hf auth login`", "model=PATH"):
            assert step in line


def test_other_answers_of_the_hub_are_one_line_each(hub):
    from huggingface_hub import errors

    hub(http_error(errors.RepositoryNotFoundError, 404))
    error_of(ModelConfig(model="a/b"), "model a/b: the hub has no such repository.*model=PATH")
    hub(http_error(errors.RevisionNotFoundError, 404))
    error_of(ModelConfig(model="a/b", revision="v9"), "model a/b has no revision v9")
    hub(http_error(errors.HfHubHTTPError, 500))
    error_of(ModelConfig(model="a/b"), "refused")
    hub(OSError("No space left on device"))
    error_of(ModelConfig(model="a/b"), "No space left")


def test_a_lora_on_the_hub_is_asked_for_in_its_own_name(hub, folders):
    from huggingface_hub import errors

    hub(http_error(errors.RepositoryNotFoundError, 404))
    error_of(ModelConfig(model=str(folders("sd1")), lora="a/b"), "lora a/b: .*lora=PATH")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_be_reached_is_one_line_in_time(offline, tmp_path):
    code = (
        "import torch, time; from attrbench.models.loading import load_denoiser;"
        "from attrbench.models.config import ModelConfig;"
        "started = time.perf_counter();"
        f"\ntry: load_denoiser(ModelConfig(model='{SD3}'), torch.device('cpu'))"
        "\nexcept Exception as error: print(type(error).__name__, time.perf_counter() - started < 20, error)"
    )
    nobody = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline}
    environment = os.environ | nobody
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.startswith(f"AttrbenchError True model {SD3} is not in the cache and the Hugging Face hub can't")
    assert done.stdout.endswith("give a local path with model=PATH\n")


def test_a_model_in_the_hubs_cache_needs_no_hub(folders, tmp_path, monkeypatch):
    from huggingface_hub import constants

    revision = "0" * 40
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(folders("sd1"), repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    denoiser = load_denoiser(ModelConfig(model="someone/tiny"), CPU)
    local = load_denoiser(ModelConfig(model=str(folders("sd1"))), CPU)
    assert denoiser.fingerprint == local.fingerprint


def test_blobs_of_the_hubs_cache_are_known_by_their_name(tmp_path):
    from attrbench.files import sha256_of
    from attrbench.models.model_fingerprint import file_digest

    (tmp_path / "blobs").mkdir()
    plain = tmp_path / "plain"
    plain.write_bytes(b"weights")
    blob = tmp_path / "blobs" / sha256_of(plain)
    blob.write_bytes(b"weights")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert file_digest(link) == file_digest(plain) == blob.name
    plain.write_bytes(b"changed weights")
    assert file_digest(plain) == sha256_of(plain)


def test_a_blob_of_the_hubs_cache_that_is_not_what_its_name_says_is_refused(tmp_path):
    from attrbench.errors import Damaged
    from attrbench.files import sha256_of
    from attrbench.models.model_fingerprint import content_digest

    (tmp_path / "blobs").mkdir()
    (tmp_path / "plain").write_bytes(b"weights")
    blob = tmp_path / "blobs" / sha256_of(tmp_path / "plain")
    blob.write_bytes(b"weights")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert content_digest(link) == blob.name
    blob.write_bytes(b"weightS.")
    with pytest.raises(Damaged, match="delete it, so that it is downloaded again"):
        content_digest(link)
