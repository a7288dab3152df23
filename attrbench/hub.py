"""The Hugging Face hub, which may not be within reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

HUB_SECONDS = 5.0
"""How long the hub may take to answer."""


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Keeps huggingface_hub to its cache where the hub does not answer: its client would ask six times, for a minute.

    Yields:
        Whether the hub answers.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            try:
                get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            except Exception:  # which one depends on the HTTP library; all mean the same
                constants.HF_HUB_OFFLINE = True
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before
