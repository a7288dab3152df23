import importlib

import torch

from attrbench.evaluation.memory import Peaks, reset_peaks
from attrbench.evaluation.provenance import code_digest, distribution, installed_packages
from attrbench.plugins.registry import load_registry
from attrbench.store.fingerprint import folder_digest
from attrbench_methods.first_order.dmin import DMin


def test_code_digest_follows_the_packages_asked_for():
    assert code_digest("attrbench_methods.first_order.dmin") == code_digest("attrbench_methods.similarity.pixel")
    assert code_digest("attrbench_methods.first_order.dmin") != code_digest("attrbench_tasks.minis.digits")


def test_code_digest_of_a_class_is_that_of_its_package_and_of_its_bases_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_base.py").write_text("class Base: pass\n")
    (tmp_path / "own_method.py").write_text("import own_base\nclass Mine(own_base.Base): pass\n")
    mine = importlib.import_module("own_method").Mine
    assert code_digest(DMin) == code_digest("attrbench_methods.first_order.dmin")
    assert code_digest(mine) == code_digest("own_method", "own_base") != code_digest("own_method")


def test_code_digest_follows_a_module_that_was_reloaded(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_reloaded.py"
    file.write_text("class Mine: value = 1\n")
    module = importlib.import_module("own_reloaded")
    first = code_digest(module.Mine)
    file.write_text("class Mine: value = 22\n")
    assert code_digest(module.Mine) == first  # what runs is still the old code
    importlib.reload(module)
    assert code_digest(module.Mine) != first


def test_a_method_without_a_plugin_is_said_to_be_of_its_module_or_of_a_notebook():
    registry = load_registry()
    assert distribution(registry, "dmin", DMin).startswith("attrbench ")
    assert distribution(registry, "mine", DMin) == "attrbench_methods.first_order.dmin"
    assert distribution(registry, "mine", type("Mine", (), {"__module__": "__main__"})) == "notebook"


def test_folder_digest_sees_content_and_names_but_not_byte_code(tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert folder_digest(tmp_path) == first
    (tmp_path / "a.py").write_text("2")
    second = folder_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_packages_are_recorded():
    assert "torch" in installed_packages()


def test_peaks_start_anew_after_a_reset():
    device = torch.device("cpu")
    reset_peaks(device)
    block = torch.ones(50_000_000)
    high = Peaks.now(device)
    del block
    reset_peaks(device)
    low = Peaks.now(device)
    assert high.device is None
    assert 10_000_000 < low.resident < high.resident - 150_000_000
    assert low.or_larger(high) == high
