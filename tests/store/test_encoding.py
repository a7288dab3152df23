import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from attrbench.store.encoding import SCALED, decode_rows, encode_rows, relative_error, row_bytes

DTYPES = ["float32", "float16", "bfloat16", "int8"]
WIDTHS = [1, 5, SCALED - 1, SCALED, SCALED + 1, 2 * SCALED, 2500]
SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=5)
BITS = arrays(np.uint32, SHAPES, elements=st.integers(0, 2**32 - 1))
RANDOM_ROWS = st.builds(
    lambda seed, items, steps, width, scale: rows(items, steps, width, seed) * np.float32(scale),
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(WIDTHS) | st.integers(1, 2500),
    st.sampled_from([1e-20, 1e-4, 1.0, 1e4]),
)


def rows(items=3, steps=2, width=2500, seed=0):
    """Rows whose size differs from group to group."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(items, steps, width)) * 10 ** rng.uniform(-3, 0, (items, steps, width))).astype("f4")


def finite(bits):
    """Float32 numbers of any bit pattern; 1 in the place of those that are not finite."""
    values = bits.view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(1))


def groups(array):
    """Its slices of at most 1024 columns."""
    return [array[..., start : start + SCALED] for start in range(0, array.shape[-1], SCALED)]


@given(BITS)
@settings(max_examples=60, deadline=None)
def test_float32_comes_back_bit_for_bit(bits):
    written = finite(bits)
    np.testing.assert_array_equal(decode_rows(encode_rows(written, "float32")).view(np.uint32), written.view(np.uint32))


@given(arrays(np.float16, SHAPES, elements=st.floats(width=16, allow_nan=False, allow_infinity=False)))
@settings(max_examples=60, deadline=None)
def test_numbers_that_float16_holds_come_back_as_they_are(values):
    written = values.astype(np.float32)
    np.testing.assert_array_equal(decode_rows(encode_rows(written, "float16")), written)


@given(RANDOM_ROWS)
@settings(max_examples=30, deadline=None)
def test_float16_is_rounded_to_nearest_by_numpy_as_by_torch(written):
    expected = torch.from_numpy(written).to(torch.float16).float().numpy()
    np.testing.assert_array_equal(decode_rows(encode_rows(written, "float16")), expected)


@given(BITS)
@settings(max_examples=200, deadline=None)
def test_bfloat16_is_rounded_as_torch_rounds(bits):
    written = finite(bits)
    arrays_ = encode_rows(written, "bfloat16")
    expected = torch.from_numpy(written).to(torch.bfloat16)
    np.testing.assert_array_equal(arrays_["rows"].view(np.int16), expected.view(torch.int16).numpy())
    np.testing.assert_array_equal(decode_rows(arrays_), expected.float().numpy())


def test_bfloat16_ties_go_to_the_even_neighbor():
    low = np.array([0x3F80, 0x3F81, 0xBF80, 0xBF81, 0x0000, 0x0001, 0x3FFF], np.uint32)
    tie = ((low << 16) | 0x8000).view(np.float32)[None, None]
    assert encode_rows(tie, "bfloat16")["rows"].ravel().tolist() == [
        *(0x3F80, 0x3F82, 0xBF80, 0xBF82, 0x0000, 0x0002, 0x4000)
    ]


@given(RANDOM_ROWS)
@settings(max_examples=60, deadline=None)
def test_int8_is_at_most_half_a_step_of_its_group_away(written):
    encoded = encode_rows(written, "int8")
    assert encoded["rows"].shape == written.shape
    assert encoded["scales"].shape == (*written.shape[:2], -(-written.shape[2] // SCALED))
    assert np.abs(encoded["rows"].astype(int)).max() <= 127
    decoded = decode_rows(encoded)
    for index, (mine, back) in enumerate(zip(groups(written), groups(decoded), strict=True)):
        scale = encoded["scales"][..., index]
        np.testing.assert_allclose(scale, np.abs(mine).max(axis=2) / 127, rtol=1e-6)
        assert (np.abs(back.astype("f8") - mine) <= 0.5001 * scale[..., None]).all()


@given(RANDOM_ROWS)
@settings(max_examples=30, deadline=None)
def test_int8_keeps_the_largest_of_each_group_and_the_signs(written):
    decoded = decode_rows(encode_rows(written, "int8"))
    assert (decoded * written >= 0).all()
    for mine, back in zip(groups(written), groups(decoded), strict=True):
        np.testing.assert_allclose(np.abs(back).max(axis=2), np.abs(mine).max(axis=2), rtol=1e-6)


def test_int8_groups_do_not_share_their_scale():
    written = rows(1, 1, 2 * SCALED)
    written[..., SCALED:] *= np.float32(1e-6)
    there = written[..., SCALED:]
    back = decode_rows(encode_rows(written, "int8"))[..., SCALED:]
    assert np.linalg.norm(back - there) < 0.05 * np.linalg.norm(there)


def test_int8_of_denormals_keeps_the_sign():
    written = np.full((1, 1, 1), np.float32(190 * 2.0**-149))
    assert decode_rows(encode_rows(written, "int8")).item() >= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_zero_rows_come_back_as_zeros_and_leave_the_others_alone(dtype, width):
    written = rows(width=width)
    alone = decode_rows(encode_rows(written, dtype))
    written[1] = 0
    written[2, 0] = 0
    decoded = decode_rows(encode_rows(written, dtype))
    assert not decoded[1].any() and not decoded[2, 0].any()
    np.testing.assert_array_equal(decoded[0], alone[0])
    np.testing.assert_array_equal(decoded[2, 1], alone[2, 1])


@given(RANDOM_ROWS, st.sampled_from(DTYPES), st.data())
@settings(max_examples=60, deadline=None)
def test_some_items_decode_as_they_do_among_all(written, dtype, data):
    encoded = encode_rows(written, dtype)
    items = np.array(data.draw(st.lists(st.integers(0, len(written) - 1), max_size=6)), np.int64)
    some = decode_rows(encoded, items)
    assert some.dtype == np.float32
    np.testing.assert_array_equal(some, decode_rows(encoded)[items])
    np.testing.assert_array_equal(decode_rows(encoded, slice(1, None)), decode_rows(encoded)[1:])


@given(RANDOM_ROWS, st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_bytes_of_a_row_are_those_of_its_arrays(written, dtype):
    items, steps, width = written.shape
    stored = sum(array.nbytes for array in encode_rows(written, dtype).values())
    assert stored == items * row_bytes(dtype, steps, width)


@given(RANDOM_ROWS, st.sampled_from(DTYPES))
@settings(max_examples=40, deadline=None)
def test_encoding_what_was_decoded_changes_nothing(written, dtype):
    first = encode_rows(written, dtype)
    again = encode_rows(decode_rows(first), dtype)
    np.testing.assert_array_equal(again["rows"], first["rows"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoding_leaves_the_rows_as_they_are(dtype):
    written = rows()
    encoded = encode_rows(written, dtype)
    decode_rows(encoded)
    np.testing.assert_array_equal(written, rows())
    again = encode_rows(rows(), dtype)
    for name in encoded:
        np.testing.assert_array_equal(encoded[name], again[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [5, 2500])
def test_relative_error_is_the_root_mean_square_over_the_rows_that_are_not_zero(dtype, width):
    written = rows(width=width)
    written[1, 1] = 0
    encoded = encode_rows(written, dtype)
    exact, stored = written.reshape(-1, width).astype("f8"), decode_rows(encoded).reshape(-1, width).astype("f8")
    ratios = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(exact, stored, strict=True) if a.any()]
    assert len(ratios) == 5
    assert relative_error(written, encoded) == pytest.approx(np.sqrt(np.mean(np.square(ratios))), rel=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_error_of_nothing_but_zeros_is_zero(dtype):
    nothing = np.zeros((2, 2, 7), np.float32)
    assert relative_error(nothing, encode_rows(nothing, dtype)) == 0


def test_relative_errors_of_unit_gaussian_rows_are_those_of_their_precision():
    written = np.random.default_rng(0).normal(size=(4, 2, 4096)).astype("f4")
    written /= np.linalg.norm(written, axis=2, keepdims=True)
    errors = [relative_error(written, encode_rows(written, dtype)) for dtype in DTYPES]
    assert errors[0] == 0
    assert 1e-4 < errors[1] < 3e-4  # float16: 11 bits
    assert 1e-3 < errors[2] < 2.5e-3  # bfloat16: 8 bits
    assert 5e-3 < errors[3] < 9e-3  # int8: steps of max / 127, where the largest of 1024 is about 3.3 sd
