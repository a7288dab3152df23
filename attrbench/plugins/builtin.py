"""The core's own registrations, through the hooks that plugins use."""

from attrbench.plugins.hookspecs import Register, hookimpl

METRICS = (
    (
        "detection-rate",
        "share of the top k that is of the query's group; at most group size / k",
        "retrieval:DetectionRate",
    ),
    ("recall", "share of the query's group that is in the top k", "retrieval:Recall"),
    (
        "average-precision",
        "mean precision at the ranks of the query's group, over the whole ranking",
        "retrieval:AveragePrecision",
    ),
    ("ann-recall", "share of the exact top k that an approximate search found", "retrieval:AnnRecall"),
)
EXECUTORS = (
    ("inline", "one job after the other, in this process", "inline:InlineExecutor"),
    (
        "processes",
        "several processes of this machine, one CUDA device each or the cores shared out",
        "processes:ProcessesExecutor",
    ),
)
GROUND_TRUTHS = (
    (
        "lds",
        "linear datamodeling score: scores summed over random subsets against the losses of models trained on them",
        "linear_datamodeling:LinearDatamodeling",
    ),
    ("removal", "trains without what a method retrieves, and measures what the new models draw", "removal:Removal"),
)
MODEL_FAMILIES = (
    ("ddpm", "unconditional DDPM: a UNet over pixels", "ddpm:DDPM"),
    (
        "stable-diffusion",
        "Stable Diffusion 1.x: a UNet over latents, conditioned on prompts",
        "stable_diffusion:StableDiffusion",
    ),
    (
        "stable-diffusion-3",
        "Stable Diffusion 3: a transformer over latents (MMDiT), conditioned on prompts",
        "stable_diffusion3:StableDiffusion3",
    ),
)


@hookimpl
def register_metrics(register: Register) -> None:
    """Register the metrics of DMin's tables and their uncapped relatives."""
    for name, summary, target in METRICS:
        register(name, summary, f"attrbench.metrics.{target}")


@hookimpl
def register_executors(register: Register) -> None:
    """Register this process, and several."""
    for name, summary, target in EXECUTORS:
        register(name, summary, f"attrbench.executors.{target}")


@hookimpl
def register_ground_truths(register: Register) -> None:
    """Register the linear datamodeling score, and removal."""
    for name, summary, target in GROUND_TRUTHS:
        register(name, summary, f"attrbench.ground_truth.{target}")


@hookimpl
def register_model_families(register: Register) -> None:
    """Register the families of DMin's paper."""
    for name, summary, target in MODEL_FAMILIES:
        register(name, summary, f"attrbench.models.families.{target}")
