"""Running a case: the one place where cases, probe and files meet."""

from __future__ import annotations

from collections.abc import Sequence

from tests.golden.cases import Case
from tests.golden.files import Capture, Golden, digest
from tests.golden.probe import Probe


class OtherQueries(Exception):
    """The pictures that the model draws on this machine are not those of the record."""


def labels_of(case: Case) -> list[str]:
    """Return the `-m` strings that a capture of a case runs."""
    registered = [name for name in Probe.methods() if name not in case.without]
    return [*(registered if case.every else ()), *case.variants]


def run(case: Case, labels: Sequence[str], golden: Golden | None = None, executor: str = "inline") -> Capture:
    """Run methods on the task of a case, from an empty cache, in the order in which a capture runs them.

    The order decides bits: an autoencoder rounds an image by the others that it encodes at once, and those are the
    items that the first computation asks for.

    Args:
        case: which task and how much of it.
        labels: the methods.
        golden: the record that the run will be compared with; None for none.
        executor: the `--executor` string.

    Raises:
        OtherQueries: where the record's queries are others, before anything is computed.
        AssertionError: where its training images are others.
    """
    with Probe(case.task, case.train, case.queries, case.batch, executor) as probe:
        pictures = probe.pictures()
        train, queries = digest(pictures.train), digest(pictures.queries)
        if golden is not None:
            assert train == golden.document["train"], f"{case.name}: the training images are not those of the record"
            if queries != golden.document["queries"]:
                raise OtherQueries(f"{case.name}: queries of this machine differ from those of the record")
        order = {label: place for place, label in enumerate(labels_of(case))}
        capture = Capture(case=case.name, task=case.task, train=train, queries=queries)
        for outcome in probe.run(sorted(labels, key=order.__getitem__), capture):
            capture.outcome(outcome)
    return capture
