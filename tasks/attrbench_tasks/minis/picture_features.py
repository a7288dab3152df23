"""Features of pictures from the last hidden layer of a task's classifier, by which redrawn queries are compared."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from attrbench.contracts.ground_truth import PictureFeatures
from attrbench_tasks.training.classifier import FILE, hidden_features, load_classifier


def classifier_features(folder: Path) -> PictureFeatures:
    """Return the encoder of pictures that the classifier in a folder of weights makes."""
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    return PictureFeatures(partial(hidden_features, load_classifier(folder)), digest)
