"""The command `attrbench doctor`, which checks that this machine is set up for running attrbench."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import psutil
import typer

from attrbench.cli.common import RESULTS, Debug
from attrbench.plugins import registry as plugins

ENOUGH_DISK = 5e9
LOOK_S = 0.2
"""How long to look at what other programs do."""


def doctor(debug: Debug = False) -> None:
    """Check Python, libraries, device, memory, disk and plugins; exit 1 where something is wrong."""
    problems = [problem for check in (_libraries, _device, _disk, _plugins) for problem in check()]
    for problem in problems:
        typer.echo(f"PROBLEM  {problem}")
    if problems:
        raise typer.Exit(1)
    typer.echo("everything is in order")


def _libraries() -> list[str]:
    typer.echo(f"python   {platform.python_version()} on {platform.platform()}")
    problems = []
    for name, module in (
        ("torch", "torch"),
        ("diffusers", "diffusers"),
        ("datasets", "datasets"),
        ("pillow", "PIL"),
        ("safetensors", "safetensors"),
        ("numkong", "numkong"),
        ("scipy", "scipy"),
        ("scikit-image", "skimage"),
        ("hnswlib", "hnswlib"),
        ("faiss-cpu", "faiss"),
    ):
        try:
            __import__(module)
            typer.echo(f"library  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"library  {name} (version unknown)")
        except Exception as error:
            problems.append(f"{name} does not import ({type(error).__name__}: {error}); try 'pip install {name}'")
    return problems


def _device() -> list[str]:
    try:
        import torch  # where it does not import, this command says so
    except ImportError:
        return []
    typer.echo(
        f"memory   {psutil.virtual_memory().total / 1e9:.1f} GB, {psutil.virtual_memory().available / 1e9:.1f} GB free"
    )
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    typer.echo(f"cpu      {cores} cores, torch uses {threads} threads")
    busy = round(cores * psutil.cpu_percent(interval=LOOK_S) / 100)
    idle = max(1, cores - busy)
    if threads > idle:  # threads that share a core wait for each other at every operation: many times slower
        typer.echo(
            f"hint     other programs keep {busy} of {cores} cores busy; OMP_NUM_THREADS={idle} is faster"
            " until they end"
        )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            typer.echo(f"gpu      {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    else:
        typer.echo("gpu      none: mini tasks run on the CPU")
    return []


def _disk() -> list[str]:
    folder = RESULTS if RESULTS.exists() else Path()
    free = shutil.disk_usage(folder).free
    typer.echo(f"disk     {free / 1e9:.1f} GB free in {folder.resolve()}")
    problems = []
    if free < ENOUGH_DISK:
        problems.append(
            f"less than {ENOUGH_DISK / 1e9:.0f} GB free in {folder.resolve()}; use --out and --cache elsewhere"
        )
    if not os.access(folder, os.W_OK):
        problems.append(f"{folder.resolve()} is not writable; use --out elsewhere")
    return problems


def _plugins() -> list[str]:
    problems = []
    for plugin in plugins.registry().plugins:
        if plugin.error:
            problems.append(f"plugin {plugin.name} of {plugin.distribution}: {plugin.error}")
        else:
            typer.echo(f"plugin   {plugin.name} ({plugin.distribution} {plugin.version})")
    return problems
