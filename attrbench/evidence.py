"""The Python function `evidence_map` of `import attrbench`: where in a picture a score comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrbench.api import open_task
from attrbench.errors import UsageError
from attrbench.evaluation.requests import MethodLike, TaskLike, request_methods
from attrbench.plugins import registry as plugins

if TYPE_CHECKING:
    from PIL import Image

    from attrbench.evaluation.evidence_map import EvidenceMap


def evidence_map(
    method: MethodLike,
    task: TaskLike,
    items: int | Sequence[int],
    *,
    query: int | None = None,
    image: str | Path | Image.Image | None = None,
    prompt: str = "",
    cache: str | Path | None = None,
    device: str | None = "cpu",
) -> EvidenceMap:
    """Return where in a picture the scores of some training items come from, as maps that a notebook draws.

    The sum of a map is the score that `run` and `attribute` give.

    Args:
        method: `grad-dot`, or `dmin:v=none`, with options.
        task: a single task, as for `run`.
        items: indices of training items, such as the first that `attribute` ranks.
        query: the picture as an index into the task's queries.
        image: the picture as a file or a PIL image, in place of `query`.
        prompt: of the image.
        cache: folder for what the task keeps, as for `run`.
        device: torch device of the model; None for CUDA where there is one.

    Raises:
        UsageError: for a wrong name or option, a method whose scores do not come apart by position, an index out of
            range, and unless either a query or an image is given.
        AttrbenchError: for a picture that can't be read.
    """
    requests = request_methods(plugins.registry(), [method])
    if len(requests) != 1:
        raise UsageError("evidence_map takes one method: neither 'all' nor a|b")
    if (query is None) == (image is None):
        raise UsageError("evidence_map takes either the index of a query or an image")
    from attrbench.evaluation import evidence_map as evidence  # torch comes with it, as in `run`

    opened = open_task(task, cache=cache, device=device)
    if query is not None:
        picture = evidence.query_of(opened, query)
    else:
        assert image is not None
        picture = evidence.picture_of(opened, Path(image) if isinstance(image, str) else image, prompt)
    chosen = [items] if isinstance(items, int) else list(items)
    return evidence.evidence_map(opened, requests[0].method, requests[0].label, picture, chosen)
