"""Plugins of other packages: the example works as installed, a broken one is named and stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from attrbench.contracts.record import read_records
from tests import installing
from tests.installing import install, need_pip
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
    """Folders into which pip installed the two packages, and a folder of records that the first run left."""

    example: Path
    broken: Path
    records: Path

    def attrbench(self, *arguments: str, broken: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line with the example on the path, and with the broken package where asked."""
        folders = [self.example, *([self.broken] if broken else [])]
        cache = {"ATTRBENCH_CACHE": str(self.records.parent / "cache")}
        env = installing.environment(*folders, **(cache | environment))
        return subprocess.run(
            [*COMMAND, *arguments],
            env=env,
            cwd=self.records.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    need_pip()
    root = tmp_path_factory.mktemp("plugins")
    example, broken = (install(HERE / package, root) for package in ("example_plugin", "broken_plugin"))
    return Installed(example, broken, root / "records")


@pytest.fixture(scope="module")
def first_run(installed: Installed) -> subprocess.CompletedProcess[str]:
    return installed.attrbench(*RUN, "--out", str(installed.records))


def test_list_shows_the_method_and_the_task_with_their_provider(installed: Installed) -> None:
    done = installed.attrbench("list", "--json")
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
    installed: Installed, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    done = installed.attrbench("leaderboard", str(installed.records), "--format", "json")
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)
    assert table["task"] == "stripes-mini"
    rows = {row["method"]: row for row in table["rows"]}
    assert rows.keys() == LABELS
    assert {row["status"] for row in rows.values()} == {"complete"}
    assert rows["mean-color"]["value"] == 1.0  # the groups are colors
    assert rows["mean-color"]["storage_bytes"] == 60 * 3 * 4


def test_the_plugins_task_and_method_keep_to_the_contract_by_their_names(installed: Installed) -> None:
    done = installed.attrbench("check", "stripes-mini", "mean-color", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stdout
    task, method = sorted(json.loads(done.stdout), key=lambda report: "method" in report)
    assert (task["task"], method["method"]) == ("stripes-mini", "mean-color")
    statuses = {finding["check"]: finding["status"] for finding in task["checks"]}
    assert statuses["process"] == statuses["run"] == "passed"


def test_the_plugins_ground_truth_is_measured_on_its_task_and_on_no_other(
    installed: Installed, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    listing = json.loads(installed.attrbench("list", "ground-truths", "--json").stdout)
    entries = {entry["name"]: entry for entry in listing["ground-truths"]}
    assert entries["left-out-color"]["provider"] == "attrbench-example 0.1.0"
    assert [option["name"] for option in entries["left-out-color"]["options"]] == ["by"]
    assert entries["lds"]["provider"].startswith("attrbench ") and "removal" in entries
    assert "ground truth left-out-color: 4 models, trained in closed form" in first_run.stderr
    found = {}
    for path in installed.records.glob("stripes-mini/*.json"):
        record = json.loads(path.read_text())
        found[record["method"]["name"]] = record
    results = {name: record["metrics"][0] for name, record in found.items()}
    assert {result["metric"] for result in results.values()} == {"left-out-color-top1"}
    assert results["mean-color"]["value"] == 1.0 and results["random"]["value"] < 1.0
    assert found["mean-color"]["facts"]["mean_rise"] > 0
    other = ["run", "-m", "pixel", "-t", "stripes-mini", "--ground-truth", "left-out-color:by=max"]
    done = installed.attrbench(*other, "--out", str(installed.records.parent / "other"))
    assert done.returncode == 0, done.stderr
    wrong = installed.attrbench("run", "-m", "pixel", "-t", "stripes-mini", "--ground-truth", "removal")
    assert wrong.returncode == 2 and "does not apply to task stripes-mini" in wrong.stderr


def test_a_feature_kind_of_the_plugin_is_computed_stored_and_described(
    installed: Installed, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    assert "gradient norms by module" in first_run.stderr
    assert "weights edited for each query" in first_run.stderr
    records, problems = read_records(installed.records)
    assert not problems
    found = {record.method.name: record for record in records}
    layers = found["layer-profile"].storage.rows / (60 * 2 * 4)  # items, timesteps, float32
    assert layers > 10 and layers == int(layers)
    assert found["layer-profile"].storage.rows_on_disk > found["layer-profile"].storage.rows
    assert found["unlearn-step"].storage.rows == 60 * 2 * 4
    assert found["unlearn-step"].facts["step_length"] > 0
    kept = json.loads(installed.attrbench("cache", "ls", "--json").stdout)
    assert {"norms of layers", "losses under edited weights"} <= {entry["kind"] for entry in kept["artifacts"]}


def test_the_plugins_executor_writes_the_bytes_that_this_process_writes(installed: Installed, tmp_path: Path) -> None:
    shards = {}
    for executor in ("inline", "fresh-process:parallel=2"):
        cache = tmp_path / executor.partition(":")[0]
        arguments = ["run", "-t", "stripes-mini", "-m", "layer-profile:timesteps=2", "--executor", executor]
        done = installed.attrbench(
            *arguments, "--out", str(tmp_path / "records"), "--rerun", ATTRBENCH_CACHE=str(cache)
        )
        assert done.returncode == 0, done.stderr
        features = sorted((cache / "features").rglob("*.safetensors"))
        shards[executor] = {str(path.relative_to(cache)): path.read_bytes() for path in features}
    one, other = shards.values()
    assert one == other and len(one) == 2
    listing = json.loads(installed.attrbench("list", "executors", "--json").stdout)
    entries = {entry["name"]: entry for entry in listing["executors"]}
    assert entries["fresh-process"]["provider"] == "attrbench-example 0.1.0"
    assert [option["name"] for option in entries["fresh-process"]["options"]] == ["parallel", "minutes"]


def test_the_plugins_report_is_made_of_records_by_the_ending_of_its_file(
    installed: Installed, first_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    listing = json.loads(installed.attrbench("list", "reports", "--json").stdout)
    entries = {entry["name"]: entry for entry in listing["reports"]}
    assert entries["wins"]["provider"] == "attrbench-example 0.1.0" and "html" in entries
    metric = ("--metric", "detection-rate@10")
    done = installed.attrbench("report", str(installed.records), "-o", str(tmp_path / "wins.txt"), *metric)
    assert done.returncode == 0, done.stderr
    lines = dict(line.rsplit(" ", 1) for line in (tmp_path / "wins.txt").read_text().splitlines())
    records, _ = read_records(installed.records)
    assert lines["mean-color"] == str(records[0].coverage.queries)  # the groups are colors, so it is always right
    few = ("-o", str(tmp_path / "few.txt"), "--format", "wins:most=1", *metric)
    assert installed.attrbench("report", str(installed.records), *few).returncode == 0
    assert len((tmp_path / "few.txt").read_text().splitlines()) == 1
    page = installed.attrbench("report", str(installed.records), "-o", str(tmp_path / "page.html"))
    assert page.returncode == 0, page.stderr
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_a_task_file_names_a_folder_of_the_plugins_model_family(installed: Installed, tmp_path: Path) -> None:
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
    done = installed.attrbench(*arguments)
    assert done.returncode == 0, done.stderr
    records, problems = read_records(tmp_path / "records")
    assert not problems
    assert {record.method.name for record in records} == {"dmin", "pixel"}
    assert {(record.coverage.train_items, record.coverage.queries) for record in records} == {(5, 1)}
    without = installed.attrbench(*arguments, "--rerun", ATTRBENCH_LOAD_PLUGINS="methods")
    assert without.returncode == 1
    (line,) = without.stderr.splitlines()
    assert "DiTPipeline" in line and "StableDiffusionPipeline" in line


def test_a_broken_plugin_stops_no_command_and_is_named(
    installed: Installed, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stderr
    plugins = installed.attrbench("list", "plugins", broken=True)
    assert plugins.returncode == 0, plugins.stderr
    assert "attrbench-broken" in plugins.stdout
    assert "RuntimeError: out of order on purpose" in plugins.stdout
    again = installed.attrbench(*RUN, "--out", str(installed.records), broken=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(" on stripes-mini: ") == len(LABELS)
    table = installed.attrbench("leaderboard", str(installed.records), "--format", "md", broken=True)
    assert table.returncode == 0, table.stderr
    assert "mean-color" in table.stdout
    doctor = installed.attrbench("doctor", broken=True)
    assert "Traceback" not in doctor.stderr
    assert "plugin broken of attrbench-broken: RuntimeError: out of order on purpose" in doctor.stdout
    assert "(attrbench-example 0.1.0)" in doctor.stdout


def test_strict_mode_fails_with_one_line_that_names_the_broken_plugin(installed: Installed) -> None:
    done = installed.attrbench("list", broken=True, ATTRBENCH_STRICT_PLUGINS="1")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "attrbench-broken" in done.stderr
    assert "out of order on purpose" in done.stderr


def test_an_unknown_method_brings_up_the_broken_plugin(installed: Installed) -> None:
    done = installed.attrbench("run", "-m", "mean-shade", "-t", "stripes-mini", broken=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "mean-shade" in done.stderr
    assert "attrbench-broken" in done.stderr


def test_load_plugins_selects_by_entry_point_name(installed: Installed) -> None:
    done = installed.attrbench("list", "methods", "--json", broken=True, ATTRBENCH_LOAD_PLUGINS="example")
    assert [entry["name"] for entry in json.loads(done.stdout)["methods"]] == [
        "layer-profile",
        "mean-color",
        "unlearn-step",
    ]
