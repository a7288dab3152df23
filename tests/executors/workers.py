"""Marks for tests of executors whose libraries are optional."""

from __future__ import annotations

import importlib.util

import pytest

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra attrbench[ray]")
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs the extra attrbench[slurm]"
)
