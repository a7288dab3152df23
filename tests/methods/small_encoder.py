"""Random images, a small network that embeds them, and the scores of its embeddings."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attrbench.contracts.feature import QueryFeatures
from attrbench.contracts.method import Context
from attrbench.errors import Unavailable
from attrbench.features.images import Images
from attrbench_methods.similarity.image_embeddings import EmbeddingScorer, Encoder, Preparation, optional_library

COUNT = 12
CPU = SimpleNamespace(device=torch.device("cpu"), has_latents=False)


def no_gradients(source):
    pytest.fail("no gradients here")


def context(workspace, denoiser=CPU, images="images"):
    return Context(0, COUNT, workspace, images, lambda: denoiser, no_gradients, no_gradients)


def random_images(count=COUNT, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def of_images(images):
    return QueryFeatures(np.arange(len(images)), {Images(): images})


class SmallNetwork(torch.nn.Module):
    """Counts the images that it embeds."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 24, 3, stride=2, padding=1)
            self.head = torch.nn.Linear(24 * 64, 40)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.head(self.conv(x).relu().flatten(1))


PREPARATION = Preparation((16, 16), (0.5,) * 3, (0.25,) * 3)


def small_encoder(batch_size=5, **identity):
    network = SmallNetwork()
    return Encoder(
        lambda images: network(PREPARATION(images, CPU.device)), {"name": "small", **identity}, batch_size
    ), network.seen


def scorer(images, similarity="cosine", batch_size=5):
    encoder, _ = small_encoder(batch_size)
    return EmbeddingScorer(encoder, encoder.embeddings(images), similarity)


def scores(train, queries, similarity="cosine", batch_size=5):
    return scorer(train, similarity, batch_size).scores(of_images(queries))


def real_library(name):
    """timm or open_clip, or the test is skipped.

    Both import torchvision. Its builds for CUDA do not import beside a CPU build of torch, for want of two operators
    that only detection needs: they are declared here, so that the rest can be used. What to install then:
    `pip install --no-deps torchvision open_clip_torch timm && pip install ftfy`, the torchvision that fits torch.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        real_library.declared = library  # they go when it does
    except ImportError:
        pass
    try:
        return optional_library("these tests", name, {"open_clip": "clip"}.get(name, name))
    except Unavailable as error:
        pytest.skip(str(error))
