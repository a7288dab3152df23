"""Which methods run on which task, and how closely each must agree with its record."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-5
"""|new - recorded| <= TOLERANCE * (|recorded| + scale), where `scale` is the root mean square of the whole array; for
scores, that of the same query's scores."""

LOOSER = {
    "dmin:dtype=int8": 1e-2,
    "dmin:dtype=float16": 1e-3,
    "dmin:dtype=bfloat16": 1e-2,
    "dmin:precision=bf16": 5e-2,
    "dmin:noise=per-item": 5e-5,
    "ekfac:fisher=empirical,draws=512": 5e-5,
}
"""Methods that round on purpose: a difference in the last bit of float32 may move an entry by a whole step there. And
those that another kind of processor was seen to move by more than `TOLERANCE` (an AMD EPYC: 2.1 times)."""


EACH = ("*",)


def tolerance(label: str) -> float:
    """Return the tolerance of a method's arrays."""
    return LOOSER.get(label, TOLERANCE)


@dataclass(frozen=True)
class Case:
    """One golden record.

    Attributes:
        name: of the files.
        task: the `-t` string.
        variants: `-m` strings besides every method at its defaults.
        train, queries: how many training items and queries.
        batch: pairs of item and timestep in a backward pass.
        quick: `-m` strings that `make test` runs again; `EACH` for all but the costly.
        every: whether all registered methods run at their defaults; else only the variants.
        without: registered methods that only variants stand for, with fewer draws.
        costly: what `EACH` leaves out: what takes long, or is another on another machine.
    """

    name: str
    task: str
    variants: tuple[str, ...]
    train: int
    queries: int
    batch: int = 256
    quick: tuple[str, ...] = ()
    every: bool = True
    without: tuple[str, ...] = ()
    costly: tuple[str, ...] = ()

    def tested(self, labels: list[str]) -> list[str]:
        """Return those of the labels that `make test` runs."""
        if self.quick == EACH:
            return [label for label in labels if label not in self.costly]
        return [label for label in labels if label in self.quick]


SEARCH = (
    "dmin:search=hnsw",
    "dmin:search=faiss",
    "dmin:search=faiss,index=RaBitQ,rerank=5",
    "dmin:search=faiss,index=IVF4,Flat,nprobe=2,k=10",
)
ROWS = (
    "dmin:v=none",
    "dmin:v=none,normalise=false",
    "dmin:v=1024",
    "dmin:normalise=false",
    "dmin:k=7",
    "dmin:dtype=int8",
    "dmin:dtype=float16",
    "dmin:dtype=bfloat16",
    "dmin:sketch=permutation",
    "dmin:sketch=rademacher,v=64",
    "dmin:sketch=gaussian,v=64",
    "dmin:seed=7",
    "grad-cos:v=none",
)
SOURCES = (
    "dmin:noise=per-item",
    "dmin:noise=per-timestep,noise_seed=3",
    "dmin:grid=uniform",
    "dmin:grid=random,timesteps=3",
    "dmin:image_range=unit",
    "dmin:target=noise",
    "dmin:precision=bf16",
    "trak:noise=shared",
    "d-trak:noise=shared",
    "das:noise=shared",
    "datainf:noise=shared,damping=0.0001",
)
KERNELS = (
    "trak:v=none",
    "d-trak:v=none",
    "journey-trak:v=none",
    "das:v=none",
    "renorm-if:v=none",
    "trak:damping=1",
    "d-trak:damping=0.01",
    "d-trak:damping=0.001,damping_mode=absolute",
    "das:damping=0.01",
    "das:squared=false",
    "das:residual=false",
    "das:leverage=false",
    "relative-if:output=squared-norm",
    "journey-trak:damping=1",
    "journey-trak:at=500,draws=4",
)
CURVATURE = (
    "datainf:blocks=module",
    "datainf:blocks=single,v=1024",
    "datainf:concatenate=true,timesteps=3",
    "datainf:damping=0.0001",
    "lissa:damping=1",
    "lissa:blocks=module",
    "lissa:blocks=single,batch=50,iterations=60",
    "ekfac:damping=0.001",
    "ekfac:fisher=empirical,draws=512",
    "ekfac:sharing=reduce,draws=512",
    "kfac:damping=0.01",
)
OTHERS = (
    "tracin:checkpoints=2,weights=learning-rate,normalise=true",
    "diffusion-retrac:checkpoints=2",
    "pixel:similarity=l2",
    "pixel:similarity=dot",
    "random:draw=1",
    "shuffled:draw=1",
)
ITERATED = ("lissa:hessian=ggn,iterations=10", "lissa:hessian=hessian,iterations=10,damping=1000")
DIGITS = (*SEARCH, *ROWS, *SOURCES, *KERNELS, *CURVATURE, *ITERATED, *OTHERS)
FEW = (
    "dmin:v=none",
    "dmin:normalise=false",
    "dmin:search=hnsw",
    "dmin:noise=per-item",
    "trak:v=none",
    "d-trak:v=none",
    "datainf:noise=shared,damping=0.0001",
    "ekfac:draws=256",
    "kfac:draws=256",
)
TEXT = (*FEW, "dmin:target=noise", "dmin:dtype=int8", "latent:similarity=l2")
"""For models with prompts and an autoencoder."""

CURVED = ("ekfac", "kfac")
PROMPTED = ("dmin", "dmin:target=noise", "latent", "d-trak:v=none")
COSTLY = (*CURVED, "ekfac:damping=0.001", "kfac:damping=0.01", *ITERATED)
DEGENERATE = ("ekfac:sharing=reduce,draws=512",)
"""A factor of fewer draws than rows has no eigenvectors of its own where its eigenvalues are 0: those that the machine
gives decide EK-FAC's eigenvalues and scores, so that another kind of processor gives others."""


def _slice(name: str, variants: tuple[str, ...], train: int, quick: tuple[str, ...] = ()) -> Case:
    """Return the case of a larger model: all methods on a few items."""
    return Case(name, f"{name}:queries_per_group=1", variants, train, 4, batch=64, quick=quick, without=CURVED)


CASES = {
    case.name: case
    for case in (
        Case("digits-mini", "digits-mini", DIGITS, train=600, queries=30),
        Case(
            "digits-mini-slice",
            "digits-mini:queries_per_group=1",
            DIGITS,
            80,
            4,
            quick=EACH,
            costly=(*COSTLY, *DEGENERATE),
        ),
        _slice("ddpm-mnist-mini", FEW, 60),
        _slice("ddpm-icons-mini", FEW, 20),
        _slice("sd14-lora-mini", TEXT, 60),
        _slice("sd3-lora-mini", (*TEXT, "journey-trak:sampling_steps=5"), 60, quick=PROMPTED),
        _slice("sd3-full-mini", TEXT, 60),
        Case(
            "mnist-removal-mini",
            "mnist-removal-mini:generations=16,queries=4",
            ("dmin", "dmin:v=none", "d-trak", "pixel"),
            train=100,
            queries=4,
            every=False,
        ),
    )
}
