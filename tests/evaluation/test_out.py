"""Before a run spends time it makes sure of its folders."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from attrbench.conformance.toy_task import ToyTask
from attrbench.contracts.options import Spec
from attrbench.errors import AttrbenchError
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.progress import Silent
from attrbench.evaluation.requests import TaskRequest, request_methods
from attrbench.evaluation.task_run import TaskRun
from attrbench.plugins.registry import load_registry


@pytest.fixture
def toy():
    """A run of `random` on the toy task, in a folder."""

    def make(out, cache=None):
        registry = load_registry()
        request = TaskRequest(Spec("attrbench-check", {}), ToyTask(ToyTask.Options()))
        chosen = RunSettings(out=out, cache=cache or out / "cache")
        return TaskRun(registry, request, request_methods(registry, ["random"]), chosen, Silent())

    return make


def test_any_number_of_runs_may_start_in_one_folder_at_the_same_moment(toy, tmp_path):
    run = toy(tmp_path / "new")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: run.settings.make_folders(), range(2000)))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cache"]  # and nothing of it is left


@pytest.mark.parametrize("flag", ["out", "cache"])
def test_a_folder_that_cannot_be_is_refused_with_the_flag_to_change(toy, tmp_path, flag):
    (tmp_path / "file").write_text("")
    run = toy(**{"out": tmp_path / "out", flag: tmp_path / "file" / "folder"})
    with pytest.raises(AttrbenchError, match=f"cannot write to .*folder: Not a directory; .* with --{flag}"):
        next(run.results())
