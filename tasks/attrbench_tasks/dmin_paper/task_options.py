"""Options of the DMin paper's text-to-image tasks: model, LoRA, data set, queries, precision and training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from attrbench.contracts.model_config import Attributed
from attrbench.contracts.options import Options
from attrbench.contracts.seeds import Seed
from attrbench_tasks.dmin_paper.constants import BATCH, EPOCHS, RELEASED_SET, TRAIN_ITEMS


class PaperOptions(Options):
    """Options of the tasks `sd14-lora` and `sd3-lora`; a local path can stand for every hub id.

    Those from `train_epochs` on are for training alone.
    """

    needs: ClassVar = {
        "scale_items": "weights=random",
        **dict.fromkeys(("lora", "lora_revision", "dataset", "dataset_revision"), "weights=trained"),
        **dict.fromkeys(("caption_column", "group_column"), "weights=trained"),
        **dict.fromkeys(("prompts", "queries_per_group", "query_set"), "weights=trained"),
    }
    model: str | None = None
    """Pipeline: id on the hub, or a folder as `save_pretrained` writes it."""
    revision: str | None = None
    """Branch, tag or commit of the model."""
    lora: str | None = None
    """LoRA weights: id, folder or file, in the spelling of diffusers, peft or kohya."""
    lora_revision: str | None = None
    """Branch, tag or commit of the LoRA."""
    dataset: str = RELEASED_SET
    """Training images: id on the hub, or a folder, such as `attrbench prepare mixture` writes."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the data set."""
    caption_column: str | None = None
    """The column of captions; by default `text` or `caption`."""
    group_column: str | None = None
    """The column of groups; by default `group`, where there is one."""
    prompts: str | None = None
    """CSV with columns `prompt` and `group`: the held-out prompts, where the data set has no split `test`."""
    queries_per_group: int | None = Field(None, ge=1)
    """Prompts drawn of each group; all held-out ones by default, 10 where training captions stand in."""
    query_set: Literal["reported", "tuning"] = "reported"
    """`tuning`: queries of other seeds, for choosing options; nothing may be chosen on the reported ones."""
    resolution: int | None = Field(None, ge=8)
    """Pixels on a side; 512, or the model's own where that is smaller."""
    attributed: Attributed = "auto"
    """Which parameters are differentiated (docs/reference/models.md)."""
    vae: Literal["mode", "sample"] = "mode"
    """How latents are taken from the autoencoder (docs/reference/models.md)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights of all networks."""
    offload: bool = False
    """Text encoders and autoencoder lie in main memory while they are not at work."""
    gradient_checkpointing: bool | None = None
    """Activations are computed twice instead of kept; by default only with random weights."""
    sampling_steps: int | None = Field(None, ge=1, le=1000)
    """Sampling steps of the queries; by default diffusers' own: 50 for SD 1.4, 28 for SD 3."""
    guidance_scale: float | None = Field(None, ge=0)
    """Guidance scale of the queries; by default diffusers' own: 7.5 for SD 1.4, 7 for SD 3."""
    weights: Literal["trained", "random"] = "trained"
    """`random`: a scale run, see docs/reference/tasks.md."""
    scale_items: int = Field(TRAIN_ITEMS, ge=1)
    """Training images of a scale run."""
    train_epochs: float = Field(EPOCHS, gt=0)
    """Passes over the training set."""
    train_batch: int = Field(BATCH, ge=1)
    """Images of an optimizer step."""
    train_micro_batch: int = Field(8, ge=1)
    """Images of a forward pass; the gradients of a batch's forward passes are added up."""
    train_learning_rate: float | None = Field(None, gt=0)
    """Constant learning rate; 0.001 with LoRA and 0.0001 without by default."""
    train_precision: Literal["no", "bf16"] = "no"
    """accelerate's mixed precision; `no` is float32."""
    train_save_every: int = Field(100, ge=1)
    """Optimizer steps between two savings of the training's state."""
    train_seed: Seed = 0
    """Seed of initial LoRA weights, order, timesteps and noise."""


class FullPaperOptions(PaperOptions):
    """Options of the task `sd3-full`, which fine-tunes the whole network and so has no LoRA to name."""

    lora: ClassVar[None] = None  # type: ignore[misc]
    lora_revision: ClassVar[None] = None  # type: ignore[misc]
    needs: ClassVar = {"lora": "", "lora_revision": ""}
