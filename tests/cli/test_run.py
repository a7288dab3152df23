import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attrbench.contracts.record import Record, read_records
from tests.cli.conftest import SMALL
from tests.shard_files import digit_key, shard_files

TIMES = {"created": True, "latency": True, "peak_memory_bytes": True, "hardware": {"load"}}


def only_record(folder: Path) -> Record:
    records, problems = read_records(folder)
    assert not problems
    assert len(records) == 1
    return records[0]


def without_times(record: Record) -> dict:
    return record.model_dump(exclude=TIMES)


def test_a_run_leaves_a_record_that_repeats_itself(attrbench, tmp_path, cache):
    method = "dmin:v=256,timesteps=2"
    assert attrbench("run", "-m", method, *SMALL, "--out", tmp_path / "a", "--cache", cache).code == 0
    record = only_record(tmp_path / "a")
    assert record.status == "limited"
    assert record.method.label == method
    assert record.command.startswith(f"attrbench run -m {method} -t digits-mini:queries_per_group=1 --limit-train 128")
    assert record.metric("detection-rate@10").random == pytest.approx(0.1, abs=0.05)
    assert len(record.ranking) == record.coverage.queries == 10
    assert record.storage.rows == 128 * 2 * 256 * 4
    assert record.storage.shared == 8
    again = record.command.split()[1:]
    assert attrbench(*again, "--out", tmp_path / "b", "--cache", cache).code == 0
    assert without_times(only_record(tmp_path / "b")) == without_times(record)


def test_a_second_run_reuses_the_record_and_rerun_does_not(attrbench, tmp_path, cache):
    arguments = ("run", "-m", "pixel", *SMALL, "--out", tmp_path, "--cache", cache)
    attrbench(*arguments)
    path = next(tmp_path.rglob("pixel*.json"))
    before = path.stat().st_mtime_ns
    assert "already there" in attrbench(*arguments).out
    assert path.stat().st_mtime_ns == before
    assert "already there" not in attrbench(*arguments, "--rerun").out
    assert path.stat().st_mtime_ns > before


def test_another_batch_size_and_backend_give_the_same_ranking_of_scores(attrbench, tmp_path, cache):
    """Rows agree to rounding; so do the per-query values, where no two scores are closer than that."""
    records = []
    for name, extra in (("a", ["--batch-size", "64"]), ("b", ["--batch-size", "7"]), ("c", ["--backend", "loop"])):
        out = tmp_path / name
        method = "dmin:v=256,timesteps=2,noise_seed=5"
        task = (*SMALL[:2], "--limit-train", "40", "--limit-queries", "3")
        assert attrbench("run", "-m", method, *task, "--out", out, "--cache", out / "cache", *extra).code == 0
        records.append(only_record(out))
    for other in records[1:]:
        same = sum(
            a == b for x, y in zip(records[0].ranking, other.ranking, strict=True) for a, b in zip(x, y, strict=True)
        )
        assert same >= 0.95 * 3 * 40


def test_methods_share_one_pass(attrbench, tmp_path):
    methods = ["grad-dot", "dmin:v=256|512", "dmin:v=256,normalize=false", "dmin:v=none"]
    done = attrbench(
        "run",
        *(part for method in methods for part in ("-m", method)),
        *SMALL,
        "--out",
        tmp_path,
        "--dry-run",
    )
    assert done.code == 0
    passes = [line for line in done.err.splitlines() if line.startswith("gradients of")]
    assert len(passes) == 2  # one over the training set, one over the queries
    train = next(line for line in passes if "train items" in line)
    assert all(method in train for method in ("grad-dot", "dmin:v=256", "dmin:v=512", "dmin:v=none"))
    assert not list(tmp_path.rglob("digits-mini/*.json"))


def test_a_sweep_runs_every_combination_and_doubles_once(attrbench, tmp_path, cache):
    done = attrbench(
        "run", "-m", "pixel:similarity=cosine|l2|dot", "-m", "pixel", *SMALL, "--out", tmp_path, "--cache", cache
    )
    assert done.code == 0
    assert len(done.out.splitlines()) == 3


def test_a_truncated_shard_is_named_and_computed_again(attrbench, tmp_path, cache):
    arguments = (
        "run",
        "-m",
        "dmin:v=256,timesteps=1",
        *SMALL,
        "--out",
        tmp_path,
        "--cache",
        tmp_path / "cache",
        "--rerun",
    )
    attrbench(*arguments)
    before = only_record(tmp_path)
    shards = shard_files(tmp_path / "cache")
    victim = shard_files(tmp_path / "cache", key=digit_key(0))[0]
    whole = victim.read_bytes()
    others = {path: path.stat().st_mtime_ns for path in shards if path != victim}
    victim.write_bytes(whole[: len(whole) // 2])
    done = attrbench(*arguments)
    assert done.code == 0
    assert str(victim) in done.err
    assert "Traceback" not in done.err
    assert victim.read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert without_times(only_record(tmp_path)) == without_times(before)


def test_a_complete_cache_is_enough_when_it_cannot_be_written_to(attrbench, tmp_path, monkeypatch):
    arguments = ("run", "-m", "dmin:v=256,timesteps=1", *SMALL, "--cache", tmp_path / "cache")
    attrbench(*arguments, "--out", tmp_path / "a")
    monkeypatch.setattr("attrbench.store.checksums.write_atomically", _read_only)
    assert attrbench(*arguments, "--out", tmp_path / "b").code == 0
    done = attrbench("run", "-m", "dmin:v=512,timesteps=1", *arguments[3:], "--out", tmp_path / "c")
    assert done.code == 1
    assert len(done.complaint) == 1
    assert "Read-only file system" in done.err
    assert "--cache" in done.err


def _read_only(path, data):
    raise OSError(30, "Read-only file system", str(path))


def _command(out: Path) -> list[str]:
    command = ["run", "-m", "dmin:v=256,timesteps=4", "-m", "grad-dot:timesteps=4"]
    command += ["-t", "digits-mini:queries_per_group=1", "--limit-train", "320"]
    return [*command, "--out", str(out), "--cache", str(out / "cache")]


def _start(out: Path) -> subprocess.Popen:
    """Start a run in a process of its own, in shards of 64 training items."""
    command = [sys.executable, "-c", "from attrbench.cli.app import main; main()", *_command(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _wait_for_shards(process: subprocess.Popen, folder: Path, count: int) -> list[Path]:
    while process.poll() is None:
        train = shard_files(folder / "features", rows=64)
        if len(train) >= count:
            return train
        time.sleep(0.02)
    raise AssertionError(f"the run ended early: {process.communicate()}")


@pytest.mark.slow
def test_kill_9_loses_only_the_shard_in_work(attrbench, tmp_path):
    """The resumed run computes only what is missing and ends with the record of an undisturbed run."""
    (tmp_path / "killed" / "cache").mkdir(parents=True)
    process = _start(tmp_path / "killed")
    train = _wait_for_shards(process, tmp_path / "killed" / "cache", 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not read_records(tmp_path / "killed")[0]
    before = {path: path.stat().st_mtime_ns for path in train}
    for name in ("killed", "whole"):
        done = attrbench(*_command(tmp_path / name))
        assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in train} == before
    a, b = (read_records(tmp_path / name)[0] for name in ("killed", "whole"))
    assert len(a) == len(b) == 2
    for x, y in zip(a, b, strict=True):
        assert without_times(x) == without_times(y)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 20])
def test_a_terminated_run_exits_75_with_the_command_that_resumes(tmp_path, signals):
    process = _start(tmp_path)
    _wait_for_shards(process, tmp_path / "cache", 1)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0 if signals == 1 else 0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "attrbench run -m dmin:v=256,timesteps=4 -m grad-dot:timesteps=4" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "cache").rglob("*.part*"))


def test_a_method_that_raises_is_reported_and_the_others_go_on(attrbench, tmp_path, cache, monkeypatch):
    from attrbench_methods.similarity.ssim import SSIM

    def broken(self, train, context):
        raise ValueError("no such thing")

    monkeypatch.setattr(SSIM, "fit", broken)
    done = attrbench("run", "-m", "ssim", "-m", "pixel", *SMALL, "--out", tmp_path, "--cache", cache)
    assert done.code == 1
    assert "failed: ValueError: no such thing" in done.out
    assert "Traceback" not in done.err
    again = attrbench("run", "-m", "ssim", *SMALL, "--out", tmp_path, "--cache", cache, "--debug")
    assert "in broken" in again.err  # --debug shows where
    assert any(line.startswith("pixel") and "detection-rate@10" in line for line in done.out.splitlines())
    board = json.loads(attrbench("leaderboard", tmp_path, "--format", "json").out)
    assert {row["method"]: row["status"] for row in board[0]["rows"]} == {"ssim": "failed", "pixel": "limited"}
    assert all(row["rank"] is None for row in board[0]["rows"])


def test_a_nonfinite_gradient_makes_the_run_partial_and_names_the_item(attrbench, tmp_path, cache, monkeypatch):
    from attrbench.models.families.ddpm import DDPMDenoiser

    original = DDPMDenoiser.encode

    def poisoned(self, images, prompts, image_range):
        encoded = original(self, images, prompts, image_range)
        if len(encoded) == 64:  # a shard of the training set
            encoded.latents[3] = float("nan")
        return encoded

    monkeypatch.setattr(DDPMDenoiser, "encode", poisoned)
    arguments = ("--out", tmp_path, "--cache", tmp_path / "cache")
    done = attrbench("run", "-m", "dmin:v=256,timesteps=2", *SMALL[:2], "--limit-train", "64", *arguments)
    assert done.code == 3
    record = only_record(tmp_path)
    assert record.status == "partial"
    assert record.coverage.nonfinite == [("train", 3, 999), ("train", 3, 874)]


@pytest.mark.parametrize("method", ["dmin:v=256,timesteps=2", "grad-dot:timesteps=2", "dmin:v=none,timesteps=2"])
def test_a_nonfinite_query_is_named_whatever_the_features(attrbench, tmp_path, cache, monkeypatch, method):
    from attrbench.models.families.ddpm import DDPMDenoiser

    original = DDPMDenoiser.encode
    calls = []

    def poisoned(self, images, prompts, image_range):
        encoded = original(self, images, prompts, image_range)
        if len(encoded) == 10:  # the queries
            calls.append(1)
            encoded.latents[4] = float("inf")
        return encoded

    monkeypatch.setattr(DDPMDenoiser, "encode", poisoned)
    arguments = ("--out", tmp_path, "--cache", tmp_path / "cache")
    done = attrbench("run", "-m", method, *SMALL[:2], "--limit-train", "64", *arguments)
    assert calls
    assert done.code == 3
    record = only_record(tmp_path)
    assert sorted(record.coverage.nonfinite) == [("query", 4, 874), ("query", 4, 999)]
    lengths = [len(set(ranking)) for ranking in record.ranking]
    assert lengths == [1 if query == 4 else 64 for query in range(10)] and set(record.ranking[4]) == {-1}
