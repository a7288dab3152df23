"""Whatever byte of whatever file below the cache flips: `verify` names the file, and the next run has equal results."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from attrbench.contracts.record import TUNING_RUNS
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.ground_truth import retraining
from attrbench.ground_truth.bank import BankPlan, built_bank
from attrbench.ground_truth.build import BankBuild, Code, make_whole
from attrbench.ground_truth.retraining import measured, run_trainings
from attrbench.store.checksums import SEAL, Seal, seal_path
from attrbench_methods.kernel import ridge
from attrbench_tasks.training import loop
from attrbench_tasks.training.train_ddpm import scaled, train_ddpm
from attrbench_tasks.training.training_request import REQUEST_FILE
from tests.data.test_tables import table
from tests.faults.conftest import results_of
from tests.ground_truth.tiny_trainable import setting
from tests.taskfile.making import write_task
from tests.tasks.tiny_removal import RECIPE, bars, job_without, no_stage

SEED = 15
SAMPLE = 10
"""Files of each cache that are damaged one by one: the first of each kind, then others at random."""


@dataclass
class Kept:
    """A cache as a run left it, and how to run again on it: the function returns what the run found."""

    folder: Path
    run: Callable[[], object]

    def files(self) -> list[Path]:
        """All files with a byte to flip."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size)

    def kinds(self) -> set[str]:
        return {path.relative_to(self.folder).parts[0] for path in self.files()}

    def kind(self, path: Path) -> str:
        """What the seal of a file says that it is, or the folder at the top of the cache."""
        seal = seal_path(path)
        return Seal.read(seal).kind if seal.exists() else path.relative_to(self.folder).parts[0]

    def sample(self) -> list[Path]:
        files, moments = self.files(), random.Random(SEED)
        moments.shuffle(files)
        first = {(self.kind(path), "".join(path.suffixes[-2:])): path for path in files}
        others = [path for path in files if path not in first.values()]
        return [*first.values(), *others][: max(SAMPLE, len(first))]


def flip(path: Path, moments: random.Random) -> bytes:
    """Flip one bit of a file at random, and return its content."""
    data = bytearray(path.read_bytes())
    data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
    path.write_bytes(data)
    return bytes(data)


def assert_found_and_harmless(kept: Kept, attrbench, caplog, expected: object) -> None:
    def verify():
        return attrbench("cache", "verify", "--cache", kept.folder)

    moments, whole = random.Random(SEED), kept.folder.with_name("whole")
    shutil.copytree(kept.folder, whole)
    assert verify().code == 0 and "unknown" not in verify().out
    for path in kept.sample():
        name = path.relative_to(kept.folder).as_posix()
        damaged = flip(path, moments)
        found = verify()
        assert found.code == 1, name
        named = [line.partition(": ")[0] for line in found.out.splitlines()[:-1]]
        assert named and all(path.is_relative_to(each) for each in named), (name, found.out)
        caplog.clear()
        assert kept.run() == expected, name
        warnings = [message for message in caplog.messages if "damaged" in message]
        if path.exists() and path.read_bytes() == damaged:  # it is not read: nothing else in its place matters either
            path.write_bytes(b"garbage")
            assert kept.run() == expected and path.read_bytes() == b"garbage", name
        else:
            least = 0 if path.name == REQUEST_FILE + SEAL else 1  # the request itself is that of the training
            assert verify().code == 0 and least <= len(warnings) <= 1, (name, warnings)
        shutil.rmtree(kept.folder)
        shutil.copytree(whole, kept.folder)


METHODS = (
    "dmin:v=32,timesteps=1,search=hnsw",
    "ekfac:draws=16,timesteps=1",
    "trak:v=16,timesteps=1",
    "pixel:similarity=l2",
)


def test_features_indexes_images_tables_and_tuning_records(attrbench, caplog, tmp_path, tiny_folder, monkeypatch):
    (tmp_path / "table").mkdir()
    table(12).rename_column("kind", "group").to_parquet(tmp_path / "table" / "train.parquet")
    tables = {
        "model": {"model": str(tiny_folder), "sampling_steps": 2},
        "train": {"path": "table"},
        "queries": {"seeds": "0-1", "groups": ["even", "odd"]},
        "tuning": {"seeds": "5-6", "groups": ["even", "odd"]},
    }
    task, cache = write_task(tmp_path / "own.toml", **tables), tmp_path / "cache"
    monkeypatch.setattr(ridge, "KEPT", 1)

    def run():
        out = Path(tempfile.mkdtemp(dir=tmp_path))
        methods = [part for method in METHODS for part in ("-m", method)]
        done = attrbench("run", *methods, "-t", task, "--cache", cache, "--out", out, "--device", "cpu")
        tuned = attrbench(
            "tune", "-m", "dmin:timesteps=1,v=16|32", "-t", task, "--cache", cache, "--out", out, "--device", "cpu"
        )
        assert done.code == tuned.code == 0, done.out + done.err + tuned.err
        return results_of(out), results_of(cache / TUNING_RUNS)

    outputs, calls = GradientPass._outputs, []

    def one_failure(self, *arguments):
        calls.append(1)
        return outputs(self, *arguments) if len(calls) != 1 else None

    with monkeypatch.context() as patch:
        patch.setattr(GradientPass, "_outputs", one_failure)
        expected = run()
    kept = Kept(cache, run)
    assert kept.kinds() >= {"batch-sizes", "datasets", "digests", "features", "methods", "queries", TUNING_RUNS}
    assert "decoded images" in map(kept.kind, kept.sample())
    assert any("factors" in path.name for path in kept.files()) and any(
        "spectrum" in path.name for path in kept.files()
    )
    assert_found_and_harmless(kept, attrbench, caplog, expected)


@pytest.mark.slow
def test_assembled_pipelines(attrbench, caplog, tmp_path):
    cache = tmp_path / "cache"

    def run():
        out = Path(tempfile.mkdtemp(dir=tmp_path))
        methods = ("-m", "grad-dot:timesteps=1", "-m", "latent")
        limits = ("-t", "sd14-lora-mini:queries_per_group=1", "--limit-train", "8", "--limit-queries", "2")
        done = attrbench("run", *methods, *limits, "--cache", cache, "--out", out, "--device", "cpu")
        assert done.code == 0, done.err
        return results_of(out)

    expected = run()
    kept = Kept(cache, run)
    assert "pipelines" in kept.kinds()
    assert_found_and_harmless(kept, attrbench, caplog, expected)


def test_banks_and_the_measurements_that_they_are_made_of(attrbench, caplog, tmp_path):
    opened = setting(tmp_path / "cache")
    opened.opened.__dict__["denoiser"] = setting(tmp_path / "elsewhere").opened.denoiser
    work = BankBuild(opened, BankPlan(subsets=2, seeds=1, steps=2, draws=1))
    bank = built_bank(opened.task, opened.workspace.cache)

    def run():
        work.train(no_stage)
        make_whole(bank, opened)
        return bank.read_bytes(), [measured(job)["losses"].tobytes() for job in work.jobs]

    work.train(no_stage)
    work.bank(Code("digest", None)).write(bank)
    kept = Kept(tmp_path / "cache", run)
    assert kept.kinds() == {"ground-truth", "retrained"}
    assert_found_and_harmless(kept, attrbench, caplog, run())


@pytest.fixture
def whole_model(tmp_path):
    images = scaled(bars()[0])
    return train_ddpm(RECIPE, images, tmp_path / "model", device=torch.device("cpu"), report=lambda step, loss: None)


def interrupted(*arguments):
    raise KeyboardInterrupt


def interrupted_after(last, update):
    def stopping(recipe, average, parameters, step):
        update(recipe, average, parameters, step)
        if step == last:
            raise KeyboardInterrupt

    return stopping


@pytest.mark.parametrize("moment", ["training", "drawing"])
def test_what_an_unfinished_retraining_left(attrbench, caplog, tmp_path, whole_model, monkeypatch, moment):
    job, undisturbed = (job_without(whole_model, tmp_path / name, (1, 2, 5), 0) for name in ("cache", "undisturbed"))
    run_trainings([undisturbed], no_stage)
    with monkeypatch.context() as patch:
        if moment == "drawing":
            patch.setattr(retraining, "draw", interrupted)
        else:
            patch.setattr(loop, "_average", interrupted_after(5, loop._average))
        with pytest.raises(KeyboardInterrupt):
            run_trainings([job], no_stage)

    def run():
        run_trainings([job], no_stage)
        return measured(job)["images"].tobytes()

    kept = Kept(tmp_path / "cache", run)
    assert "retrained" in kept.kinds()
    assert {"training-request.json"} <= {path.name for path in kept.files()}
    assert_found_and_harmless(kept, attrbench, caplog, measured(undisturbed)["images"].tobytes())
