"""What methods get where there are twelve training items, and pictures as queries."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from attrbench.contracts.feature import QueryFeatures
from attrbench.features.images import Images
from tests.methods.in_memory import context as small_context

COUNT, STEPS = 12, 3


def context(workspace=Path(), seed=0):
    return replace(small_context(seed, workspace), depth=COUNT)


def of_images(images):
    return QueryFeatures(np.arange(len(images)), {Images(): images})
