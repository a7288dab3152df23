"""The command line with `--device cuda`."""

import pytest
import torch

from attrbench.contracts.record import read_records
from tests.cli.conftest import SMALL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_CUDA = (*SMALL[:-1], "cuda")


@pytest.mark.parametrize(
    "method", ["dmin", "grad-dot", "d-trak", "d-trak:v=none", "das:v=none", "datainf", "journey-trak", "ekfac:draws=64"]
)
def test_methods_rank_on_cuda_as_on_the_cpu(attrbench, tmp_path, method):
    top = {}
    for arguments in (SMALL, ON_CUDA):
        out = tmp_path / arguments[-1]
        done = attrbench("run", "-m", method, *arguments, "--out", out)
        assert done.code == 0, done.err
        (record,) = read_records(out)[0]
        top[arguments[-1]] = [ids[:3] for ids in record.ranking]
    agreeing = sum(a == b for a, b in zip(top["cpu"], top["cuda"], strict=True))
    assert agreeing >= 0.8 * len(top["cpu"])  # queries are drawn on each device: rounding may change a picture


def test_a_record_says_on_what_device_it_ran_and_what_it_took_there(attrbench, tmp_path):
    assert attrbench("run", "-m", "dmin", *ON_CUDA, "--out", tmp_path).code == 0
    (record,) = read_records(tmp_path)[0]
    assert torch.cuda.get_device_name() in record.hardware.hardware_class
    assert record.peak_device_bytes
