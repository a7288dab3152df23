"""What the executors `ray` and `slurm` do beside what all executors do (`test_every_executor.py`)."""

from __future__ import annotations

from contextlib import closing

import pytest

from attrbench.errors import AttrbenchError, UsageError
from attrbench.executors import cluster_library
from attrbench.executors.ray_cluster import RayExecutor, RayOptions
from attrbench.executors.slurm import Share, SlurmExecutor, SlurmOptions
from tests.executors.light_jobs import LightJob, light
from tests.executors.workers import needs_ray


@needs_ray
@pytest.mark.slow
def test_a_worker_larger_than_every_node_is_refused_and_not_waited_for(two_nodes):
    refused = pytest.raises(UsageError, match="no node has room for a worker with cpus=2 and gpus=0; the most on one")
    with closing(RayExecutor(RayOptions(address=two_nodes, cpus=2))) as executor, refused:
        next(executor.run([1], light))


def test_a_share_that_was_cut_off_goes_on_behind_what_it_has_done(tmp_path):
    jobs = [LightJob(str(tmp_path / name)) for name in "abc"]
    share = Share(light, jobs[:2], tmp_path / "notes")
    assert [receipt.state for receipt in share.do()] == ["done", "done"]
    whole = Share(light, jobs, tmp_path / "notes")
    for mark in tmp_path.glob("[abc]/pid-*"):
        mark.unlink()
    assert [receipt.job for receipt in whole.do()] == jobs
    assert [path.parent.name for path in tmp_path.glob("[abc]/pid-*")] == ["c"]


def test_a_share_whose_process_never_began_fails_its_first_job_and_keeps_the_others(tmp_path):
    jobs = [LightJob(str(tmp_path / name)) for name in "abc"]
    share = Share(light, jobs, tmp_path / "notes")
    assert [(receipt.job, receipt.state) for receipt in share.told()] == [(jobs[0], "failed")]
    assert share.after() == jobs[1:]


@pytest.mark.parametrize(("executor", "options"), [(RayExecutor, RayOptions()), (SlurmExecutor, SlurmOptions())])
def test_a_missing_library_is_one_line_that_names_the_extra(executor, options, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(cluster_library.importlib, "import_module", missing)
    with pytest.raises(AttrbenchError, match=rf"which is not installed: pip install 'attrbench\[{executor.name}\]'"):
        executor(options)
