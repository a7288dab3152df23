"""The files of golden records: samples and digests of arrays, taken from a run and written without pickle."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

SCORES, FEATURES = 300, 48
"""Entries that are kept of an array of scores and of a feature."""
RECORDS = Path(__file__).parent / "records"


def digest(array: np.ndarray) -> str:
    """Return the sha256 over dtype, shape and all bytes of an array."""
    array = np.ascontiguousarray(array)
    found = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    found.update(array.data if array.size else b"")
    return found.hexdigest()


def places(size: int, count: int) -> np.ndarray:
    """Return flat indices, a function of the two numbers alone: all where there are no more than `count`."""
    if size <= count:
        return np.arange(size)
    return np.sort(np.random.default_rng([20, size]).choice(size, count, replace=False))


def scale(array: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return the root mean square of the finite entries, of all or of each row."""
    values = np.nan_to_num(np.asarray(array, np.float64), posinf=0, neginf=0)
    return np.sqrt(np.mean(values**2, axis=axis)) if values.size else np.zeros(())


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """Return a seeded sample of the entries, float32."""
    return np.asarray(array).reshape(-1)[places(array.size, count)].astype(np.float32)


class Capture:
    """Collects a run: a document of facts, samples of all arrays, and digests of their bytes.

    It is a sink for `tests.golden.probe.Probe.run`.

    Attributes:
        document: of JSON values; arrays are named by (offset, length) in `numbers` or `ids`.
        digests: label -> name of an array -> sha256.
        scores: label -> [m, n] complete scores, for the comparison of rankings.
    """

    def __init__(self, **about: Any) -> None:
        self.document: dict[str, Any] = {**about, "methods": {}}
        self.digests: dict[str, dict[str, str]] = {}
        self.scores: dict[str, np.ndarray] = {}
        self._numbers = _Pool(np.float32)
        self._ids = _Pool(np.int32)

    def array(self, label: str, name: str, array: np.ndarray) -> None:
        """Keep a sample of a feature and its digest."""
        self.digests.setdefault(label, {})[name] = digest(array)
        method = self.document["methods"].setdefault(label, {"features": {}})
        entry = {"shape": list(array.shape), "dtype": str(array.dtype), "rms": float(scale(array))}
        if array.dtype == np.uint8:
            entry["sha256"] = digest(array)  # images are the same on every machine, or other images
        else:
            entry["sample"] = self._numbers.put(sample(array, FEATURES))
        method["features"][name] = entry

    def outcome(self, outcome: Any) -> None:
        """Keep what a method's record says, a sample of the scores and the rankings."""
        facts = asdict(outcome)
        label, scores, ranking = facts.pop("label"), facts.pop("scores"), facts.pop("ranking")
        method = self.document["methods"].setdefault(label, {"features": {}})
        digests = self.digests.setdefault(label, {})
        method.update(facts)
        if scores is not None:
            self.scores[label] = scores
            digests["scores"] = digest(scores)
            method["scores"] = {
                "shape": list(scores.shape),
                "rms": [float(value) for value in scale(scores, axis=1)],
                "sample": self._numbers.put(sample(scores, SCORES)),
            }
        if ranking is not None:
            digests["ranking"] = digest(ranking)
            method["ranking"] = {"shape": list(ranking.shape), "ids": self._ids.put(ranking.astype(np.int32))}

    def keep_others(self, golden: Golden) -> None:
        """Take over from an earlier record the methods that were not run, and its order of methods."""
        run = self.document["methods"]
        self.document["methods"] = {}
        for label in golden.document["methods"]:
            self.document["methods"][label] = run.pop(label) if label in run else self._moved(golden, label)
        self.document["methods"].update(run)

    def _moved(self, golden: Golden, label: str) -> dict[str, Any]:
        """Return what a record has of a method, its numbers and ids moved to this one."""
        method = copy.deepcopy(golden.method(label))
        for entry in (*method["features"].values(), method.get("scores", {})):
            if "sample" in entry:
                entry["sample"] = self._numbers.put(golden.numbers(entry))
        ranking = golden.ranking(label)
        if ranking is not None:
            method["ranking"]["ids"] = self._ids.put(ranking)
        return method

    def golden(self) -> Golden:
        """Return what was collected, as it would be read from its file."""
        return Golden(json.loads(json.dumps(self.document)), self._numbers.array(), self._ids.array())


class _Pool:
    """Arrays side by side in one; equal ones lie there once."""

    def __init__(self, dtype: type) -> None:
        self._parts: list[np.ndarray] = []
        self._dtype = dtype
        self._known: dict[bytes, list[int]] = {}
        self._length = 0

    def put(self, array: np.ndarray) -> list[int]:
        flat = np.ascontiguousarray(array, self._dtype).reshape(-1)
        key = flat.tobytes()
        if key not in self._known:
            self._known[key] = [self._length, flat.size]
            self._parts.append(flat)
            self._length += flat.size
        return self._known[key]

    def array(self) -> np.ndarray:
        return np.concatenate(self._parts) if self._parts else np.zeros(0, self._dtype)


class Golden:
    """A golden record: the document, and the numbers and ids that it names."""

    def __init__(self, document: dict[str, Any], numbers: np.ndarray, ids: np.ndarray) -> None:
        self.document = document
        self._numbers = numbers
        self._ids = ids

    @property
    def labels(self) -> list[str]:
        """The methods that were available."""
        return [label for label, method in self.document["methods"].items() if method["status"] != "unavailable"]

    def method(self, label: str) -> dict[str, Any]:
        """Return what is kept of a method."""
        return self.document["methods"][label]

    def numbers(self, entry: dict[str, Any]) -> np.ndarray:
        """Return the sample of a feature or of scores."""
        first, count = entry["sample"]
        return self._numbers[first : first + count]

    def ranking(self, label: str) -> np.ndarray | None:
        """Return the [m, depth] ids of a method."""
        entry = self.method(label).get("ranking")
        if entry is None:
            return None
        first, count = entry["ids"]
        return self._ids[first : first + count].reshape(entry["shape"])

    def write(self, path: Path) -> None:
        """Write a compressed npz file."""
        text = json.dumps(self.document, separators=(",", ":")).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, document=np.frombuffer(text, np.uint8), numbers=self._numbers, ids=self._ids)

    @staticmethod
    def read(path: Path) -> Golden:
        """Read such a file."""
        with np.load(path, allow_pickle=False) as file:
            return Golden(json.loads(file["document"].tobytes()), file["numbers"], file["ids"])
