"""The file with the losses of models trained on random subsets of a training set (the subset models).

A bank is a safetensors file of `losses` [J, S, m, T] float32, `distances` [J, S, m, D] float32 (how far the picture of
each query moves when the subset model draws it), `members` [J, ceil(n/8)] uint8 (bits: which items each subset holds),
`timesteps` [T] float64, and one JSON text of metadata (`BankFacts`). A new method gets its linear datamodeling score
from it without training anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from attrbench.contracts.ground_truth import Design
from attrbench.contracts.seeds import Seed
from attrbench.contracts.task import OpenTask, Task
from attrbench.errors import AttrbenchError, Damaged
from attrbench.ground_truth.subsets import SubsetKind
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint

KEY = "attrbench"
"""Name of the metadata entry."""
TUNING_SUBSETS = 1
"""Seed of the random subsets for tuning queries, so that no option is chosen by the models that are reported on."""


class BankPlan(BaseModel):
    """The settings for building the losses of subset models: number of subsets and seeds, timesteps and noises.

    Attributes:
        subsets: number of subsets, J.
        seeds: training seeds of each subset, S; they count 0, 1, ...
        alpha: share of the training items in a subset.
        kind: random subsets of `fixed` size or `bernoulli`; or `leave-group-out`, all items and then all without each
            group, for which `subsets`, `alpha` and `subset_seed` mean nothing.
        subset_seed: of the subsets.
        steps: timesteps of the losses, T.
        draws: noises for each query and timestep.
        noise_seed: of the noises.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subsets: int = Field(64, ge=2)
    seeds: int = Field(2, ge=1)
    alpha: float = Field(0.5, gt=0, lt=1)
    kind: SubsetKind = "fixed"
    subset_seed: Seed = 0
    steps: int = Field(15, ge=1)
    draws: int = Field(100, ge=1)
    noise_seed: Seed = 0

    @property
    def design(self) -> Design:
        """Return which models the bank holds: on random subsets, or without one group each."""
        return "groups" if self.kind == "leave-group-out" else "subsets"


class BankFacts(BaseModel):
    """The metadata in a file of subset models' losses: task, training set, queries, plan and code version.

    Attributes:
        format: of the file.
        task, version: of the task.
        train, queries: fingerprints of the training set and of the queries.
        items: size of the training set, n.
        plan: which models were to be trained, and how they are measured.
        numbers: number of each subset that is there, [J]; fewer than planned where the bank was not finished.
        distances: names of the D distances of redrawn queries; empty where queries can't be drawn again.
        recipe: what decides a training besides items and seed.
        retraining: version of the code that retrains and measures, raised whenever it gives other numbers; files that
            don't name it are of version 2.
        code: digest of the code that trained and measured, of the last models where some were taken from a bank that
            shipped; `revision`, that of its checkout, where there is one.
        attrbench: version of the package.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    task: str
    version: int
    train: str
    queries: str
    items: int
    plan: BankPlan
    numbers: list[int]
    distances: list[str]
    recipe: dict[str, Any]
    retraining: int = 2
    code: str
    revision: str | None
    attrbench: str


@dataclass(frozen=True)
class SubsetBank:
    """The losses of models trained on random subsets, for every query and timestep, and the subsets.

    Attributes:
        losses: [J, S, m, T].
        distances: [J, S, m, D], of each query from the picture that a model draws in its place.
        members: [J, n] bool, which items each subset holds.
        timesteps: [T], cleanest first.
        facts: everything else.
    """

    losses: NDArray[np.float32]
    distances: NDArray[np.float32]
    members: NDArray[np.bool_]
    timesteps: NDArray[np.float64]
    facts: BankFacts

    def write(self, path: Path) -> None:
        """Write the subset models' losses, the subsets and the metadata to a safetensors file, and its seal beside it.

        Raises:
            AttrbenchError: where it can't be written.
        """
        arrays: dict[str, NDArray[Any]] = {
            "losses": np.ascontiguousarray(self.losses, np.float32),
            "distances": np.ascontiguousarray(self.distances, np.float32),
            "members": np.packbits(self.members, axis=1),
            "timesteps": np.ascontiguousarray(self.timesteps, np.float64),
        }
        facts = self.facts.model_dump(mode="json")
        sealed_bank(path).write_bytes(save(arrays, {KEY: self.facts.model_dump_json()}), facts)


def sealed_bank(path: Path) -> Artifact:
    """Return the file of subset losses at a path together with its seal, which may be missing."""
    return Artifact(path, "subset losses", "losses of models trained on random subsets")


def known_facts(path: Path) -> BankFacts:
    """Return the metadata of a file of subset losses by its seal, which says what damaged data were, or by itself.

    Raises:
        AttrbenchError: where neither can be read.
    """
    seal = sealed_bank(path).seal()
    return _read(path).facts if seal is None else BankFacts.model_validate(seal.facts)


def read_bank(path: Path, task: Task[Any], opened: OpenTask, design: Design = "subsets") -> SubsetBank:
    """Read a file of subset models' losses, and check that it was made for this task, training set and queries.

    Raises:
        AttrbenchError: where it can't be read, is damaged, or was made with another task, training set or queries.
    """
    meta, kept = task.meta, sealed_bank(path)
    rebuild = f"run 'attrbench ground-truth build {meta.name}'"
    if kept.is_there() and kept.whole() is None:
        raise Damaged(f"subset losses {path}: damaged, size or checksum differ; {rebuild}")
    bank = _read(path)
    facts = bank.facts
    if (facts.task, facts.version) != (meta.name, meta.version):
        raise AttrbenchError(
            f"subset losses {path}: made for {facts.task} version {facts.version}, not for {meta.name} version"
            f" {meta.version}; {rebuild}"
        )
    if facts.plan.design != design:
        raise AttrbenchError(
            f"subset losses {path}: its models are of the kind {facts.plan.kind}, another ground truth's"
        )
    queries = opened.query_outline
    for what, made, found in (
        ("training set", facts.train, opened.train.fingerprint),
        ("queries", facts.queries, queries.fingerprint if queries.is_drawn else facts.queries),
    ):
        if made != found:
            raise AttrbenchError(
                f"subset losses {path}: made with other {what} ({made[:8]}) than task {meta.name} has here"
                f" ({found[:8]}); {rebuild}"
            )
    shape = (len(facts.numbers), facts.plan.seeds, queries.count, len(bank.timesteps))
    moved = (*shape[:3], len(facts.distances))
    fits = bank.losses.shape == shape and bank.distances.shape == moved
    if not fits or bank.members.shape != (shape[0], facts.items) or shape[0] < 2:
        raise AttrbenchError(f"subset losses {path}: {bank.losses.shape} numbers instead of {shape}; {rebuild}")
    for what, values in (("loss", bank.losses), ("distance", bank.distances)):
        if not np.isfinite(values).all():
            number = facts.numbers[int(np.argwhere(~np.isfinite(values))[0, 0])]
            raise AttrbenchError(f"subset losses {path}: a {what} of subset {number} is not finite; {rebuild}")
    return bank


def _read(path: Path) -> SubsetBank:
    try:
        with safe_open(path, framework="numpy") as file:
            facts = BankFacts.model_validate(json.loads((file.metadata() or {})[KEY]))
            losses, distances = file.get_tensor("losses"), file.get_tensor("distances")
            packed, timesteps = file.get_tensor("members"), file.get_tensor("timesteps")
        members = np.unpackbits(packed, axis=1, count=facts.items).astype(bool)
    except FileNotFoundError:
        raise AttrbenchError(f"subset losses {path}: there is no such file") from None
    except (OSError, KeyError, ValueError, ValidationError, SafetensorError) as error:
        raise AttrbenchError(f"subset losses {path}: not a readable bank ({type(error).__name__})") from None
    return SubsetBank(losses, distances, members, timesteps, facts)


def built_bank(task: Task[Any], cache: Path, design: Design = "subsets") -> Path:
    """Return the path in a cache where `attrbench ground-truth build` writes a task's bank of a design."""
    key = fingerprint([task.meta.name, task.meta.version, task.options.model_dump(mode="json"), task.state()])
    return cache / "ground-truth" / f"{task.meta.name}-{design}-{key[:20]}.safetensors"
