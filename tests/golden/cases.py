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
    "dmin:precision=bf16": 1e-2,
}
"""Methods that round on purpose: a difference in the last bit of float32 may move an entry by a whole step there."""


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
        quick: whether `make test` runs it again.
        every: whether all registered methods run at their defaults; else only the variants.
        costly: `-m` strings that `make test` leaves out.
    """

    name: str
    task: str
    variants: tuple[str, ...]
    train: int
    queries: int
    batch: int = 256
    quick: bool = False
    every: bool = True
    costly: tuple[str, ...] = ()

    def tested(self, labels: list[str]) -> list[str]:
        """Return those of the labels that the test suite runs."""
        return [label for label in labels if label not in self.costly]


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
    "lissa:hessian=ggn,iterations=10",
    "lissa:hessian=hessian,iterations=10,damping=1000",
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
DIGITS = (*SEARCH, *ROWS, *SOURCES, *KERNELS, *CURVATURE, *OTHERS)
FEW = (
    "dmin:v=none",
    "dmin:normalise=false",
    "dmin:search=hnsw",
    "dmin:noise=per-item",
    "trak:v=none",
    "d-trak:v=none",
    "datainf:noise=shared,damping=0.0001",
    "lissa:hessian=ggn,iterations=10",
)
TEXT = (*FEW, "dmin:target=noise", "dmin:dtype=int8", "latent:similarity=l2")
"""For models with prompts and an autoencoder."""

CASES = {
    case.name: case
    for case in (
        Case("digits-mini", "digits-mini", DIGITS, train=600, queries=30),
        Case("digits-mini-slice", "digits-mini:queries_per_group=1", DIGITS, train=80, queries=4, quick=True),
        Case("ddpm-mnist-mini", "ddpm-mnist-mini:queries_per_group=1", FEW, train=60, queries=4, batch=64),
        Case("ddpm-icons-mini", "ddpm-icons-mini:queries_per_group=1", FEW, train=60, queries=4, batch=64),
        Case("sd14-lora-mini", "sd14-lora-mini:queries_per_group=1", TEXT, train=60, queries=4, batch=64),
        Case("sd3-lora-mini", "sd3-lora-mini:queries_per_group=1", TEXT, train=60, queries=4, batch=64),
        Case("sd3-full-mini", "sd3-full-mini:queries_per_group=1", TEXT, train=60, queries=4, batch=64),
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
