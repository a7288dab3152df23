"""Subsets are a function of (seed, number) alone."""

import numpy as np
import pytest

from attrbench.ground_truth.subsets import draw_subset, membership


@pytest.mark.parametrize("kind", ["fixed", "bernoulli"])
def test_a_subset_depends_on_seed_and_number_alone(kind):
    every = [draw_subset(50, number, 7, kind=kind) for number in range(20)]
    assert np.array_equal(draw_subset(50, 13, 7, kind=kind), every[13])
    assert len({tuple(subset) for subset in every}) == 20
    others = [draw_subset(50, number, 8, kind=kind) for number in range(20)]
    assert not {tuple(subset) for subset in others} & {tuple(subset) for subset in every}
    assert all((np.diff(subset) > 0).all() and subset[0] >= 0 and subset[-1] < 50 for subset in every)


def test_fixed_subsets_have_the_size_and_bernoulli_subsets_have_it_on_average():
    fixed = [len(draw_subset(41, number, 0, alpha=0.3)) for number in range(50)]
    assert set(fixed) == {12}
    sizes = [len(draw_subset(400, number, 0, alpha=0.3, kind="bernoulli")) for number in range(200)]
    assert len(set(sizes)) > 10 and np.mean(sizes) == pytest.approx(120, abs=3)


def test_every_item_is_in_about_half_of_the_subsets():
    share = membership([draw_subset(60, number, 0) for number in range(400)], 60).mean(axis=0)
    assert share.min() > 0.38 and share.max() < 0.62


def test_no_subset_is_empty():
    assert all(len(draw_subset(3, number, 0, alpha=0.01, kind="bernoulli")) >= 1 for number in range(50))
    assert len(draw_subset(3, 0, 0, alpha=0.01)) == 1
