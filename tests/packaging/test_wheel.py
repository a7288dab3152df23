"""What the wheel holds; `make test-wheel` installs and uses it as well."""

import os
import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import attrbench
from tests.packaging.wheel import ROOT, build_wheel, missing_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"), "--no-build-isolation")


def test_modules_weights_data_and_type_markers_are_in_the_wheel(wheel):
    assert missing_files(wheel) == []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for wanted in ("weights/digits-mini/unet/diffusion_pytorch_model.safetensors", "data/mnist5k.npz", "py.typed"):
        assert f"attrbench_tasks/{wanted}" in names
    assert {"attrbench_suites/table2.toml", "attrbench_suites/dmin.json"} <= set(names)


def test_a_file_that_is_left_out_is_named(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(tmp_path / "short.whl", "w") as short:
        for name in archive.namelist():
            if name != "attrbench_tasks/data/mnist5k.npz":
                short.writestr(name, b"")
    assert missing_files(tmp_path / "short.whl") == ["attrbench_tasks/data/mnist5k.npz"]


def test_nothing_but_our_packages_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "attrbench",
        "attrbench_methods",
        "attrbench_tasks",
        "attrbench_suites",
    }


def test_suites_are_found_in_an_installed_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from attrbench.suites.names import shipped_suites as s; print(s()['table2']); print(len(s()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    place, count = done.stdout.splitlines()
    assert Path(place) == tmp_path / "attrbench_suites" / "table2.toml" and int(count) == 12


def test_the_wheel_has_the_version_the_license_and_the_plugins(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(metadata).decode())
        entries = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert headers["Version"] == attrbench.__version__
    assert "Apache-2.0" in (headers["License"] or headers["License-Expression"])
    assert "methods = attrbench_methods" in entries
    assert "tasks = attrbench_tasks" in entries


def test_citation_has_the_version_of_the_package():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert version == attrbench.__version__
