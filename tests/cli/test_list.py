import importlib
import inspect
import json
import os
import subprocess
import sys

import pytest
import typer

from attrbench.cli.typer_app import COMMANDS

HEAVY = ("torch", "diffusers", "faiss", "hnswlib", "skimage", "scipy", "numpy", "sklearn")


@pytest.mark.parametrize("arguments", [["list"], ["list", "methods"], ["--help"]])
def test_listing_and_help_import_no_heavy_library(arguments):
    code = (
        "import sys, atexit, os\n"
        f"sys.argv = ['attrbench', *{arguments!r}]\n"
        f"atexit.register(lambda: os._exit(9 if any(name in sys.modules for name in {HEAVY!r}) else 0))\n"
        "from attrbench.cli.app import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_json_tells_name_provider_and_options(attrbench):
    listing = json.loads(attrbench("list", "methods", "--json").out)
    dmin = next(entry for entry in listing["methods"] if entry["name"] == "dmin")
    assert dmin["provider"].startswith("attrbench ")
    options = {option["name"]: option for option in dmin["options"]}
    assert options["v"]["default"] == "4096"
    assert all(option["meaning"] for option in dmin["options"])


def test_list_without_argument_shows_every_kind(attrbench):
    out = attrbench("list").out
    for word in ("methods", "tasks", "metrics", "executors", "plugins", "ddpm-mnist-mini", "detection-rate", "inline"):
        assert word in out


def test_load_plugins_selects_and_empty_disables(attrbench, monkeypatch):
    from attrbench.plugins.registry import registry

    try:
        for value, present, absent in (("methods", "dmin", "digits-mini"), ("", "detection-rate", "dmin")):
            monkeypatch.setenv("ATTRBENCH_LOAD_PLUGINS", value)
            registry.cache_clear()
            out = attrbench("list").out
            assert present in out
            assert absent not in out
    finally:
        monkeypatch.undo()
        registry.cache_clear()


def test_doctor_names_what_is_installed(attrbench):
    done = attrbench("doctor")
    assert "torch" in done.out
    assert "plugin   methods" in done.out


@pytest.mark.parametrize(("percent", "threads"), [(0.0, None), (50.0, 2), (100.0, 1)])
def test_doctor_says_how_many_threads_other_programs_leave_room_for(attrbench, monkeypatch, percent, threads):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: percent)
    said = attrbench("doctor").out
    assert ("hint" in said) == (threads is not None)
    assert threads is None or f"OMP_NUM_THREADS={threads} " in said


@pytest.mark.parametrize("arguments", [[], ["--options"], ["tasks", "--json"], ["plugins"]])
def test_listing_without_typer_writes_what_the_typer_command_writes(attrbench, capfd, arguments):
    from attrbench.cli.typer_app import run_typer

    quick = attrbench("list", *arguments)
    assert run_typer(["list", *arguments], debug=False) == 0
    assert capfd.readouterr().out == quick.out


def test_listing_imports_neither_typer_nor_rich():
    code = "import sys; sys.argv = ['attrbench', 'list', 'plugins']\nfrom attrbench.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: print({'typer', 'rich', 'logging'} & {*sys.modules})"
    environment = {**os.environ, "ATTRBENCH_LOAD_PLUGINS": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("wrong", [["list", "nothing"], ["list", "methods", "tasks"], ["list", "--optoins"]])
def test_a_listing_that_there_is_not_is_wrong_usage(attrbench, wrong):
    assert attrbench(*wrong).code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_of_each_command_what_the_command_says_of_itself(name):
    place, summary = COMMANDS[name]
    module, _, attribute = place.partition(":")
    command = getattr(importlib.import_module(f"attrbench.cli.{module}"), attribute)
    text = command.info.help if isinstance(command, typer.Typer) else inspect.getdoc(command)
    assert text.startswith(summary.removesuffix("."))
