import sys
from pathlib import Path

import torch

from attrbench.evaluation import memory


def test_only_small_networks_keep_freed_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: asked.append(name) or type("Libc", (), {})())
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    monkeypatch.setattr(memory, "SMALL", 24)
    memory.keep_freed_memory(small)
    assert len(asked) == 1
    monkeypatch.setattr(memory, "SMALL", 23)
    memory.keep_freed_memory(large)
    assert len(asked) == 1


def test_peaks_need_no_module_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert memory.Peaks.now(torch.device("cpu")).resident > 10_000_000
