"""Metadata of image folders, pipelines and the cache, changed as text or bytes, as `run` and `cache` read them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from attrbench.store.checksums import SEAL
from attrbench.store.shards import FEATURE
from tests.campaign import mutation
from tests.campaign.bench import Bench
from tests.campaign.children import Done, limited_run
from tests.campaign.task_files import document, folders, written

CACHE_COMMANDS = (["ls"], ["ls", "--json"], ["verify"], ["verify", "--json"], ["gc", "--dry-run"])


def _changed(whole: bytes, chance: random.Random) -> bytes:
    how = chance.randrange(3)
    if how == 0:
        return mutation.data(whole, chance)
    if how == 1 and whole.lstrip().startswith(b"{"):
        lines = whole.splitlines() if whole.count(b"\n{") else [whole]
        return b"\n".join(json.dumps(mutation.changed(json.loads(line), chance)).encode() for line in lines)
    return mutation.text(whole.decode(), chance).encode("utf-8", "surrogatepass")


def _dry_run(bench: Bench, folder: Path, train: Path, model: Path) -> Done:
    tables = document(bench.inputs)
    tables["train"]["path"], tables["model"]["model"] = str(train), str(model)
    (folder / "mine.toml").write_text(written(tables))
    return limited_run(["run", "-m", "pixel", "-t", f"{folder}/mine.toml", "--dry-run", *folders(folder)])


def _images(bench: Bench, folder: Path, chance: random.Random) -> tuple[bytes, Done]:
    shutil.copytree(bench.inputs / "images", folder / "images")
    table = folder / "images" / "metadata.csv"
    content = table.read_bytes()
    if chance.random() < 0.5:
        names, *rows = (line.split(",") for line in content.decode().splitlines())
        content = b"\n".join(json.dumps(dict(zip(names, row, strict=True))).encode() for row in rows)
        table.unlink()
        table = table.with_suffix(".jsonl")
    content = _changed(content, chance)
    table.write_bytes(content)
    return content, _dry_run(bench, folder, folder / "images", bench.inputs / "model")


def _pipeline(bench: Bench, folder: Path, chance: random.Random) -> tuple[bytes, Done]:
    shutil.copytree(bench.inputs / "model", folder / "model")
    content = _changed((folder / "model" / "model_index.json").read_bytes(), chance)
    (folder / "model" / "model_index.json").write_bytes(content)
    return content, _dry_run(bench, folder, bench.inputs / "images", folder / "model")


def _cache(bench: Bench, folder: Path, chance: random.Random) -> tuple[bytes, Done]:
    shutil.copytree(bench.undisturbed("run").end / "work" / "cache", folder / "cache")
    files = [path for path in (folder / "cache").rglob("*.json") if path.name == FEATURE or path.name.endswith(SEAL)]
    victim = chance.choice(sorted(files))
    content = _changed(victim.read_bytes(), chance)
    victim.write_bytes(content)
    return content, limited_run(["cache", *chance.choice(CACHE_COMMANDS), "--cache", f"{folder}/cache"])


KINDS: tuple[Callable[[Bench, Path, random.Random], tuple[bytes, Done]], ...] = (_images, _pipeline, _cache)


def metadata(bench: Bench, trial: int, chance: random.Random) -> str | None:
    """Change one file of metadata, and have a command read it: it goes on, or says in one line what is wrong."""
    folder = bench.folder / "metadata" / str(trial)
    folder.mkdir(parents=True)
    kind = KINDS[trial % len(KINDS)]
    content, done = kind(bench, folder, chance)
    wrong = done.fault(0, 1, 2)
    if wrong is None and (raw := [c for c in done.out + done.err if not c.isprintable() and c not in "\n\r"]):
        wrong = f"the character {raw[0]!r} is written as it is"
    shutil.rmtree(folder)
    return wrong and f"{kind.__name__}: {wrong}\n{content.decode(errors='replace')[:1500]}"
