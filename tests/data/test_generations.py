"""Generated pictures are drawn once, kept batch by batch, and depend on nothing but prompt, seed and model."""

import numpy as np
import pytest

from attrbench.data.generated_images import Generations
from attrbench.errors import AttrbenchError


class Counting:
    """Stands for a denoiser: a picture that shows its prompt and seed."""

    fingerprint = "model"

    def __init__(self, fail_after=None, **sampling):
        self.sampling = {"steps": 5, **sampling}
        self.drawn = []
        self.fail_after = fail_after

    def generate(self, prompts, seeds):
        if self.fail_after is not None and len(self.drawn) >= self.fail_after:
            raise KeyboardInterrupt
        self.drawn += zip(prompts, seeds, strict=True)
        shades = [[len(prompt), seed, self.sampling["steps"]] for prompt, seed in zip(prompts, seeds, strict=True)]
        return np.array(shades, np.uint8).reshape(-1, 1, 1, 3)


PROMPTS, SEEDS = ["", "a", "bb", "ccc", "dddd"], [9, 8, 7, 6, 5]


def kept(model, cache, batch=2, prompts=PROMPTS, seeds=SEEDS):
    return Generations(model, lambda: model, prompts, seeds, cache, batch).images()


def test_pictures_come_in_order_and_are_drawn_once(tmp_path):
    model = Counting()
    first = kept(model, tmp_path)
    assert first[:, 0, 0].tolist() == [[0, 9, 5], [1, 8, 5], [2, 7, 5], [3, 6, 5], [4, 5, 5]]
    assert np.array_equal(kept(model, tmp_path), first)
    assert len(model.drawn) == 5


def test_batches_are_no_part_of_the_result(tmp_path):
    assert np.array_equal(kept(Counting(), tmp_path / "a", 1), kept(Counting(), tmp_path / "b", 16))


def test_what_was_cut_off_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        kept(Counting(fail_after=2), tmp_path)
    model = Counting()
    kept(model, tmp_path)
    assert [seed for _, seed in model.drawn] == [7, 6, 5]


def test_another_model_or_sampler_draws_anew(tmp_path):
    kept(Counting(), tmp_path)
    other = Counting(steps=6)
    assert kept(other, tmp_path)[0, 0, 0, 2] == 6
    other.fingerprint = "other"
    kept(other, tmp_path)
    assert len(other.drawn) == 10


def test_a_damaged_batch_is_drawn_again_alone(tmp_path, caplog):
    before = kept(Counting(), tmp_path)
    victim = sorted((tmp_path / "queries").glob("*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    model = Counting()
    assert np.array_equal(kept(model, tmp_path), before)
    assert len(model.drawn) in (1, 2)
    assert "damaged" in caplog.text


def test_a_cache_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AttrbenchError, match=r"cannot write to the cache .* --cache"):
        kept(Counting(), tmp_path / "file")


def test_a_real_model_draws_the_same_picture_in_any_batch(tmp_path, tiny_denoiser):
    together = kept(tiny_denoiser, tmp_path / "a", 3, [""] * 3, [1, 2, 3])
    alone = kept(tiny_denoiser, tmp_path / "b", 1, [""], [2])
    assert together.shape == (3, 8, 8, 1)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1


def test_images_are_kept_when_every_batch_is(tmp_path):
    model = Counting()
    images = Generations(model, lambda: model, PROMPTS, SEEDS, tmp_path, 2)
    assert not images.are_kept
    kept(model, tmp_path, prompts=PROMPTS[:2], seeds=SEEDS[:2])
    assert not images.are_kept
    kept(model, tmp_path)
    assert images.are_kept


def test_a_model_is_not_loaded_for_images_that_are_kept(tmp_path):
    model = Counting()
    first = kept(model, tmp_path)
    again = Generations(model, lambda: pytest.fail("loaded"), PROMPTS, SEEDS, tmp_path, 2)
    assert np.array_equal(again.images(), first)
