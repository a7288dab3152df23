"""Records below a results folder that are damaged, edited or made up, as the leaderboard reads them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.campaign import mutation
from tests.campaign.bench import Bench
from tests.campaign.children import limited_run

FORMATS = ("rich", "md", "csv", "json")


def record(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Put a changed record beside a sound one: the board names it or ranks it, and the sound one stays as it is."""
    sound, other = sorted((bench.undisturbed("run").end / "work" / "out").rglob("*.json"))
    content = other.read_bytes()
    if chance.random() < 0.75:
        document = json.loads(content)
        if chance.random() < 0.9:  # with the checksum, a change would be refused for that alone
            del document["check"]
        content = json.dumps(mutation.changed(document, chance)).encode()
    if chance.random() < 0.35:
        content = mutation.data(content, chance)
    folder = bench.folder / "records" / str(trial)
    folder.mkdir(parents=True)
    (folder / "sound.json").write_bytes(sound.read_bytes())
    (folder / "bad.json").write_bytes(content)
    form = chance.choice(FORMATS)
    done = limited_run(["leaderboard", str(folder), "--format", form])
    wrong = done.fault(0)
    label = json.loads(sound.read_bytes())["method"]["label"].partition(":")[0]
    if wrong is None and label not in done.out:
        wrong = "the sound record is not on the board"
    if wrong is None and (raw := [c for c in done.out + done.err if not c.isprintable() and c not in "\n\r"]):
        wrong = f"the character {raw[0]!r} is written as it is"
    if wrong is None and form == "json":
        wrong = _no_json(done.out)
    if wrong is not None:
        return f"--format {form}: {wrong}\n{content.decode(errors='replace')[:1500]}"
    _remove(folder)
    return None


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _no_json(text: str) -> str | None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return str(error)
    return None
