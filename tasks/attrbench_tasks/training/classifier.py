"""Training of the small CNN that labels generated query images, and its accuracy on held-out images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save
from torch import nn

from attrbench.files import write_atomically

Labeled = tuple[NDArray[np.uint8], NDArray[np.int64]]

FILE = "classifier.safetensors"
REPORT = "classifier.json"


class ClassifierRecipe(BaseModel):
    """Training settings of the classifier of generated images: network size, epochs, augmentation, seed.

    Attributes:
        size: side of the images in pixels, divisible by 4.
        epochs: passes over the training images.
        shift: training images are moved by up to so many pixels each way.
        channels: of the images.
        classes: number of them.
        widths: channels of the two convolutions.
        edge: what moves in behind a moved image: black, or a copy of its edge.
        learning_rate: peak of a one-cycle schedule for Adam.
        seed: of the initial weights, the order and the shifts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    epochs: int
    shift: int
    channels: int = 1
    classes: int = 10
    widths: tuple[int, int] = (16, 32)
    edge: Literal["black", "copy"] = "black"
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


def build(recipe: ClassifierRecipe) -> torch.nn.Sequential:
    """Return an untrained CNN classifier (two convolutions, two linear layers) with the recipe's sizes.

    It maps [B, channels, size, size] images in [0, 1] to [B, classes] logits.
    """
    first, second = recipe.widths
    return nn.Sequential(
        nn.Conv2d(recipe.channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (recipe.size // 4) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, recipe.classes),
    )


def train_classifier(recipe: ClassifierRecipe, train: Labeled, test: Labeled, out: Path, device: torch.device) -> float:
    """Train the image classifier, save its weights and a report, and return its test accuracy, from 0 to 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(recipe).to(device)
    rng = torch.Generator().manual_seed(recipe.seed)
    images, labels = _tensor(train[0]).to(device), torch.from_numpy(train[1]).to(device)
    steps = len(images) // recipe.batch_size * recipe.epochs
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=rng)
        for batch in order.split(recipe.batch_size):
            if len(batch) < recipe.batch_size:
                continue
            x = _shifted(images[batch.to(device)], recipe, rng)
            loss = F.cross_entropy(model(x), labels[batch.to(device)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = (model(_tensor(test[0]).to(device)).argmax(1).cpu().numpy() == test[1]).mean()
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomically(out / FILE, save(state))
    report = {"recipe": recipe.model_dump(), "accuracy": round(float(right), 4), "test_images": len(test[1])}
    write_atomically(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return float(right)


def recipe_of(folder: Path) -> ClassifierRecipe:
    """Return the training settings of a saved image classifier, read from the report in its folder."""
    return ClassifierRecipe.model_validate(json.loads((folder / REPORT).read_text())["recipe"])


def accuracy_of(folder: Path) -> tuple[float, int]:
    """Return a saved classifier's test accuracy, from 0 to 1, and the number of test images."""
    report = json.loads((folder / REPORT).read_text())
    return float(report["accuracy"]), int(report["test_images"])


def load_classifier(folder: Path) -> torch.nn.Sequential:
    """Return a saved image classifier, ready to label images, from its folder of weights and report."""
    model = build(recipe_of(folder))
    model.load_state_dict(load_file(folder / FILE))
    return model.eval()


def probabilities(model: torch.nn.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the classifier's [B, classes] probabilities for [B, H, W, channels] uint8 images."""
    with torch.no_grad():
        result: NDArray[np.float32] = model(_tensor(images)).softmax(1).numpy()
    return result


def hidden_features(model: torch.nn.Sequential, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the classifier's [B, 64] features before its last layer for [B, H, W, channels] uint8 images."""
    with torch.no_grad():
        result: NDArray[np.float32] = model[:-1](_tensor(images)).numpy()
    return result


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _shifted(images: torch.Tensor, recipe: ClassifierRecipe, rng: torch.Generator) -> torch.Tensor:
    """Return a batch of images moved by one random offset, to augment the classifier's training."""
    shift, size = recipe.shift, images.shape[-1]
    dy, dx = (torch.randint(-shift, shift + 1, (2,), generator=rng)).tolist()
    padded = F.pad(images, (shift, shift, shift, shift), mode={"black": "constant", "copy": "replicate"}[recipe.edge])
    return padded[..., shift + dy : shift + dy + size, shift + dx : shift + dx + size]
