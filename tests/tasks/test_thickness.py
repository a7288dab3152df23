import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from attrbench_tasks.removal.thickness import thickness, thicknesses

SIDE = 28


def bar(width, *, upright=True, length=18):
    """A bar in the middle, gray where its edge cuts a pixel."""
    middle = SIDE / 2
    edges = np.arange(SIDE)
    covered = np.minimum(edges + 1, middle + width / 2) - np.maximum(edges, middle - width / 2)
    image = np.zeros((SIDE, SIDE))
    image[5 : 5 + length] = np.clip(covered, 0, 1)
    return (255 * (image if upright else image.T)).round().astype(np.uint8)


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("width", [1, 1.5, 2, 2.5, 3, 4, 5, 6])
def test_bars_are_as_thick_as_they_are_wide(width, upright):
    assert thickness(bar(width, upright=upright)) == pytest.approx(width, abs=0.1)


@pytest.mark.parametrize("width", [2, 4])
def test_slanted_bars_are_as_thick_as_they_are_wide(width):
    y, x = np.mgrid[:SIDE, :SIDE]
    across = np.abs((x - 13.5) - (y - 13.5)) / np.sqrt(2)
    image = np.where((np.abs(y - 13.5) < 9), np.clip(width / 2 + 0.5 - across, 0, 1), 0)
    assert thickness((255 * image).astype(np.uint8)) == pytest.approx(width, rel=0.12)  # its pointed ends are thinner


def test_rings_are_as_thick_as_their_band():
    y, x = np.mgrid[:SIDE, :SIDE]
    radius = np.hypot(x - 13.5, y - 13.5)
    image = np.clip(1.5 + 0.5 - np.abs(radius - 8), 0, 1)
    assert thickness((255 * image).astype(np.uint8)) == pytest.approx(3, abs=0.25)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 23), st.integers(4, 23)), min_size=2, max_size=4), st.sampled_from([1, 2]))
def test_dilating_a_drawing_makes_it_thicker(points, times):
    ink = np.zeros((SIDE, SIDE), bool)
    for (y0, x0), (y1, x1) in itertools.pairwise(points):
        for at in np.linspace(0, 1, 60):
            ink[round(y0 + at * (y1 - y0)), round(x0 + at * (x1 - x0))] = True
    thicker = binary_dilation(ink, iterations=times)
    thin, thick = (thickness(255 * drawing.astype(np.uint8)) for drawing in (ink, thicker))
    assert thick > thin


@pytest.mark.parametrize("formula", ["skeleton", "area"])
def test_both_formulas_grow_with_the_width(formula):
    values = [thickness(bar(width), formula) for width in (1, 2, 3, 4, 6)]
    assert values == sorted(values) and values[-1] > 3 * values[0]


def test_a_picture_with_nothing_drawn_has_no_thickness():
    images = np.stack([np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 100), bar(3)]).astype(np.uint8)[..., None]
    values = thicknesses(images)
    assert np.isnan(values[:2]).all()
    assert values[2] == pytest.approx(3, abs=0.1)


def test_single_pixels_and_full_pictures_are_finite():
    dot, square = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    dot[9, 9] = 255
    square[9:11, 9:11] = 255
    for image in (dot, square, np.full((SIDE, SIDE), 255, np.uint8)):
        for formula in ("skeleton", "area"):
            assert np.isfinite(thickness(image, formula))


def test_resolution_scales_the_thickness():
    image = bar(6)
    half = image.reshape(14, 2, 14, 2).mean((1, 3)).round().astype(np.uint8)
    assert thickness(half) == pytest.approx(thickness(image) / 2, abs=0.1)
