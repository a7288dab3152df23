import pytest
import torch

from attrbench.errors import AttrbenchError
from attrbench_tasks.training.loop import STATE_FILE
from attrbench_tasks.training.train_ddpm import DDPMRecipe, train_ddpm

RECIPE = DDPMRecipe(
    unet={
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
    },
    steps=6,
    batch_size=4,
    learning_rate=1e-3,
)
CPU = torch.device("cpu")


def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_training_is_seeded_and_resumes_to_the_same_weights(tmp_path):
    train_ddpm(RECIPE, images(), tmp_path / "whole", device=CPU, report=lambda step, loss: None)

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ddpm(RECIPE, images(), tmp_path / "cut", device=CPU, report=stop, checkpoint_every=2)
    assert (tmp_path / "cut" / STATE_FILE).exists()
    steps = []
    train_ddpm(
        RECIPE, images(), tmp_path / "cut", device=CPU, report=lambda step, loss: steps.append(step), checkpoint_every=2
    )
    assert steps[0] == 4  # resumed from the checkpoint at 2
    assert not (tmp_path / "cut" / STATE_FILE).exists()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_state_of_another_recipe_is_refused(tmp_path):
    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ddpm(RECIPE, images(), tmp_path, device=CPU, report=stop, checkpoint_every=2)
    other = RECIPE.model_copy(update={"seed": 1})
    with pytest.raises(AttrbenchError, match="another recipe"):
        train_ddpm(other, images(), tmp_path, device=CPU, report=lambda step, loss: None)
