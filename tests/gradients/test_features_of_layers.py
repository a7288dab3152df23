"""Rows and products of single layers are those of their own gradients, and cover the whole one once."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.gradients.layer_blocks import layer_blocks, layer_columns
from attrbench.models.noise import seed_of
from tests.gradients.pass_features import (
    COUNT,
    FORMS,
    STEPS,
    compute,  # noqa: F401
    contents,
    products_feature,
    queries,  # noqa: F401
    rows_feature,
    sketched,
    whole,  # noqa: F401
)

HUGE = 10**6


@pytest.fixture(scope="module")
def layers(tiny_denoiser):
    """The layers of the network by how they are cut, each with the coordinates of the gradient that it holds."""
    parameters = tiny_denoiser.attributed_parameters("all")
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    ends = np.cumsum([0, *sizes.values()]).tolist()
    offsets = dict(zip(sizes, ends, strict=False))
    found = {}
    for cut in ("module", "parameter"):
        groups = {}
        for name in sizes:
            layer = name.rpartition(".")[0] if cut == "module" else name
            groups.setdefault(layer, []).extend(range(offsets[name], offsets[name] + sizes[name]))
        found[cut] = groups, layer_blocks(offsets, sizes, cut)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_columns_of_a_layer_are_the_sketch_of_its_gradient_under_its_own_seed(compute, whole, layers, cut, form):
    length = 64
    rows, norms = compute.rows(rows_feature(length, form, layers=cut))
    np.testing.assert_allclose(norms, whole.norm(dim=2), rtol=1e-4)
    groups, blocks = layers[cut]
    columns = layer_columns(blocks, length)
    assert list(columns) == list(groups)
    unit = whole / whole.norm(dim=2, keepdim=True)
    for index, (name, coordinates) in enumerate(groups.items()):
        mine = sketched(unit[:, :, coordinates], min(length, len(coordinates)), form, seed_of("layer", 42, index))
        np.testing.assert_allclose(rows[:, :, columns[name]], mine, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("length", [8, 64, HUGE])
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_columns_of_the_layers_cover_the_row_once(compute, whole, cut, length):
    rows, _ = compute.rows(rows_feature(length, layers=cut))
    columns = layer_columns(compute.work().setting.layout.layers(cut), length)
    assert [column for part in columns.values() for column in range(rows.shape[2])[part]] == list(range(rows.shape[2]))
    assert (rows.shape[2] == whole.shape[2]) == (length == HUGE)


@pytest.mark.parametrize("form", ["rotation", "permutation"])
@pytest.mark.parametrize("cut", ["module", "parameter"])
def test_inner_products_of_a_layer_whose_sketch_is_longer_are_exact(compute, whole, layers, cut, form):
    rows, norms = compute.rows(rows_feature(HUGE, form, layers=cut))
    groups, blocks = layers[cut]
    assert rows.shape[2] == whole.shape[2]
    raw = rows.astype("f8") * norms[:, :, None]
    for name, part in layer_columns(blocks, HUGE).items():
        direct = whole[:, :, groups[name]].numpy()
        scale = np.einsum("it,jt->ijt", *[np.linalg.norm(whole.numpy(), axis=2)] * 2)
        expected = np.einsum("itp,jtp->ijt", direct, direct) / scale
        found = np.einsum("itp,jtp->ijt", raw[:, :, part], raw[:, :, part]) / scale
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("cut", "batch_size"), [("module", None), ("parameter", None), ("parameter", 7)])
def test_products_of_layers_are_the_direct_ones_and_add_up_to_the_plain_ones(
    compute, whole, layers, queries, cut, batch_size
):
    features = [products_feature(), products_feature(layers=cut)]
    stores = compute(features, engine=Engine(batch_size=batch_size))
    plain, apart = (contents(stores[feature])[0] for feature in features)
    values = apart["products"].reshape(COUNT, STEPS, queries.shape[1], -1)
    scale = np.einsum("it,tm->itm", whole.norm(dim=2).numpy(), queries.norm(dim=2).numpy())
    np.testing.assert_allclose(values.sum(3) / scale, plain["products"] / scale, atol=1e-5)
    np.testing.assert_array_equal(apart["norms"], plain["norms"])
    groups, blocks = layers[cut]
    assert values.shape[3] == len(groups) == len(blocks)
    for index, coordinates in enumerate(groups.values()):
        direct = torch.einsum("itp,tmp->itm", whole[:, :, coordinates], queries[:, :, coordinates].double()).numpy()
        np.testing.assert_allclose(values[..., index] / scale, direct / scale, atol=1e-5)


def test_matrices_of_one_lora_module_are_one_layer():
    sizes = {
        "x.to_q.lora_A.default.weight": 8,
        "x.to_k.lora_A.default.weight": 6,
        "x.to_q.lora_B.default.weight": 12,
        "x.to_k.lora_B.default.weight": 4,
        "y.emb.lora_embedding_A.default": 3,
        "y.emb.lora_embedding_B.default": 2,
        "y.proj.lora_A.weight": 5,
        "y.proj.lora_magnitude_vector.default.weight": 1,
        "y.norm.weight": 2,
        "y.norm.bias": 2,
    }
    offsets = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    blocks = layer_blocks(offsets, sizes, "module")
    assert [(block.name, dict(block.places), block.size) for block in blocks] == [
        ("x.to_q", {0: 0, 14: 8}, 20),
        ("x.to_k", {8: 0, 26: 6}, 10),
        ("y.emb", {30: 0, 33: 3}, 5),
        ("y.proj", {35: 0, 40: 5}, 6),
        ("y.norm", {41: 0, 43: 2}, 4),
    ]
    assert [block.name for block in layer_blocks(offsets, sizes, "parameter")] == list(sizes)
    (everything,) = layer_blocks(offsets, sizes, "all")
    assert (dict(everything.places), everything.size) == ({o: o for o in offsets.values()}, 45)
