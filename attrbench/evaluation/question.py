"""Questions to attribution: pictures from files, folders or the model, and how many training items are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.contracts.seeds import check_seed
from attrbench.contracts.task import Items, OpenTask
from attrbench.data.image_folder import list_folder, missing_folder
from attrbench.data.open_dataset import make_items
from attrbench.data.pixels import refusing_bombs, to_pixels, what_is_wrong
from attrbench.errors import AttrbenchError, UsageError
from attrbench.taskfile.drawn_items import drawn_items
from attrbench.taskfile.prompts import Draw
from attrbench.text import plain

if TYPE_CHECKING:
    from attrbench.contracts.model_description import ModelDescription

Duplicates = Literal["group", "list"]


@dataclass(frozen=True)
class Question:
    """The images to attribute (files, or prompts and a seed to generate them), and how many training items to list.

    Attributes:
        images: their files, or PIL images; where there are none, the model draws one picture for each prompt.
        folders: folders of further images, in name order, with captions from metadata or from text files beside them.
        prompts: one for all images, or one for each of `images`.
        seed: of drawn pictures; None for images, or for 0.
        k: how many training items are wanted.
        lowest: how many of the lowest-scored training items are wanted beside them.
        duplicates: whether near-duplicates among the training items found are shown as one, or each for itself.
        checkpoint: other weights of the task's model, in place of its own.
        evidence: of how many of the first training items to map where in the picture their scores come from.
    """

    images: Sequence[Path | Image.Image] = ()
    folders: Sequence[Path] = ()
    prompts: Sequence[str] = ()
    seed: int | None = None
    k: int = 20
    lowest: int = 0
    duplicates: Duplicates = "group"
    checkpoint: Path | None = None
    evidence: int = 0


@dataclass(frozen=True)
class Picture:
    """One picture that is asked about: an image from a file or from memory, or a prompt and seed to draw one.

    Attributes:
        name: of the file, `picture 3`, or `seed 0 of 'a prompt'`.
        source: where it comes from.
        prompt: its prompt or caption; None where it has none.
    """

    name: str
    source: Path | Image.Image | Draw
    prompt: str | None = None


@dataclass(frozen=True)
class Block:
    """A stretch of the pictures of a question, loaded.

    Attributes:
        first: the number of its first picture in the question, from 0.
        size: how many pictures it has, with those that can't be read.
        items: those that were read.
        numbers: the number of each of `items` in the question.
        unread: number -> name and reason, of those that can't be read.
    """

    first: int
    size: int
    items: Items
    numbers: tuple[int, ...]
    unread: dict[int, tuple[str, str]]


def check_question(question: Question) -> None:
    """Raise an error for images, prompts and seed that don't fit together, or an image file that does not exist.

    Raises:
        UsageError: one line that says which option is too much or missing.
    """
    if question.k < 1 or question.lowest < 0 or question.evidence < 0:
        asked = f"k={question.k}, lowest={question.lowest}, evidence={question.evidence}"
        raise UsageError(f"{asked}: k is at least 1, the others at least 0")
    if question.duplicates not in ("group", "list"):
        raise UsageError(f"--duplicates {plain(question.duplicates)}: group or list")
    if question.seed is not None:
        check_seed(question.seed, "--seed")
    images, prompts, given = len(question.images), len(question.prompts), question.images or question.folders
    if given and question.seed is not None:
        raise UsageError("--seed is of a picture that the model draws: leave out either --image or --seed")
    if not given and not prompts and question.seed is None:
        raise UsageError(
            "nothing to attribute: give --image FILE, --image-dir FOLDER, or --prompt (or --seed alone, for a model"
            " without prompts)"
        )
    if given and prompts not in (0, 1, images):
        raise UsageError(f"{prompts} prompts for {images} images: give one for each image, or one for all")
    for image in question.images:
        if isinstance(image, Path) and not image.is_file():
            raise UsageError(f"--image {image}: there is no such file")
    for folder in question.folders:
        if not folder.is_dir():
            what = "is a file: --image takes it" if folder.exists() else missing_folder(folder)
            raise UsageError(f"--image-dir {folder}: {what}")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a question to the model of an open task, which are loaded block by block.

    Args:
        question: what is asked.
        opened: the task.
        cache: where pictures that the model draws are kept.
    """

    question: Question
    opened: OpenTask
    cache: Path

    def __len__(self) -> int:
        return len(self.listed)

    @cached_property
    def listed(self) -> Sequence[Picture]:
        """Return all pictures, with their prompts, before any is read.

        Raises:
            UsageError: for prompts where the model takes none, or none where it takes them.
            AttrbenchError: for a folder without images, or with wrong metadata.
        """
        question, model = self.question, self.opened.model_description
        if question.prompts and not model.takes_prompts:
            raise UsageError("the model takes no prompts: leave out --prompt")
        if question.images or question.folders:
            return _prompted(_given(question), question, model)
        if model.takes_prompts and not question.prompts:
            raise UsageError("the model takes prompts: give the picture's --prompt (--prompt '' for none)")
        draws = [Draw(prompt, question.seed or 0) for prompt in question.prompts or [""]]
        return [Picture(draw.name, draw, draw.prompt) for draw in draws]

    def blocks(self, size: int | None, skip: bool) -> Iterator[Block]:
        """Yield the pictures in blocks of a size (None for one block), in order; a block may be without items.

        Args:
            size: pictures in a block.
            skip: whether pictures that can't be read are left out, with the reason, instead of an error.

        Raises:
            AttrbenchError: for a picture that can't be read.
        """
        step = size or len(self)
        for first in range(0, len(self), step):
            yield self._block(first, self.listed[first : first + step], skip)

    def _block(self, first: int, pictures: Sequence[Picture], skip: bool) -> Block:
        draws = [picture.source for picture in pictures if isinstance(picture.source, Draw)]
        if draws:
            items = drawn_items(self.opened, draws, self.cache)
            return Block(first, len(draws), items, tuple(range(first, first + len(draws))), {})
        height, width, channels = self.opened.train.images.shape[1:]
        read: list[NDArray[np.uint8]] = []
        numbers: list[int] = []
        unread: dict[int, tuple[str, str]] = {}
        for number, picture in enumerate(pictures, start=first):
            assert not isinstance(picture.source, Draw)
            try:
                read.append(read_picture(picture.source, (height, width, channels)))
                numbers.append(number)
            except AttrbenchError as error:
                if not skip:
                    raise
                unread[number] = picture.name, str(error)
        known = [pictures[number - first] for number in numbers]
        images = np.stack(read) if read else np.empty((0, height, width, channels), np.uint8)
        prompts = [picture.prompt or "" for picture in known]
        items = make_items(images, prompts, [""] * len(known), [picture.name for picture in known])
        return Block(first, len(pictures), items, tuple(numbers), unread)


def _given(question: Question) -> list[Picture]:
    """Return the pictures of the files and folders of a question, with the captions that lie beside them."""
    pictures = []
    for number, image in enumerate(question.images):
        pictures.append(Picture(str(image) if isinstance(image, Path) else f"picture {number}", image))
    for folder in question.folders:
        listing = list_folder(folder, DatasetSource(path=str(folder)))
        paths = [folder / name for name in listing.names]
        captions = [_text_beside(path) for path in paths] if listing.captions is None else listing.captions
        pictures += [Picture(str(path), path, text) for path, text in zip(paths, captions, strict=True)]
    return pictures


def _text_beside(path: Path) -> str | None:
    """Return the caption in the text file of a picture's name beside it, as training scripts have it; None if none.

    Raises:
        AttrbenchError: where it can't be read.
    """
    file = path.with_suffix(".txt")
    try:
        return file.read_bytes().decode("utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AttrbenchError(f"cannot read the caption {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise AttrbenchError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _prompted(pictures: Sequence[Picture], question: Question, model: ModelDescription) -> list[Picture]:
    """Return the pictures with the prompts that were given: one for all, or one for each single image.

    Raises:
        UsageError: for a picture without a prompt, where the model takes them.
    """
    if not model.takes_prompts:
        return [replace(picture, prompt="") for picture in pictures]
    prompts = question.prompts
    given = list(prompts) if len(prompts) != 1 else list(prompts) * len(pictures)
    done = [replace(picture, prompt=prompt) for picture, prompt in zip(pictures, given, strict=False)]
    done += pictures[len(done) :]
    lacking = [picture for picture in done if picture.prompt is None]
    if lacking and question.folders:
        raise UsageError(
            f"the model takes prompts, and {len(lacking)} of {len(done)} pictures have none, first {lacking[0].name}:"
            " give captions (metadata.csv, or a text file of the picture's name beside it), or --prompt for all"
        )
    if lacking:
        raise UsageError("the model takes prompts: give the picture's --prompt (--prompt '' for none)")
    return done


def read_picture(picture: Path | Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image as [H, W, C] uint8, converted by the rules for training images (attrbench.data.pixels).

    Raises:
        AttrbenchError: where it can't be read.
    """
    try:
        if isinstance(picture, Image.Image):
            return to_pixels(picture, shape)
        with refusing_bombs(), Image.open(picture) as image:
            return to_pixels(image, shape)
    except Exception as error:  # Pillow's plugins raise anything over broken files
        raise AttrbenchError(f"picture {plain(picture)} cannot be read: {what_is_wrong(error)}") from None
