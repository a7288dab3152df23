"""The tasks that ship with attrbench, registered like anybody's: one module a family."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.contracts.dataset_builder import Preparation
from attrbench.contracts.task import Task
from attrbench_tasks.datasets.mixture import Mixture
from attrbench_tasks.dmin_paper.ddpm_tasks import DDPMCifar10, DDPMMnist
from attrbench_tasks.dmin_paper.text_to_image_tasks import SD3Full, SD3LoRA, SD14LoRA
from attrbench_tasks.minis.ddpm_icons import DDPMIconsMini
from attrbench_tasks.minis.ddpm_mnist import DDPMMnistMini
from attrbench_tasks.minis.digits import DigitsMini
from attrbench_tasks.minis.text_to_image import SD3FullMini, SD3LoRAMini, SD14LoRAMini
from attrbench_tasks.removal.mnist_removal import MnistRemoval, MnistRemovalMini


@hookimpl
def register_tasks(register: Callable[[type[Task[Any]]], None]) -> None:
    """Registers every task of this package."""
    for task in (
        DDPMMnistMini,
        DDPMIconsMini,
        DigitsMini,
        MnistRemoval,
        MnistRemovalMini,
        SD14LoRAMini,
        SD3FullMini,
        SD3LoRAMini,
        SD14LoRA,
        SD3LoRA,
        SD3Full,
        DDPMMnist,
        DDPMCifar10,
    ):
        register(task)


@hookimpl
def register_preparations(register: Callable[[type[Preparation[Any]]], None]) -> None:
    """Registers every data set that this package puts together."""
    register(Mixture)
