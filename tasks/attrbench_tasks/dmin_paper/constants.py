"""Ids of models and data sets, sizes and training settings that the DMin paper (arXiv 2412.08637) names.

Where the paper is silent, docs/reference/tasks.md says what is done here instead.
"""

from __future__ import annotations

SD14 = "CompVis/stable-diffusion-v1-4"
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
SD3_LORA = "huaweilin/DMin_sd3_medium_lora_r4"
RELEASED_SET = "huaweilin/DMin_mixed_datasets_8846"
DDPM_MNIST, MNIST = "1aurent/ddpm-mnist", "ylecun/mnist"
DDPM_CIFAR10, CIFAR10 = "google/ddpm-cifar10-32", "uoft-cs/cifar10"

RESOLUTION = 512
"""Pixels on a side (Table 7); the configuration in the released LoRA repository has 1,024."""
TRAIN_ITEMS = 9_288
"""Training images (the paper's section 4 and Table 1); 8,846 are released."""
QUERIED = ("flowers", "lego-sets", "magic-cards")
"""The groups whose held-out prompts are drawn (Table 1)."""

SOURCES = {
    "magic-cards": "clint-greene/magic-card-captions",
    "midjourney": "MohamedRashad/midjourney-detailed-prompts",
    "diffusiondb": "HighCWu/diffusiondb_2m_first_5k_canny",
    "lego-sets": "merve/lego_sets_latest",
    "pokemon": "svjack/pokemon-blip-captions-en-ja",
    "flowers": "Albe-njupt/gesang-flowers",
}
"""The data sets of the mixture, by the group that their images have here."""
NOISED_SHARE, HELD_OUT_SHARE = 0.05, 0.2

EPOCHS, BATCH = 150, 64
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
"""Of the paper's Table 7, with LoRA of rank 4 and alpha 8 on to_k, to_q, to_v and to_out.0, in float32."""
