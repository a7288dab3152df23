"""Checks of the methods and limits requested for a run, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.evaluation.config import RunSettings
from attrbench.evaluation.requests import MethodRequest, TaskRequest


def check_requests(
    task: TaskRequest, methods: Sequence[MethodRequest], settings: RunSettings, note: Callable[[str], None]
) -> list[MethodRequest]:
    """Return the methods that can run, after checking limits and method options before any task is loaded.

    Methods are checked later, where only the open task knows the size of its training set.

    Raises:
        UsageError: for limits below 1 or options that the training set cannot meet.
    """
    for name, limit in (("--limit-train", settings.limit_train), ("--limit-queries", settings.limit_queries)):
        if limit is not None and limit < 1:
            raise UsageError(f"{name} must be at least 1, not {limit}")
    total = task.task.meta.train_items
    return list(methods) if total is None else check_methods(methods, total, settings, note)


def check_methods(
    methods: Sequence[MethodRequest], train_items: int, settings: RunSettings, note: Callable[[str], None]
) -> list[MethodRequest]:
    """Return the methods that can run on a training set of this size, without unavailable ones asked for by `all`.

    Raises:
        UsageError: for options that the training set cannot meet.
    """
    count = train_items if settings.limit_train is None else min(train_items, settings.limit_train)
    able: list[MethodRequest] = []
    for request in methods:
        try:
            request.method.check(count)
            able.append(request)
        except AttrbenchError as error:
            if not (isinstance(error, Unavailable) and request.optional):
                raise
            note(f"passed over {request.label}: {error}")
        except Exception as error:
            raise AttrbenchError(f"method {request.label}: its check raised {type(error).__name__}: {error}") from error
    return able
