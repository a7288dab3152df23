"""The methods that ship with attrbench, registered like anybody's: one module a family."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.contracts.method import Method
from attrbench_methods.controls.random_scores import Random
from attrbench_methods.controls.sanity import Shuffled, Untrained
from attrbench_methods.first_order.diffusion_retrac import DiffusionReTrac
from attrbench_methods.first_order.dmin import DMin
from attrbench_methods.first_order.grad_cos import GradCos
from attrbench_methods.first_order.grad_dot import GradDot
from attrbench_methods.first_order.tracin import TracIn
from attrbench_methods.kernel.das import DAS
from attrbench_methods.kernel.journey_trak import JourneyTRAK
from attrbench_methods.kernel.trak import DTRAK, TRAK, RelativeIF, RenormIF
from attrbench_methods.second_order.datainf import DataInf
from attrbench_methods.second_order.ekfac import EKFAC, KFAC
from attrbench_methods.second_order.lissa import LiSSA, ReleasedLiSSA
from attrbench_methods.similarity.clip import CLIP
from attrbench_methods.similarity.embedding import Embedding
from attrbench_methods.similarity.latent import Latent
from attrbench_methods.similarity.pixel import Pixel
from attrbench_methods.similarity.ssim import SSIM

METHODS: tuple[type[Method[Any]], ...] = (
    Random,
    Shuffled,
    Untrained,
    Pixel,
    SSIM,
    Latent,
    Embedding,
    CLIP,
    GradDot,
    GradCos,
    TracIn,
    DMin,
    DiffusionReTrac,
    TRAK,
    DTRAK,
    JourneyTRAK,
    RelativeIF,
    RenormIF,
    DAS,
    DataInf,
    LiSSA,
    ReleasedLiSSA,
    EKFAC,
    KFAC,
)


@hookimpl
def register_methods(register: Callable[[type[Method[Any]]], None]) -> None:
    """Registers every method of this package."""
    for method in METHODS:
        register(method)
