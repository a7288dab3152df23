import os

import pytest

from attrbench.errors import Interrupted
from attrbench.files import write_atomically


@pytest.mark.parametrize("fault", [Interrupted, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_is_cut_off_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, fault, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def cut_off(*args):
        raise fault

    target = os if call == "fsync" else type(path)
    monkeypatch.setattr(target, call, cut_off)
    with pytest.raises(fault):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
