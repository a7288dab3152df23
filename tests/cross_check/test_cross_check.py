"""`make cross-check` for pytest; skipped where the peers are not installed, as in the usual environment."""

import pytest

WHY = "the peers live in an environment of their own: make cross-check"
for peer in ("dattri", "kronfluence", "trak"):
    pytest.importorskip(peer, reason=WHY)

from tests.cross_check import ours, peer_dattri  # noqa: E402
from tests.cross_check.everything import CHECKS, FAULTS  # noqa: E402
from tests.cross_check.problems import problem  # noqa: E402
from tests.cross_check.report import AGREE, spearman  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CHECKS)
def test_scores_agree_or_the_peers_fault_is_shown(name):
    for row in CHECKS[name]():
        assert row.kept, row


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_still_there(name):
    fault = FAULTS[name]()
    assert fault.holds, f"{fault.peer} {fault.version} does it no more: {fault.shown}"


def test_a_wrong_unit_would_show():
    p = problem("mlp")
    theirs = peer_dattri.datainf(p.module(), p.data("train"), p.data("query"), 1.0)
    mine = ours.scores("mlp", "datainf", "v=none,blocks=module,damping=0.01,damping_mode=absolute")
    assert spearman(mine, theirs) < AGREE
