"""The tasks that ship with attrbench, registered like anybody's: one module a family."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.preparation import Preparation
from attrbench.task import Task
from attrbench_tasks.ddpm_icons import DDPMIconsMini
from attrbench_tasks.ddpm_mnist import DDPMMnistMini
from attrbench_tasks.digits import DigitsMini
from attrbench_tasks.mini_text_to_image import SD3FullMini, SD3LoRAMini, SD14LoRAMini
from attrbench_tasks.mixture import Mixture
from attrbench_tasks.mnist_removal import MnistRemoval, MnistRemovalMini
from attrbench_tasks.paper_ddpm import DDPMCifar10, DDPMMnist
from attrbench_tasks.paper_text_to_image import SD3Full, SD3LoRA, SD14LoRA


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
