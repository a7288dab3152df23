"""The last part of a run on a task with a counterfactual: training again, and what that adds to a record."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from attrbench.contracts.ground_truth import Counterfactual
from attrbench.contracts.record import Record
from attrbench.errors import AttrbenchError
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.requests import MAX_DEPTH

log = logging.getLogger("attrbench.run")


def retrained(record: Record, counterfactual: Counterfactual, reporter: Reporter) -> Record:
    """The record with what training without the top of its ranking did; a failed one where that could not be done.

    Its ranking is cut to what other records keep.
    """
    cut = record.model_copy(update={"ranking": [ids[:MAX_DEPTH] for ids in record.ranking]})
    try:
        effect = counterfactual.measure(np.array(record.ranking, np.int64), record.seed, reporter.stage)
    except Exception as error:
        return failed(cut, error)
    return cut.model_copy(
        update={
            "metrics": [*effect.metrics, *record.metrics],
            "controls": list(effect.controls),
            "facts": {**record.facts, **finite(effect.facts)},
        }
    )


def failed(record: Record, error: Exception) -> Record:
    """The record of a run that ended with this error, in one line; the traceback is for --debug."""
    log.debug("%s failed:", record.method.label, exc_info=error)
    reason = str(error) if isinstance(error, AttrbenchError) else f"{type(error).__name__}: {error}"
    return record.model_copy(update={"status": "failed", "error": " ".join(reason.split())})


def finite(facts: Mapping[str, float]) -> dict[str, float]:
    """What JSON can hold."""
    return {name: value for name, value in facts.items() if math.isfinite(value)}
