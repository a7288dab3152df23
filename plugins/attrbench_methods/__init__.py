"""Table of the attribution methods that ship with attrbench, and the plugin hook that registers them by name."""

from attrbench.plugins.hookspecs import Register, hookimpl

METHODS = (
    ("random", "uniform random scores: the floor", "controls.random_scores:Random"),
    ("shuffled", "sanity: DMin with the training gradients shuffled among the items", "controls.sanity:Shuffled"),
    ("untrained", "sanity: DMin with the gradients of an untrained network", "controls.sanity:Untrained"),
    (
        "other-seed",
        "sanity: DMin with the gradients of a model that was trained with another seed",
        "controls.sanity:OtherSeed",
    ),
    (
        "caption",
        "words that captions share, rare words first; the pictures are not looked at",
        "controls.caption:Caption",
    ),
    ("pixel", "cosine, l2 or dot product of the images themselves", "similarity.pixel:Pixel"),
    ("ssim", "structural similarity of the images", "similarity.ssim:SSIM"),
    ("latent", "cosine, l2 or dot product of the autoencoder's latents", "similarity.latent:Latent"),
    (
        "embedding",
        "similarity of EfficientNet-Lite0's features, or of any timm model's",
        "similarity.embedding:Embedding",
    ),
    ("clip", "cosine or dot product of CLIP image embeddings", "similarity.clip:CLIP"),
    (
        "grad-dot",
        "inner product of whole loss gradients, not normalized (TracIn at the last checkpoint)",
        "first_order.grad_dot:GradDot",
    ),
    ("grad-cos", "cosine of mean loss gradients", "first_order.grad_cos:GradCos"),
    (
        "tracin",
        "inner products of loss gradients, summed over checkpoints of the training",
        "first_order.tracin:TracIn",
    ),
    ("dmin", "normalized, sketched loss gradients; exact or nearest-neighbor search", "first_order.dmin:DMin"),
    (
        "diffusion-retrac",
        "means of loss gradients that are scaled to unit norm at each timestep",
        "first_order.diffusion_retrac:DiffusionReTrac",
    ),
    ("trak", "ridge kernel over mean loss gradients", "kernel.trak:TRAK"),
    ("d-trak", "ridge kernel over mean gradients of the output's square", "kernel.trak:DTRAK"),
    (
        "journey-trak",
        "ridge kernel over loss gradients, queries followed along their sampling trajectory",
        "kernel.journey_trak:JourneyTRAK",
    ),
    ("relative-if", "TRAK over the norm of an item's influence", "kernel.trak:RelativeIF"),
    ("renorm-if", "TRAK over the norm of an item's gradient", "kernel.trak:RenormIF"),
    ("das", "squared leave-one-out change of the output, by one ridge kernel", "kernel.das:DAS"),
    (
        "datainf",
        "influence function with DataInf's closed-form inverse Hessian, block by block",
        "second_order.datainf:DataInf",
    ),
    ("lissa", "influence function with the inverse Hessian by iteration", "second_order.lissa:LiSSA"),
    (
        "lissa-released",
        "the LiSSA of DataInf's released code, damping with the wrong sign; see lissa",
        "second_order.lissa:ReleasedLiSSA",
    ),
    ("ekfac", "influence function with eigenvalue-corrected Kronecker-factored curvature", "second_order.ekfac:EKFAC"),
    ("kfac", "influence function with Kronecker-factored curvature", "second_order.ekfac:KFAC"),
)
"""Name, summary, and the class within this package."""


@hookimpl
def register_methods(register: Register) -> None:
    """Register every attribution method of this package: its name, one-line summary and class to import on use."""
    for name, summary, target in METHODS:
        register(name, summary, f"{__name__}.{target}")
