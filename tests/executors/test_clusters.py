"""The executors `ray` and `slurm`: the same bytes as in one process, whatever dies on the way.

They need the extras `ray` and `slurm`; Slurm itself is stood for by submitit's processes of this machine.
"""

from __future__ import annotations

import importlib.util
from contextlib import closing

import pytest

from attrbench.errors import AttrbenchError, UsageError
from attrbench.executors import cluster_library
from attrbench.executors.ray_cluster import RayExecutor, RayOptions
from attrbench.executors.slurm import Share, SlurmExecutor, SlurmOptions
from tests.executors.light_jobs import LightJob, light
from tests.executors.test_processes import killing
from tests.executors.tiny_methods import Slow
from tests.executors.tiny_task import compute_features, settings, shard_bytes

HAS_RAY = importlib.util.find_spec("ray") is not None
HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs the extra attrbench[ray]")
needs_submitit = pytest.mark.skipif(not HAS_SUBMITIT, reason="needs the extra attrbench[slurm]")
METHODS = (Slow,)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The shards of a method, computed in this process."""
    at_work = settings(tmp_path_factory.mktemp("inline"))
    compute_features(at_work, [method() for method in METHODS])
    return shard_bytes(at_work.cache)


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a Ray cluster of two nodes with one core each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def ray(two_nodes):
    with closing(RayExecutor(RayOptions(address=two_nodes))) as executor:
        yield executor


@pytest.fixture
def slurm(tmp_path):
    options = SlurmOptions(cluster="local", jobs=2, cpus=1, time=10, folder=tmp_path / "logs")
    with closing(SlurmExecutor(options)) as executor:
        yield executor


CLUSTERS = [
    pytest.param("ray", marks=[needs_ray, pytest.mark.slow]),
    pytest.param("slurm", marks=[needs_submitit, pytest.mark.slow]),
]


@pytest.mark.parametrize("name", CLUSTERS)
def test_two_workers_of_a_cluster_write_the_bytes_that_one_process_writes(name, request, tmp_path, by_one):
    at_work = settings(tmp_path / "work")
    done = compute_features(at_work, [method() for method in METHODS], request.getfixturevalue(name))
    assert done.progress.given_up == {}
    assert shard_bytes(at_work.cache) == by_one
    assert len({path.name for path in at_work.cache.rglob("pid-*")}) == 2


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_worker_that_is_killed_at_its_job_changes_no_byte(name, request, tmp_path, by_one):
    at_work = settings(tmp_path / "work")
    with killing(at_work.cache) as killed:
        done = compute_features(at_work, [method() for method in METHODS], request.getfixturevalue(name))
    assert len(killed) == 1 and done.progress.given_up == {}
    assert shard_bytes(at_work.cache) == by_one


@pytest.mark.parametrize("name", CLUSTERS)
def test_only_the_job_that_ends_its_process_fails(name, request, tmp_path):
    jobs = [LightJob(str(tmp_path / str(number)), ends=number == 1) for number in range(6)]
    receipts = list(request.getfixturevalue(name).run(jobs, light))
    assert {receipt.job: receipt.state for receipt in receipts} == {
        job: "failed" if job.ends else "done" for job in jobs
    }
    assert len(receipts) == len(jobs)


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
