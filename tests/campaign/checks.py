"""What must hold after a trial: the same command finishes, with equal results, in a cache that is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrbench.store.checksums import SEAL, seal_path
from tests.campaign.bench import Bench
from tests.campaign.children import Done, run_here
from tests.campaign.scenarios import Scenario


def verify(work: Path) -> Done:
    """Run `cache verify` on a trial's cache."""
    return run_here(["cache", "verify", "--cache", str(work / "cache")])


def ends_as_undisturbed(
    bench: Bench, scenario: Scenario, root: Path, whole: Callable[[], bool] = lambda: True
) -> str | None:
    """Run the command again, and return what is wrong with how it ends; None if nothing is.

    Args:
        bench, scenario, root: the command and where it worked.
        whole: whether the cache must be whole afterwards.
    """
    done = bench.run(scenario, root)
    if (wrong := done.fault(0)) is not None:
        return f"the command again: {wrong}"
    if bench.results(scenario, root, done) != bench.undisturbed(scenario.name).results:
        return "the command again gives other results than an undisturbed run"
    checked = verify(root / "work") if whole() and (root / "work" / "cache").exists() else None
    if checked is not None and (wrong := checked.fault(0)) is not None:
        return f"cache verify afterwards: {wrong}: {checked.out.strip().splitlines()[:1]}"
    return None


def sealed_files(work: Path) -> dict[Path, bytes]:
    """Return path -> content of all files of the cache that a seal vouches for.

    Digests of a folder's files are written again whenever the files' times change, as by the copy for a trial.
    """
    return {
        path: path.read_bytes()
        for path in (work / "cache").rglob("*")
        if path.is_file()
        and path.parent.name != "digests"
        and not path.name.endswith(SEAL)
        and seal_path(path).exists()
    }


def lost_files(before: dict[Path, bytes]) -> list[Path]:
    """Return the files that are gone or changed since `sealed_files`."""
    return [path for path, data in before.items() if not path.exists() or path.read_bytes() != data]
