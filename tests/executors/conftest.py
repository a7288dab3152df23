"""Each executor with two workers of one core each, on this machine."""

from __future__ import annotations

from contextlib import closing

import pytest

from attrbench.executors.processes import ProcessesExecutor, ProcessesOptions
from attrbench.executors.ray_cluster import RayExecutor, RayOptions
from attrbench.executors.slurm import SlurmExecutor, SlurmOptions


@pytest.fixture
def processes():
    with closing(ProcessesExecutor(ProcessesOptions(workers=2, threads=1))) as executor:
        yield executor


@pytest.fixture(scope="module")
def two_nodes():
    """The address of a Ray cluster of two nodes with one core each."""
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
def slurm(tmp_path, monkeypatch):
    """Slurm itself is stood for by submitit's processes of this machine."""
    from submitit.core.core import Job

    monkeypatch.setattr(Job, "_results_timeout_s", 1)  # how long a result may come after its process: no network here
    options = SlurmOptions(cluster="local", jobs=2, cpus=1, time=10, folder=tmp_path / "logs")
    with closing(SlurmExecutor(options)) as executor:
        yield executor


@pytest.fixture
def executor(request):
    return request.getfixturevalue(request.param)
