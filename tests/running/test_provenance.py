from attrbench.running.provenance import code_digest, installed_packages, peak_memory
from attrbench.store.fingerprint import folder_digest


def test_code_digest_follows_the_packages_asked_for():
    assert code_digest("attrbench_methods.dmin") == code_digest("attrbench_methods.pixel")
    assert code_digest("attrbench_methods.dmin") != code_digest("attrbench_tasks.digits")


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


def test_packages_and_memory_are_recorded():
    assert "torch" in installed_packages()
    assert peak_memory() > 10_000_000
