"""`attrbench train` says so where what it trained earlier was changed, and leaves it alone."""

import sys

import pytest

from attrbench.cli.app import main
from attrbench.plugins import registry as registry_module
from attrbench.plugins.registry import Plugin, load_registry
from tests.ground_truth.tiny_trainable import TinyTrainable
from tests.registering import plugin_of


@pytest.fixture
def train(monkeypatch, tmp_path, capsys):
    found = load_registry()
    toys = plugin_of(tasks=[TinyTrainable])
    found.load(Plugin("toys", "tests", "0"), lambda: toys)
    monkeypatch.setattr(registry_module, "registry", lambda: found)

    def call():
        command = ["attrbench", "train", "tiny-trainable", "--out", str(tmp_path / "model"), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


def test_weights_that_were_changed_after_their_training_are_refused_in_one_line_and_kept(train, tmp_path):
    assert train()[0] == 0 and train()[0] == 0
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    code, _, err = train()
    (line,) = [line for line in err.splitlines() if line.startswith("attrbench: error")]
    assert code == 1 and "is not as its training left it" in line and str(tmp_path / "model") in line
    assert weights.read_bytes() == damaged
