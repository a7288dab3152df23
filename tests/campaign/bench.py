"""The place where trials run: the inputs, each command's undisturbed run, and a folder for every trial."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

import torch
import typer.main

from attrbench.cli import typer_app
from attrbench.evaluation.provenance import installed_packages
from tests.campaign.children import Child, Done, command, finished
from tests.campaign.inputs import register, write_inputs
from tests.campaign.scenarios import SCENARIOS, Scenario
from tests.faults.injection import Fault


@dataclass(frozen=True)
class Undisturbed:
    """One run of a command that nothing disturbed.

    Attributes:
        start, end: the folder before and after.
        results: what counts, as JSON.
        seconds: how long it took.
        operations: (kind, path) of its file operations below that folder.
    """

    start: Path
    end: Path
    results: str
    seconds: float
    operations: list[tuple[str, str]]


@dataclass
class Bench:
    """The folders of a campaign, whose undisturbed runs are made on first use, in children.

    Args:
        folder: an empty folder; everything goes below it.
    """

    folder: Path
    _undisturbed: dict[str, Undisturbed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        os.environ["ATTRBENCH_CACHE"] = str(self.folder / "default-cache")
        for place, _ in typer_app.COMMANDS.values():
            import_module(f"attrbench.cli.{place.partition(':')[0]}")
        typer.main.get_command = cache(typer.main.get_command)  # most of the time of a command line that is refused
        typer_app.command_line = cache(typer_app.command_line)
        metadata.version = cache(metadata.version)
        register(self.inputs)
        self.inputs.mkdir(parents=True)
        done = finished(Child(lambda: write_inputs(self.inputs), self.folder / "inputs-made"))
        if done.code != 0:
            raise RuntimeError(done.err)

    @property
    def inputs(self) -> Path:
        """The folder of models, images and task files."""
        return self.folder / "inputs"

    def run(self, scenario: Scenario, root: Path, fault: Fault | None = None) -> Done:
        """Run a scenario's command below `root` to its end."""
        return finished(self.start(scenario, root, fault))

    def start(self, scenario: Scenario, root: Path, fault: Fault | None = None) -> Child:
        """Start a scenario's command below `root`."""
        return command(scenario.arguments(self.inputs, root / "work"), root, fault)

    def results(self, scenario: Scenario, root: Path, done: Done) -> str:
        """Return what counts of a finished command, as JSON that can be compared."""
        found = scenario.results(root / "work", done.out)
        text = json.dumps(found, sort_keys=True, default=lambda part: part.model_dump(mode="json"))
        return text.replace(str(root), "ROOT")

    def undisturbed(self, name: str) -> Undisturbed:
        """Return the undisturbed run of a scenario; the first time it is run twice, and must end the same."""
        if name not in self._undisturbed:
            self._undisturbed[name] = self._run_undisturbed(SCENARIOS[name])
        return self._undisturbed[name]

    def _run_undisturbed(self, scenario: Scenario) -> Undisturbed:
        start = self.folder / "starts" / scenario.name
        (start / "work").mkdir(parents=True)
        if scenario.after:
            shutil.copytree(self.undisturbed(scenario.after).end / "work", start / "work", dirs_exist_ok=True)
        scenario.prepare(start / "work")
        noted, timed = (self.folder / name / scenario.name for name in ("noted", "timed"))
        first = self._checked(scenario, start, noted, noted / "seen.json")
        seen = json.loads((noted / "seen.json").read_bytes())
        for module in seen["modules"]:
            with suppress(Exception):  # what a library tried and did without
                import_module(module)
        began = time.monotonic()
        if self._checked(scenario, start, timed) != first:
            raise RuntimeError(f"{scenario.name} does not give the same results each time")
        seconds = time.monotonic() - began
        installed_packages()  # asks for the versions of what was imported now, for all children
        gc.collect()
        gc.freeze()  # else each child's collector would touch, and so copy, what it shares with this process
        return Undisturbed(start, timed, first, seconds, [(kind, path) for kind, path in seen["operations"]])

    def _checked(self, scenario: Scenario, start: Path, root: Path, note: Path | None = None) -> str:
        shutil.copytree(start, root)
        done = finished(command(scenario.arguments(self.inputs, root / "work"), root, note=note))
        if done.code != 0:
            raise RuntimeError(f"the undisturbed {scenario.name} failed:\n{done.out}{done.err}")
        return self.results(scenario, root, done)

    @contextmanager
    def copied(self, source: Path, part: str, trial: int) -> Iterator[Path]:
        """Yield a copy of a folder for one trial, which is removed afterwards."""
        root = self.folder / "trials" / f"{part}-{trial}-{os.getpid()}"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(source, root)
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)
