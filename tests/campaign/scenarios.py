"""The commands that trials disturb: every verb that writes, on tasks of a moment, and what each of them leaves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from attrbench.contracts.record import TUNING_RUNS
from attrbench.store.locks import LOCK
from attrbench_tasks.training.training_state import STATE
from tests.campaign.inputs import SOURCES
from tests.faults.conftest import records_of, results_of

DAY = 86400


@dataclass(frozen=True)
class Scenario:
    """One command.

    Attributes:
        name: of the verb, with what is special.
        command: the command line, with places for the folders `inputs`, `cache` and `out`.
        results: what counts, from the folder that it worked in and its standard output.
        after: the scenario in whose finished folder it starts; empty for none.
        prepare: changes that folder before it starts.
        keeps: whether sealed files that are there when it starts must stay as they are.
        refuses: words by which it refuses results of its own that are damaged, where it does not make them again.
    """

    name: str
    command: str
    results: Callable[[Path, str], Any]
    after: str = ""
    prepare: Callable[[Path], None] = lambda work: None
    keeps: bool = True
    refuses: str = ""

    def arguments(self, inputs: Path, work: Path) -> list[str]:
        """Return the arguments of the command that works below `work`."""
        places = {"inputs": inputs, "cache": work / "cache", "out": work / "out"}
        return [part.format(**places) for part in shlex.split(self.command)]


def contents(folder: Path) -> dict[str, str]:
    """Return path -> hash of all files below a folder but locks and part files, whose presence means nothing."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != LOCK and ".part-" not in path.name
    }


def _records(work: Path, out: str) -> Any:
    return results_of(work / "out")


def _tuned(work: Path, out: str) -> Any:
    """Return what was chosen and tried; a record that says that a value failed is of a run that ended with an error."""
    chosen = {label: found for label, found in results_of(work / "out").items() if not _failed_values(work, label)}
    return [chosen, results_of(work / "cache" / TUNING_RUNS)]


def _failed_values(work: Path, label: str) -> bool:
    tuned = records_of(work / "out")[label].tuned
    return tuned is not None and any(tried.value is None for tried in tuned.tried)


def _answer(work: Path, out: str) -> Any:
    document = json.loads(out)
    sheets = [hashlib.sha256(Path(sheet).read_bytes()).hexdigest() for sheet in document.pop("sheets")]
    document.pop("sheet")
    return [document, sheets]


def _output(work: Path, out: str) -> Any:
    return re.sub(r" in \d\S* s|\d+\.\d+ s", "", out.replace(str(work), "WORK"))


def _weights(work: Path, out: str) -> Any:
    """Return hashes of the weights; a state that could not be removed is gone after the next run."""
    found = contents(work / "out").items()
    return {name: digest for name, digest in found if name.endswith(".safetensors") and STATE not in name}


def _written(work: Path, out: str) -> Any:
    return contents(work / "out")


def _bank(work: Path, out: str) -> Any:
    (bank,) = (work / "cache" / "ground-truth").rglob("*.safetensors")
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in load_file(bank).items()}


def _whole_cache(work: Path, out: str) -> Any:
    return contents(work / "cache")


def _with_garbage(work: Path) -> None:
    """Add a shard that was cut, part files, and a lock of a run that is gone, all of long ago."""
    cache = work / "cache"
    shards = sorted((cache / "features").rglob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    for number, shard in enumerate(shards[:4]):
        shard.with_name(f"{shard.name}.part-{2**22 - number}-ab").write_bytes(b"half")
    (cache / "features" / "some.lock").touch()
    long_ago = time.time() - 3 * DAY
    for path in cache.rglob("*"):
        os.utime(path, (long_ago, long_ago))


OWN = "-t {inputs}/folder.toml --cache {cache} --out {out} --device cpu"
TABLE = "-t {inputs}/table.toml --cache {cache} --out {out} --device cpu"
PREPARE = " ".join(f"--source {name}={{inputs}}/sources/{name}" for name in SOURCES)
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("run", f"run -m pixel:similarity=l2 -m dmin:v=32,timesteps=1,search=hnsw {OWN}", _records),
        Scenario("run again", f"run -m trak:v=16,timesteps=1 -m pixel:similarity=l2 {OWN}", _records, "run"),
        Scenario("run with factors", f"run -m ekfac:draws=16,timesteps=1 {OWN}", _records, "run"),
        Scenario("run on a table", f"run -m grad-dot:timesteps=1 {TABLE}", _records),
        Scenario("tune", f"tune -m 'dmin:timesteps=1,v=16|32' {TABLE}", _tuned, "run on a table"),
        Scenario(
            "attribute",
            f"attribute -m dmin:timesteps=1,v=16 --image {{inputs}}/picture.png --json {OWN}",
            _answer,
            "run",
        ),
        Scenario(
            "train",
            "train campaign-trainable --out {out}/model --device cpu",
            _weights,
            refuses="is not as its training left it",
        ),
        Scenario("prepare", f"prepare mixture:resolution=8 {PREPARE} --cache {{cache}} --out {{out}}/data", _written),
        Scenario(
            "ground-truth build",
            "ground-truth build campaign-trainable --subsets 2 --seeds 1 --timesteps 2 --draws 1 --cache {cache}"
            " --device cpu",
            _bank,
        ),
        Scenario(
            "run with ground truth",
            "run -m pixel -t campaign-trainable --cache {cache} --out {out} --device cpu",
            _records,
            "ground-truth build",
        ),
        Scenario("cache gc", "cache gc --cache {cache}", _whole_cache, "run", _with_garbage, keeps=False),
        Scenario("cache verify", "cache verify --cache {cache}", _output, "run"),
        Scenario("cache ls", "cache ls --json --cache {cache}", _output, "run"),
        Scenario("leaderboard", "leaderboard {out} --format json", _output, "run"),
        Scenario("new task", "new task {out}/mine.toml --force", _written),
    )
}
