"""The methods that ship with attrbench, registered like anybody's: one module a family."""

from collections.abc import Callable
from typing import Any

from attrbench import hookimpl
from attrbench.method import Method
from attrbench_methods.clip import CLIP
from attrbench_methods.das import DAS
from attrbench_methods.datainf import DataInf
from attrbench_methods.diffusion_retrac import DiffusionReTrac
from attrbench_methods.dmin import DMin
from attrbench_methods.ekfac import EKFAC, KFAC
from attrbench_methods.embedding import Embedding
from attrbench_methods.grad_cos import GradCos
from attrbench_methods.grad_dot import GradDot
from attrbench_methods.journey_trak import JourneyTRAK
from attrbench_methods.latent import Latent
from attrbench_methods.lissa import LiSSA, ReleasedLiSSA
from attrbench_methods.pixel import Pixel
from attrbench_methods.random import Random
from attrbench_methods.sanity import Shuffled, Untrained
from attrbench_methods.ssim import SSIM
from attrbench_methods.tracin import TracIn
from attrbench_methods.trak import DTRAK, TRAK, RelativeIF, RenormIF

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
