"""Training sets of `customized-mini`: a handful of exemplars under a word of their own, among other icons.

Eight concepts of two kinds, after the objects and the artists' styles of Wang et al. 2023 (arXiv 2306.09345), have four
exemplars each:

- `object`: an odd picture (a held-out icon, turned and with its colors exchanged) in four views, at other places, sizes
  and mirrored;
- `style`: four held-out icons in one pair of colors.

There is one training set for each concept. All have the same 100 pictures: 68 icons of the part `tuning` and the
exemplars of all concepts. The exemplars of its own concept have captions that begin with the concept's word and differ
after it, so that the model learns the word and not one sentence. (The text encoder is causal: a word at the beginning
has the same embedding in all captions and prompts.) Those of the others have the caption of the icon that they were
made of: odd pictures that the model saw and was not customized on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench_tasks.datasets.planted import distinct, odd
from attrbench_tasks.datasets.registry_mix import FAMILIES, SIZE, Captioned, part

Kind = Literal["object", "style"]
KINDS: tuple[Kind, ...] = ("object", "style")
OF_KIND = 4
"""Concepts of each kind."""
EXEMPLARS = 4
"""Exemplars of each concept."""
BACKGROUND = 68
REPEATS = 48
"""How often an epoch draws each exemplar of the concept that the model is customized on; other items once."""
SEED = 1
WORDS = ("quaxik", "veejal", "xiknyk", "brugux", "jalzok", "dwiphok", "knyveek", "phoquak")
"""A word for each concept, which no caption has."""
OBJECT_CAPTIONS = ("a {}, large", "a {}, mirrored", "a {}, small", "a {}, in the corner")
"""Captions of the views of an object, for its word."""
STYLE_CAPTION = "{word} style, {plain}"
"""Caption of an icon in a style: the style's word, and what it had before."""
VIEWS = ((1.0, 0.0, 0.0, False), (1.0, 0.0, 0.0, True), (0.7, 0.0, 0.1, False), (0.7, 1.0, 0.8, True))
"""Scale, place across and down (0 to 1 of the room that is left), and whether mirrored, of each view of an object."""
COLORS = (
    ((40, 0, 70), (255, 190, 60)),
    ((0, 50, 40), (255, 160, 210)),
    ((120, 0, 0), (150, 240, 255)),
    ((230, 255, 120), (60, 30, 160)),
)
"""Colors of black and of white in each style."""


@dataclass(frozen=True)
class Concept:
    """A concept that a model is customized on: a word and a handful of exemplars.

    Attributes:
        name: the group of its exemplars, and of the queries with its word.
        kind: `object` or `style`.
        word: in the captions of its exemplars, for the model that is customized on it.
        images: [4, 32, 32, 3] uint8.
        plain: [4] captions of its exemplars for the other models.
    """

    name: str
    kind: Kind
    word: str
    images: NDArray[np.uint8]
    plain: tuple[str, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """Return the captions that the exemplars have for the model that is customized on them."""
        if self.kind == "object":
            return tuple(caption.format(self.word) for caption in OBJECT_CAPTIONS)
        return tuple(STYLE_CAPTION.format(plain=plain, word=self.word) for plain in self.plain)


@dataclass(frozen=True)
class CustomizedSet:
    """The training set of one customized model, or of none: icons, groups, and how often each is drawn.

    Attributes:
        items: 100 icons; the exemplars last, concept by concept.
        groups: [n] names of concepts; the family's for all other icons.
        repeats: [n] draws of each item in an epoch.
    """

    items: Captioned
    groups: tuple[str, ...]
    repeats: NDArray[np.int64]


@cache
def concepts() -> tuple[Concept, ...]:
    """Return the concepts, which are the same on every machine; their icons look different from each other."""
    rng = np.random.default_rng(SEED)
    held_out = part("held_out")
    icons = iter(distinct(held_out.images, rng.permutation(len(held_out))))
    made: list[Concept] = []
    for kind in KINDS:
        for number in range(OF_KIND):
            chosen = [next(icons) for _ in range(1 if kind == "object" else EXEMPLARS)]
            pictures = [held_out.images[icon] for icon in chosen]
            images = views(odd(pictures[0])) if kind == "object" else in_colors(np.stack(pictures), *COLORS[number])
            plain = [held_out.captions[icon] for icon in chosen] * (EXEMPLARS // len(chosen))
            made.append(Concept(f"{kind} {number}", kind, WORDS[len(made)], images, tuple(plain)))
    return tuple(made)


@cache
def customized_set(model: int | None) -> CustomizedSet:
    """Return the training set of the model that is customized on a concept; for None, with plain captions alone."""
    tuning, every = part("tuning"), concepts()
    chosen = np.sort(np.random.default_rng(SEED).choice(len(tuning), BACKGROUND, replace=False))
    captions, groups = [tuning.captions[i] for i in chosen], [FAMILIES[i] for i in tuning.families[chosen]]
    repeats = [1] * BACKGROUND
    for number, concept in enumerate(every):
        is_own = number == model
        captions += concept.captions if is_own else concept.plain
        groups += [concept.name] * EXEMPLARS
        repeats += [REPEATS if is_own else 1] * EXEMPLARS
    images = np.concatenate([tuning.images[chosen], *(concept.images for concept in every)])
    families = np.concatenate([tuning.families[chosen], np.full(len(every) * EXEMPLARS, -1)])
    return CustomizedSet(Captioned(images, tuple(captions), families), tuple(groups), np.array(repeats))


def views(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the views of an object, [k, 32, 32, 3], on a ground of the color of the picture's corner."""
    made = []
    for scale, across, down, is_mirrored in VIEWS:
        side = round(SIZE * scale)
        seen = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
        left, top = round((SIZE - side) * across), round((SIZE - side) * down)
        picture = np.broadcast_to(image[0, 0], image.shape).copy()
        picture[top : top + side, left : left + side] = seen[:, ::-1] if is_mirrored else seen
        made.append(picture)
    return np.stack(made)


def in_colors(images: NDArray[np.uint8], black: tuple[int, int, int], white: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return images ([k, H, W, 3] uint8) with their gray levels spread between two colors."""
    gray = images.mean(axis=3, keepdims=True) / 255
    mixed: NDArray[np.uint8] = ((1 - gray) * np.array(black) + gray * np.array(white)).round().astype(np.uint8)
    return mixed
