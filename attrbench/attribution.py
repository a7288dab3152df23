"""The Python functions that attribute pictures: `attrbench.attribute`, and `attribute_blocks` for thousands of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from attrbench.errors import UsageError
from attrbench.evaluation.config import reporter, run_settings
from attrbench.evaluation.progress import Reporter
from attrbench.evaluation.requests import (
    MethodLike,
    MethodRequest,
    TaskLike,
    TaskRequest,
    is_every,
    request_methods,
    request_tasks,
    several,
)
from attrbench.plugins import registry as plugins

if TYPE_CHECKING:
    from PIL import Image

    from attrbench.evaluation.attribution import Attribution, Attributions
    from attrbench.evaluation.question import Question
    from attrbench.plugins.registry import Registry

    Pictures = str | Path | Image.Image | Sequence[str | Path | Image.Image]


@overload
def attribute(method: MethodLike, task: TaskLike, **options: Any) -> Attribution: ...


@overload
def attribute(method: Sequence[MethodLike], task: TaskLike, **options: Any) -> Attributions: ...


def attribute(  # type: ignore[misc]  # noqa: D417  # the overloads name no options
    method: MethodLike | Sequence[MethodLike],
    task: TaskLike,
    *,
    images: Pictures = (),
    image_dirs: str | Path | Sequence[str | Path] = (),
    prompts: str | Sequence[str] = (),
    picture_seed: int | None = None,
    k: int = 20,
    lowest: int = 0,
    duplicates: Literal["group", "list"] = "group",
    checkpoint: str | Path | None = None,
    evidence: int = 0,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    read_cache: Sequence[str | Path] | None = None,
    device: str | None = "cpu",
    limit_train: int | None = None,
    progress: bool | Reporter = True,
    batch_size: int | None = None,
    backend: str = "hooks",
) -> Attribution | Attributions:
    """Rank the training images by their influence on given pictures, or on pictures that the task's model generates.

    Args:
        method: a single method, as for `run`; or a list of them, which are answered side by side.
        task: a single task, as for `run`.
        images: files or PIL images; without any, the model draws one picture for each prompt.
        image_dirs: folders of further pictures, in name order; captions are those of metadata.csv or metadata.jsonl, or
            of text files beside the pictures.
        prompts: one for all pictures, or one for each of `images`.
        picture_seed: seed of pictures that the model draws.
        k: how many training images.
        lowest: how many of those with the lowest scores, which pull against the picture.
        duplicates: whether training images that are nearly the same are one row of the answer (`group`), or each for
            itself (`list`).
        checkpoint: other weights of the task's model, as a training script leaves them: a folder (`checkpoint-500`)
            or a safetensors file, of a LoRA or of the network.
        evidence: of how many of the first training images to map where in the picture their scores come from, as
            `evidence_map` does; for one picture, by the first method whose scores come apart by position.
        out: folder in which the cache lies by default.

    The other arguments are those of `run`.

    Returns:
        The ranking with the pictures, which a notebook shows as a contact sheet; for a list of methods, all of their
        answers, and how far they agree.

    Raises:
        UsageError: for a wrong name, option or question.
        AttrbenchError: for a picture that can't be read, and whatever ends a run.
    """
    from attrbench.evaluation import attribute as attribution  # torch comes with it, as in `run`

    many = isinstance(method, Sequence) and not isinstance(method, str)
    asked = request_question(several(method), task, many)
    question = _question(
        images,
        image_dirs,
        prompts,
        picture_seed,
        k=k,
        lowest=lowest,
        duplicates=duplicates,
        checkpoint=checkpoint,
        evidence=evidence,
    )
    settings = run_settings(
        out, cache, device, batch_size, backend, read_cache, queries_together=True, limit_train=limit_train
    )
    answers = attribution.attribute(*asked, question, settings, reporter(progress, settings))
    return answers if many else answers[0]


def attribute_blocks(  # noqa: D417
    methods: MethodLike | Sequence[MethodLike],
    task: TaskLike,
    *,
    images: Pictures = (),
    image_dirs: str | Path | Sequence[str | Path] = (),
    prompts: str | Sequence[str] = (),
    picture_seed: int | None = None,
    k: int = 20,
    lowest: int = 0,
    duplicates: Literal["group", "list"] = "group",
    checkpoint: str | Path | None = None,
    block: int = 64,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    read_cache: Sequence[str | Path] | None = None,
    device: str | None = "cpu",
    limit_train: int | None = None,
    progress: bool | Reporter = True,
    batch_size: int | None = None,
    backend: str = "hooks",
) -> Iterator[Attributions]:
    """Yield the answers about any number of pictures block by block, in bounded memory, as they are scored.

    What a method makes of the training set is made once. Gradients of pictures are kept in the cache: the same call
    resumes. A picture that can't be read is among the `unread` of its `block`; one that has no ranking has ids of -1,
    and its reason in `faults`.

    Args:
        methods: one or several.
        block: pictures that are loaded and scored at once. Methods that keep no gradients pass over the training set
            once a block.

    The other arguments are those of `attribute`.

    Raises:
        UsageError: as `attribute`.
        AttrbenchError: for whatever ends a run.
    """
    from attrbench.evaluation import attribute as attribution  # torch comes with it, as in `run`

    if block < 1:
        raise UsageError(f"block={block}: at least one picture")
    asked = request_question(several(methods), task, many=True)
    question = _question(
        images, image_dirs, prompts, picture_seed, k=k, lowest=lowest, duplicates=duplicates, checkpoint=checkpoint
    )
    settings = run_settings(
        out, cache, device, batch_size, backend, read_cache, queries_together=True, limit_train=limit_train
    )
    return attribution.attribute_blocks(*asked, question, settings, reporter(progress, settings), block)


def request_question(
    methods: Sequence[MethodLike], task: TaskLike, many: bool
) -> tuple[Registry, TaskRequest, list[MethodRequest]]:
    """Return the plugins, the task and the methods that a question is to, with validated options.

    Raises:
        UsageError: for wrong names and options, `all`, several tasks, or several methods where one is to answer.
    """
    registry = plugins.registry()
    requests, tasks = request_methods(registry, methods), request_tasks(registry, [task])
    if any(map(is_every, methods)) or len(tasks) != 1 or not requests or (len(requests) != 1 and not many):
        raise UsageError(
            "attribute takes one method and one task: neither 'all' nor a|b (several methods side by side: a list of"
            " them, or -m several times)"
        )
    return registry, tasks[0], requests


def _question(images: Any, folders: Any, prompts: Any, seed: int | None, **others: Any) -> Question:
    from attrbench.evaluation.question import Question  # NumPy and Pillow come with it, as above

    if (checkpoint := others.pop("checkpoint")) is not None:
        others["checkpoint"] = Path(checkpoint)
    return Question(
        images=[Path(image) if isinstance(image, str) else image for image in several(images)],
        folders=[Path(folder) for folder in several(folders)],
        prompts=several(prompts),
        seed=seed,
        **others,
    )
