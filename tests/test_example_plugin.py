"""Plugins of other packages: the example works as installed, a broken one is named and stops nothing.

The first commands run in processes of their own; the others in this one, with the packages' folders on its path.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from attrbench.cli.app import main
from attrbench.contracts.record import read_records
from tests.cli.conftest import Done
from tests.installing import environment, importable, install, need_pip
from tests.models.dit_folder import write_dit

HERE = Path(__file__).parent
CONSOLE_SCRIPT = Path(sys.executable).with_name("attrbench")
COMMAND = (
    [str(CONSOLE_SCRIPT)]
    if CONSOLE_SCRIPT.is_file()
    else [sys.executable, "-c", "from attrbench.cli.app import main; main()"]
)
METHODS = ("mean-color", "random", "dmin:v=256,timesteps=2", "layer-profile:timesteps=2", "unlearn-step:timesteps=2")
RUN = ["run", *[part for method in METHODS for part in ("-m", method)], "-t", "stripes-mini"]
LABELS = set(METHODS)


DIT_TASK = """
[task]
name = "my-dit"
[model]
model = "model"
sampling_steps = 2
guidance_scale = 2.0
[train]
path = "images"
group_column = "text"
[queries]
prompts = ["red", "2"]
groups = ["red", "blue"]
seeds = "0-0"
"""


@dataclass(frozen=True)
class Installed:
    """Folders into which pip installed the two packages, and the folder in which commands work."""

    example: Path
    broken: Path
    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own, with the example on the path."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment(self.example, ATTRBENCH_CACHE=str(self.cache)),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    need_pip()
    root = tmp_path_factory.mktemp("plugins")
    return Installed(*install(root, HERE / "example_plugin", HERE / "broken_plugin"), root)


@dataclass(frozen=True)
class FirstRun:
    """The folder of records of a run, and what it said on standard error."""

    records: Path
    err: str


@pytest.fixture(scope="module")
def first_run(installed: Installed) -> FirstRun:
    done = installed.process(*RUN, "--out", str(installed.root / "records"))
    assert done.returncode == 0, done.stderr
    return FirstRun(installed.root / "records", done.stderr)


@pytest.fixture
def attrbench(installed: Installed, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process, with the example on the path, and with the broken package where asked."""

    def run(*arguments: str, broken: bool = False, **variables: str) -> Done:
        folders = [installed.example, *([installed.broken] if broken else [])]
        with importable(*folders, **({"ATTRBENCH_CACHE": str(installed.cache)} | variables)) as patch:
            patch.chdir(installed.root)
            patch.setattr(sys, "argv", ["attrbench", *arguments])
            capfd.readouterr()
            with pytest.raises(SystemExit) as stop:
                main()
        return Done(int(stop.value.code or 0), *capfd.readouterr())

    return run


def test_list_shows_the_method_and_the_task_with_their_provider(installed: Installed) -> None:
    done = installed.process("list", "--json")
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout)
    methods = {entry["name"]: entry for entry in listing["methods"]}
    tasks = {entry["name"]: entry for entry in listing["tasks"]}
    assert methods["mean-color"]["provider"] == "attrbench-example 0.1.0"
    assert [option["name"] for option in methods["mean-color"]["options"]] == ["distance"]
    assert methods["mean-color"]["options"][0]["meaning"]
    assert tasks["stripes-mini"]["provider"] == "attrbench-example 0.1.0"
    assert "untrained" in tasks["stripes-mini"]["meta"]["notes"]
    assert methods["dmin"]["provider"].startswith("attrbench ")


def test_run_and_leaderboard_work_with_the_plugins_task_and_method(
    attrbench: Callable[..., Done], first_run: FirstRun
) -> None:
    done = attrbench("leaderboard", str(first_run.records), "--format", "json")
    assert done.code == 0, done.err
    (table,) = json.loads(done.out)
    assert table["task"] == "stripes-mini"
    rows = {row["method"]: row for row in table["rows"]}
    assert rows.keys() == LABELS
    assert {row["status"] for row in rows.values()} == {"complete"}
    assert rows["mean-color"]["value"] == 1.0  # the groups are colors
    assert rows["mean-color"]["storage_bytes"] == 60 * 3 * 4


def test_the_plugins_task_and_method_keep_to_the_contract_by_their_names(attrbench: Callable[..., Done]) -> None:
    done = attrbench("check", "stripes-mini", "mean-color", "--device", "cpu", "--json")
    assert done.code == 0, done.out
    task, method = sorted(json.loads(done.out), key=lambda report: "method" in report)
    assert (task["task"], method["method"]) == ("stripes-mini", "mean-color")
    statuses = {finding["check"]: finding["status"] for finding in task["checks"]}
    assert statuses["process"] == statuses["run"] == "passed"


def test_the_plugins_ground_truth_is_measured_on_its_task_and_on_no_other(
    attrbench: Callable[..., Done], first_run: FirstRun
) -> None:
    listing = json.loads(attrbench("list", "ground-truths", "--json").out)
    entries = {entry["name"]: entry for entry in listing["ground-truths"]}
    assert entries["left-out-color"]["provider"] == "attrbench-example 0.1.0"
    assert [option["name"] for option in entries["left-out-color"]["options"]] == ["by"]
    assert entries["lds"]["provider"].startswith("attrbench ") and "removal" in entries
    assert "ground truth left-out-color: 4 models, trained in closed form" in first_run.err
    found = {}
    for path in first_run.records.glob("stripes-mini/*.json"):
        record = json.loads(path.read_text())
        found[record["method"]["name"]] = record
    results = {name: record["metrics"][0] for name, record in found.items()}
    assert {result["metric"] for result in results.values()} == {"left-out-color-top1"}
    assert results["mean-color"]["value"] == 1.0 and results["random"]["value"] < 1.0
    assert found["mean-color"]["facts"]["mean_rise"] > 0
    other = ["run", "-m", "pixel", "-t", "stripes-mini", "--ground-truth", "left-out-color:by=max"]
    done = attrbench(*other, "--out", str(first_run.records.parent / "other"))
    assert done.code == 0, done.err
    wrong = attrbench("run", "-m", "pixel", "-t", "stripes-mini", "--ground-truth", "removal")
    assert wrong.code == 2 and "does not apply to task stripes-mini" in wrong.err


def test_a_feature_kind_of_the_plugin_is_computed_stored_and_described(
    attrbench: Callable[..., Done], first_run: FirstRun
) -> None:
    assert "gradient norms by module" in first_run.err
    assert "weights edited for each query" in first_run.err
    records, problems = read_records(first_run.records)
    assert not problems
    found = {record.method.name: record for record in records}
    layers = found["layer-profile"].storage.rows / (60 * 2 * 4)  # items, timesteps, float32
    assert layers > 10 and layers == int(layers)
    assert found["layer-profile"].storage.rows_on_disk > found["layer-profile"].storage.rows
    assert found["unlearn-step"].storage.rows == 60 * 2 * 4
    assert found["unlearn-step"].facts["step_length"] > 0
    kept = json.loads(attrbench("cache", "ls", "--json").out)
    assert {"norms of layers", "losses under edited weights"} <= {entry["kind"] for entry in kept["artifacts"]}


def test_the_plugins_executor_writes_the_bytes_that_this_process_writes(
    attrbench: Callable[..., Done], tmp_path: Path
) -> None:
    shards = {}
    for executor in ("inline", "fresh-process:parallel=2"):
        cache = tmp_path / executor.partition(":")[0]
        arguments = ["run", "-t", "stripes-mini", "-m", "layer-profile:timesteps=2", "--executor", executor]
        done = attrbench(*arguments, "--out", str(tmp_path / "records"), "--rerun", ATTRBENCH_CACHE=str(cache))
        assert done.code == 0, done.err
        features = sorted((cache / "features").rglob("*.safetensors"))
        shards[executor] = {str(path.relative_to(cache)): path.read_bytes() for path in features}
    one, other = shards.values()
    assert one == other and len(one) == 2
    listing = json.loads(attrbench("list", "executors", "--json").out)
    entries = {entry["name"]: entry for entry in listing["executors"]}
    assert entries["fresh-process"]["provider"] == "attrbench-example 0.1.0"
    assert [option["name"] for option in entries["fresh-process"]["options"]] == ["parallel", "minutes"]


def test_the_plugins_report_is_made_of_records_by_the_ending_of_its_file(
    attrbench: Callable[..., Done], first_run: FirstRun, tmp_path: Path
) -> None:
    listing = json.loads(attrbench("list", "reports", "--json").out)
    entries = {entry["name"]: entry for entry in listing["reports"]}
    assert entries["wins"]["provider"] == "attrbench-example 0.1.0" and "html" in entries
    metric = ("--metric", "detection-rate@10")
    done = attrbench("report", str(first_run.records), "-o", str(tmp_path / "wins.txt"), *metric)
    assert done.code == 0, done.err
    lines = dict(line.rsplit(" ", 1) for line in (tmp_path / "wins.txt").read_text().splitlines())
    records, _ = read_records(first_run.records)
    assert lines["mean-color"] == str(records[0].coverage.queries)  # the groups are colors, so it is always right
    few = ("-o", str(tmp_path / "few.txt"), "--format", "wins:most=1", *metric)
    assert attrbench("report", str(first_run.records), *few).code == 0
    assert len((tmp_path / "few.txt").read_text().splitlines()) == 1
    page = attrbench("report", str(first_run.records), "-o", str(tmp_path / "page.html"))
    assert page.code == 0, page.err
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_a_task_file_names_a_folder_of_the_plugins_model_family(attrbench: Callable[..., Done], tmp_path: Path) -> None:
    write_dit(tmp_path / "model")
    colors = {"red": (220, 20, 20), "lime": (20, 220, 20), "blue": (20, 20, 220)}
    (tmp_path / "images").mkdir()
    lines = ["file_name,text"]
    for index, label in enumerate([*colors, *colors]):
        Image.new("RGB", (16, 16), colors[label]).save(tmp_path / "images" / f"{index}.png")
        lines.append(f"{index}.png,{label}")
    (tmp_path / "images" / "metadata.csv").write_text("\n".join(lines))
    (tmp_path / "dit.toml").write_text(DIT_TASK)
    methods = ("-m", "dmin:v=64,timesteps=2", "-m", "pixel")
    limits = ("--limit-train", "5", "--limit-queries", "1", "--device", "cpu")
    arguments = ("run", "-t", str(tmp_path / "dit.toml"), *methods, *limits, "--out", str(tmp_path / "records"))
    done = attrbench(*arguments)
    assert done.code == 0, done.err
    records, problems = read_records(tmp_path / "records")
    assert not problems
    assert {record.method.name for record in records} == {"dmin", "pixel"}
    assert {(record.coverage.train_items, record.coverage.queries) for record in records} == {(5, 1)}
    without = attrbench(*arguments, "--rerun", ATTRBENCH_LOAD_PLUGINS="methods")
    assert without.code == 1
    (line,) = without.err.splitlines()
    assert "DiTPipeline" in line and "StableDiffusionPipeline" in line


def test_a_broken_plugin_stops_no_command_and_is_named(attrbench: Callable[..., Done], first_run: FirstRun) -> None:
    plugins = attrbench("list", "plugins", broken=True)
    assert plugins.code == 0, plugins.err
    assert "attrbench-broken" in plugins.out
    assert "RuntimeError: out of order on purpose" in plugins.out
    again = attrbench(*RUN, "--out", str(first_run.records), broken=True)
    assert again.code == 0, again.err
    assert again.out.count(" on stripes-mini: ") == len(LABELS)
    table = attrbench("leaderboard", str(first_run.records), "--format", "md", broken=True)
    assert table.code == 0, table.err
    assert "mean-color" in table.out
    doctor = attrbench("doctor", broken=True)
    assert "Traceback" not in doctor.err
    assert "plugin broken of attrbench-broken: RuntimeError: out of order on purpose" in doctor.out
    assert "(attrbench-example 0.1.0)" in doctor.out


def test_strict_mode_fails_with_one_line_that_names_the_broken_plugin(attrbench: Callable[..., Done]) -> None:
    done = attrbench("list", broken=True, ATTRBENCH_STRICT_PLUGINS="1")
    assert done.code != 0
    assert len(done.err.splitlines()) == 1
    assert "attrbench-broken" in done.err
    assert "out of order on purpose" in done.err


def test_an_unknown_method_brings_up_the_broken_plugin(attrbench: Callable[..., Done]) -> None:
    done = attrbench("run", "-m", "mean-shade", "-t", "stripes-mini", broken=True)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "mean-shade" in done.err
    assert "attrbench-broken" in done.err


def test_load_plugins_selects_by_entry_point_name(attrbench: Callable[..., Done]) -> None:
    done = attrbench("list", "methods", "--json", broken=True, ATTRBENCH_LOAD_PLUGINS="example")
    assert [entry["name"] for entry in json.loads(done.out)["methods"]] == [
        "layer-profile",
        "mean-color",
        "unlearn-step",
    ]
