"""Maps of where in a query's picture a training item's score comes from, for scores that are gradient products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attrbench.contracts.method import Method
from attrbench.contracts.ranking import Ranking
from attrbench.contracts.task import Items, OpenTask
from attrbench.data.open_dataset import make_items
from attrbench.errors import UsageError
from attrbench.evaluation.meaningless import check_weights
from attrbench.evaluation.question import read_picture
from attrbench.features.gradient_products import products_by_timestep
from attrbench.gradients.evidence import ENTRIES, evidence
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.reports.contact_sheet import ContactSheet, Heading, Strip
from attrbench.reports.heat_map import over
from attrbench.reports.named_files import encoded


@dataclass(frozen=True, repr=False)
class EvidenceMap:
    """The parts of training items' scores that each position of a query contributes; a notebook draws it.

    Attributes:
        method: label of the method whose scores are taken apart.
        query: the picture, a set of one.
        train: the training set.
        items: indices of the k training items.
        timesteps: the T timesteps at which gradients are multiplied.
        values: [k, T, h, w]; positions are those of the network's input, latents where there is an autoencoder.
    """

    method: str
    query: Items
    train: Items
    items: Sequence[int]
    timesteps: Sequence[float]
    values: NDArray[np.float64]

    @property
    def maps(self) -> NDArray[np.float64]:
        """Return [k, h, w], summed over the timesteps: what each position adds to the score, or takes from it."""
        return self.values.sum(axis=1)  # type: ignore[no-any-return]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the [k] scores of the training items, which are the sums of the maps."""
        return self.maps.sum(axis=(1, 2))  # type: ignore[no-any-return]

    @property
    def words(self) -> str:
        """Return what the picture shows, in words."""
        scored = zip(self.items, self.scores, strict=True)
        named = ", ".join(f"item {item} (score {score:.4g})" for item, score in scored)
        return (
            f"Parts of the picture from which the scores of {self.method} come, each map beside its training image:"
            f" {named}. Red counts for the image, blue against it. A map sums to its score; its strongest position has"
            " the full color."
        )

    def picture(self) -> Image.Image:
        """Return the query, and for each training item the map over the query, then the item itself.

        Red is for the item, blue against it; the strongest position of each map has the full color.
        """
        image, chosen = self.query.images[0], self.train.images[list(self.items)]
        maps = [over(image, values) for values in self.maps]
        color = np.repeat(chosen, 3, axis=3) if chosen.shape[3] == 1 else chosen
        tiles = np.stack([tile for pair in zip(maps, color, strict=True) for tile in pair])
        words = [word for item in self.items for word in ("", self.train.groups[item])]
        names = [name for item in self.items for name in (f"evidence, item {item}", f"item {item}")]
        prompts = [text for item in self.items for text in ("", self.train.prompts[item])]
        scores = np.repeat(self.scores, 2).astype(np.float32)[None]
        shown = Items(tiles, words, prompts, "", names=names)
        ranking = Ranking(np.arange(len(tiles))[None], scores)
        heading = Heading(f"Evidence by position, method {self.method}", "Red: for the item; blue: against it.")
        return ContactSheet(self.query, shown, [Strip(ranking)], heading)[0]

    def _repr_png_(self) -> bytes:
        return encoded(self.picture())

    def __repr__(self) -> str:
        return f"<EvidenceMap of {len(self.items)} training items by {self.method}>"


def comes_apart(method: Method[Any]) -> bool:
    """Return whether a method's scores are sums of products of whole gradients, which come apart by position."""
    products = products_by_timestep(method.features())
    return products is not None and hasattr(method.options, "normalize") and products.source.output in ENTRIES


def evidence_map(opened: OpenTask, method: Method[Any], label: str, query: Items, items: Sequence[int]) -> EvidenceMap:
    """Return where in a picture the scores of some training items come from.

    One gradient of each item and one forward-mode product are computed at each timestep; nothing is stored.

    Args:
        opened: the task.
        method: whose scores: sums over timesteps of products of whole gradients.
        label: its name with options.
        query: the picture, a set of one.
        items: indices of training items.

    Raises:
        UsageError: for another kind of method, and for an index that is out of range.
    """
    products = products_by_timestep(method.features())
    if products is None or not hasattr(method.options, "normalize"):
        raise UsageError(
            f"method {label}: only scores that are sums of products of whole gradients come apart by position: take"
            " grad-dot or dmin:v=none"
        )
    wrong = [item for item in items if not 0 <= item < len(opened.train)]
    if wrong or not items:
        raise UsageError(f"items: name some of 0 to {len(opened.train) - 1}" + (f", not {wrong[0]}" if wrong else ""))
    denoiser = opened.denoiser
    check_weights(denoiser.module)
    queries = NoisySamples(products.source, denoiser, Split("query", query))
    training = NoisySamples(products.source, denoiser, Split("train", opened.train))
    normalize = bool(method.options.normalize)
    values = np.stack([evidence(queries, training, 0, item, normalize) for item in items])
    return EvidenceMap(label, query, opened.train, list(items), queries.timesteps, values)


def query_of(opened: OpenTask, index: int) -> Items:
    """Return one of a task's queries as a set of one.

    Raises:
        UsageError: for an index that is out of range.
    """
    queries = opened.queries
    if not 0 <= index < len(queries):
        raise UsageError(f"query {index}: the task has the queries 0 to {len(queries) - 1}")
    chosen = slice(index, index + 1)
    seeds = None if queries.seeds is None else queries.seeds[chosen]
    return Items(queries.images[chosen], queries.groups[chosen], queries.prompts[chosen], "", seeds)


def picture_of(opened: OpenTask, picture: Path | Image.Image, prompt: str) -> Items:
    """Return a picture at the model's size as a set of one.

    Raises:
        UsageError: for a prompt where the model takes none.
        AttrbenchError: where the picture can't be read.
    """
    if prompt and not opened.model_description.takes_prompts:
        raise UsageError("the model takes no prompts: leave out the prompt")
    height, width, channels = opened.train.images.shape[1:]
    pixels = read_picture(picture, (height, width, channels))
    name = str(picture) if isinstance(picture, Path) else "picture"
    return make_items(pixels[None], [prompt], [""], [name])
