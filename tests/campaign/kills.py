"""Kills: SIGKILL at a random time or file operation of a command, then the same command again."""

from __future__ import annotations

import random

from tests.campaign.bench import Bench
from tests.campaign.checks import ends_as_undisturbed
from tests.campaign.children import KILLED
from tests.campaign.scenarios import SCENARIOS
from tests.faults.injection import KILL, Fault


def kill(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Kill one command once; where it ends before the time has come, kill another run of it at an operation."""
    scenario = SCENARIOS[chance.choice(sorted(SCENARIOS))]
    whole = bench.undisturbed(scenario.name)
    seconds = chance.uniform(0, whole.seconds)
    operation = Fault(chance.randrange(len(whole.operations)), KILL)
    by_time = chance.random() < 0.5
    for how in ("time", "operation") if by_time else ("operation",):
        with bench.copied(whole.start, "kills", trial) as root:
            if how == "time":
                child = bench.start(scenario, root)
                code = child.ended(seconds)
                code = child.kill() if code is None else code
                moment = f"after {seconds:.3f} s"
            else:
                code = bench.run(scenario, root, operation).code
                moment = f"at operation {operation.number}, {whole.operations[operation.number][0]}"
            if code == KILLED:
                wrong = ends_as_undisturbed(bench, scenario, root)
                return wrong and f"{scenario.name}, killed {moment}: {wrong}"
    return f"{scenario.name} was not killed: exit code {code}"
