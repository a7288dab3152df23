"""Registration of attrbench's own metrics, executors, ground truths, model families and reports, by plugin hooks."""

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
    (
        "hit-rate",
        "whether one of the top k is of the query's group, where groups have at most 10 items",
        "origins:HitRate",
    ),
    (
        "origin-rank",
        "rank of the best placed item of the query's group, where groups have at most 10 items; lower is better",
        "origins:OriginRank",
    ),
)
EXECUTORS = (
    ("inline", "one job after the other, in this process", "inline:InlineExecutor"),
    (
        "processes",
        "several processes of this machine, one CUDA device each or the cores shared out",
        "processes:ProcessesExecutor",
    ),
    ("ray", "actors of a Ray cluster, on one machine or many", "ray_cluster:RayExecutor"),
    ("slurm", "arrays of Slurm jobs, by submitit", "slurm:SlurmExecutor"),
)
GROUND_TRUTHS = (
    (
        "lds",
        "linear datamodeling score: scores summed over random subsets against the losses of models trained on them",
        "linear_datamodeling:LinearDatamodeling",
    ),
    (
        "leave-group-out",
        "scores summed over groups against models trained without one group each: top group, NDCG@3, Spearman",
        "leave_group_out:LeaveGroupOut",
    ),
    (
        "leave-k-out",
        "trains without a query's own top k: rise of its loss, and change of its picture, over random removal",
        "leave_k_out:LeaveKOut",
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

REPORTS = (("html", "one self-contained page: board, plots, gallery, agreement, provenance", "html.page:HtmlReport"),)


@hookimpl
def register_metrics(register: Register) -> None:
    """Register attrbench's own metrics, such as detection rate, recall and average precision."""
    for name, summary, target in METRICS:
        register(name, summary, f"attrbench.metrics.{target}")


@hookimpl
def register_executors(register: Register) -> None:
    """Register the executors: `inline` (this process), `processes` (several local ones), `ray` and `slurm`."""
    for name, summary, target in EXECUTORS:
        register(name, summary, f"attrbench.executors.{target}")


@hookimpl
def register_ground_truths(register: Register) -> None:
    """Register the ground truths `lds` (linear datamodeling score) and `removal` (retraining without items)."""
    for name, summary, target in GROUND_TRUTHS:
        register(name, summary, f"attrbench.ground_truth.{target}")


@hookimpl
def register_model_families(register: Register) -> None:
    """Register the loaders of DDPM, Stable Diffusion 1.x and Stable Diffusion 3 models."""
    for name, summary, target in MODEL_FAMILIES:
        register(name, summary, f"attrbench.models.families.{target}")


@hookimpl
def register_reports(register: Register) -> None:
    """Register the report `html`, one page with everything that records tell."""
    for name, summary, target in REPORTS:
        register(name, summary, f"attrbench.reports.{target}")
