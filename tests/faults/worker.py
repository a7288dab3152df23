"""A cache build in many small shards, for tests that kill it.

`python -m tests.faults.worker CACHE OUT BATCH_SIZE LOG` builds; BATCH_SIZE may be `found`. With no argument it
imports everything, says `ready`, and forks a build for each such line on standard input, answering with its pid.
A build appends its events to LOG: `pid seconds event detail`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers.models.unets.unet_2d
import diffusers.schedulers
import sklearn.datasets
import torch

from attrbench.contracts.computation import Engine
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.provenance import code_digest
from attrbench.evaluation.requests import request_methods, request_tasks
from attrbench.evaluation.task_run import TaskRun
from attrbench.features import gradient_feature, pass_computation
from attrbench.plugins.registry import registry
from attrbench.store import item_store, shards
from attrbench_tasks.minis import query_pictures as generated
from attrbench_tasks.training import classifier

METHODS = ("dmin:v=256,timesteps=2", "dmin:v=64,timesteps=2,dtype=int8")
TASK = "digits-mini:queries_per_group=1"
TRAIN, QUERIES = 256, 10
TRAIN_SHARD, QUERY_SHARD = 8, 2
PRELOADED = (diffusers, sklearn, classifier, generated)


class Log:
    """The events of this process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, event: str, detail: object = "") -> None:
        os.write(self._file, f"{os.getpid()} {time.monotonic()} {event} {detail}\n".encode())


class LoggingReporter:
    def __init__(self, log: Log) -> None:
        self._log = log

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[object]:
        if name.endswith("gradients"):
            self._log("computing", name)
        yield lambda: None

    def note(self, line: str) -> None:
        pass


def build(cache: str, out: str, batch_size: str, log_path: str) -> None:
    log = Log(log_path)
    torch.set_num_threads(1)
    gradient_feature.SHARD_ITEMS, gradient_feature.QUERY_SHARD = TRAIN_SHARD, QUERY_SHARD
    pass_computation.QUERY_SHARD = QUERY_SHARD
    shards.units.__defaults__ = (TRAIN_SHARD,)
    write = item_store.ItemStore.write

    def logged_write(self, unit, arrays, timing) -> None:
        log("writing", self.path(unit))
        write(self, unit, arrays, timing)
        log("written", self.path(unit))

    item_store.ItemStore.write = logged_write
    settings = RunSettings(
        out=Path(out),
        cache=Path(cache),
        limit_train=TRAIN,
        engine=Engine(batch_size=None if batch_size == "found" else int(batch_size)),
    )
    found = registry()
    (task,) = request_tasks(found, [TASK])
    for result in TaskRun(found, task, request_methods(found, METHODS), settings, LoggingReporter(log)).results():
        log("record", result.path)
    log("done")


def serve() -> None:
    code_digest("attrbench_methods", "attrbench_tasks")  # kept: all builds have one identity, and need not ask again
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the builds
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                build(*line.split())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    build(*sys.argv[1:]) if len(sys.argv) > 1 else serve()
