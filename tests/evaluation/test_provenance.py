import torch

from attrbench.evaluation.memory import Peaks, reset_peaks
from attrbench.evaluation.provenance import code_digest, installed_packages
from attrbench.store.fingerprint import folder_digest


def test_code_digest_follows_the_packages_asked_for():
    assert code_digest("attrbench_methods.first_order.dmin") == code_digest("attrbench_methods.similarity.pixel")
    assert code_digest("attrbench_methods.first_order.dmin") != code_digest("attrbench_tasks.minis.digits")


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
