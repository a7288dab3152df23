"""What sinks make of a batch's gradients does not depend on how the batch is cut, ordered or handed on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attrbench.gradients.inner_products import InnerProductSink
from attrbench.gradients.layer_blocks import layer_blocks
from attrbench.gradients.sinks import GatheringSink, NormSink, SketchSink, TimestepSumSink, WholeGradientSink

SIZES = {"a.weight": 300, "a.bias": 5, "b.weight": 700, "b.bias": 3}
OFFSETS = dict(zip(SIZES, (0, 300, 305, 1005), strict=True))
TOTAL = 1008
CPU = torch.device("cpu")


def fed(sink, items, timesteps, gradients, through=None):
    """The sink after a batch, parameter by parameter in the order of a backward pass."""
    target = sink if through is None else through
    target.start(items, timesteps, gradients.dtype, CPU)
    for name in reversed(SIZES):
        target.add(OFFSETS[name], gradients[:, OFFSETS[name] : OFFSETS[name] + SIZES[name]])
    if through is not None:
        through.hand_on()
    return sink


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direct(queries, timesteps, gradients):
    """[B, m] inner products, one by one."""
    at = timesteps if len(queries) > 1 else torch.zeros_like(timesteps)
    return torch.stack([queries[t] @ g for t, g in zip(at.tolist(), gradients, strict=True)])


@given(
    timesteps=st.lists(st.integers(0, 2), min_size=1, max_size=9),
    steps=st.sampled_from([1, 3]),
    cut=st.sampled_from(["all", "module", "parameter"]),
)
def test_products_are_those_of_matching_timesteps_in_any_order(timesteps, steps, cut):
    timesteps = torch.tensor(timesteps)
    queries, gradients = random(steps, 4, TOTAL), random(len(timesteps), TOTAL, seed=1)
    layers = layer_blocks(OFFSETS, SIZES, cut)
    found = fed(InnerProductSink([queries], layers), torch.arange(len(timesteps)), timesteps, gradients).result()
    assert torch.allclose(found.view(len(timesteps), 4, -1).sum(2), direct(queries, timesteps, gradients))
    for index, layer in enumerate(layers):
        inside = torch.zeros(TOTAL, dtype=torch.float64)
        for offset in layer.places:
            inside[offset : offset + SIZES[next(n for n in OFFSETS if OFFSETS[n] == offset)]] = 1
        expected = direct(queries, timesteps, gradients * inside)
        assert torch.allclose(found.view(len(timesteps), 4, -1)[:, :, index], expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_products_in_single_precision_with_several_sets_stand_side_by_side(steps):
    timesteps = torch.arange(3).repeat(5)
    sets, gradients = [random(steps, m, TOTAL, seed=m).float() for m in (4, 1, 2)], random(15, TOTAL, seed=9).float()
    layers = layer_blocks(OFFSETS, SIZES, "all")
    together = fed(InnerProductSink(sets, layers), torch.arange(15), timesteps, gradients).result()
    expected = torch.cat([direct(rows.double(), timesteps, gradients.double()) for rows in sets], dim=1)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_query_without_a_gradient_has_products_of_zero_with_all():
    queries, gradients = random(1, 4, TOTAL).float(), random(6, TOTAL, seed=1).float()
    queries[0, 2] = torch.nan
    sink = InnerProductSink([queries], layer_blocks(OFFSETS, SIZES, "all"))
    found = fed(sink, torch.arange(6), torch.zeros(6, dtype=torch.int64), gradients).result()
    assert torch.equal(found[:, 2], torch.zeros(6)) and bool(found[:, [0, 1, 3]].all())


@pytest.mark.parametrize("timesteps", [torch.arange(3).repeat(5), torch.arange(3).repeat_interleave(5)])
def test_a_whole_grid_in_order_gives_the_products_of_any_other_order(timesteps):
    queries, gradients = random(3, 4, TOTAL), random(15, TOTAL, seed=1)
    layers = layer_blocks(OFFSETS, SIZES, "all")
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    even = fed(InnerProductSink([queries], layers), torch.arange(15), timesteps, gradients).result()
    uneven = fed(
        InnerProductSink([queries], layers), torch.arange(15), timesteps[shuffled], gradients[shuffled]
    ).result()
    assert torch.allclose(even[shuffled], uneven)


@given(runs=st.lists(st.integers(1, 4), min_size=1, max_size=4), shuffle=st.randoms())
def test_sums_over_timesteps_are_the_same_however_many_pairs_an_item_has_in_the_batch(runs, shuffle):
    order = [item + 7 for item, pairs in enumerate(runs) for _ in range(pairs)]
    shuffle.shuffle(order)
    check_sums(torch.tensor(order))


@pytest.mark.parametrize("items", [torch.arange(4).repeat(3), torch.arange(4).repeat_interleave(3)])
def test_sums_over_timesteps_are_the_same_timestep_by_timestep_and_item_by_item(items):
    check_sums(items + 7)


def check_sums(items):
    gradients = random(len(items), TOTAL)
    whole = WholeGradientSink(TOTAL)
    sums = fed(TimestepSumSink([whole]), items, torch.zeros_like(items), gradients)
    rows = sums.spread(whole.result())
    for item in items.unique():
        mine = items == item
        assert torch.allclose(rows[mine].sum(0), gradients[mine].sum(0))
    assert (rows.abs().sum(1) > 0).sum() == len(items.unique())  # one row an item, zeros beside it


def test_a_gradient_that_is_not_finite_stays_with_its_item():
    items = torch.tensor([0, 0, 1, 1])
    gradients = random(4, TOTAL)
    gradients[1, 17] = torch.nan
    whole = WholeGradientSink(TOTAL)
    fed(TimestepSumSink([whole]), items, torch.tensor([0, 1, 0, 1]), gradients)
    assert whole.result()[0].isnan().any()
    assert whole.result()[1].isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        NormSink,
        lambda: WholeGradientSink(TOTAL),
        lambda: InnerProductSink([random(2, 3, TOTAL, seed=2)], layer_blocks(OFFSETS, SIZES, "all")),
        lambda: InnerProductSink([random(2, 3, TOTAL, seed=2)], layer_blocks(OFFSETS, SIZES, "module")),
        lambda: SketchSink(layer_blocks(OFFSETS, SIZES, "all"), False, "rotation", [64], 1),
        lambda: SketchSink(layer_blocks(OFFSETS, SIZES, "parameter"), True, "rotation", [64], 1),
    ],
    ids=["norms", "whole", "products", "products by module", "sketch", "sketch by parameter"],
)
def test_handed_on_in_one_piece_or_parameter_by_parameter_is_the_same(make):
    items, timesteps, gradients = torch.arange(4), torch.tensor([0, 1, 0, 1]), random(4, TOTAL)

    def result(sink):
        return sink.result(64) if isinstance(sink, SketchSink) else sink.result()

    gathered = make()
    fed(gathered, items, timesteps, gradients, through=GatheringSink(TOTAL, [gathered], list(OFFSETS.values())))
    assert torch.allclose(result(gathered), result(fed(make(), items, timesteps, gradients)))
