"""Means, products and outputs that a pass makes of its samples are those of plain autograd."""

# ruff: noqa: F811 (fixtures are imported, and then named by tests)

import copy

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import Sketch
from attrbench.contracts.method_results import Transformed
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.outputs import Outputs
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import PerSampleGradients
from attrbench.gradients.samples import Split
from attrbench.gradients.sketching.rotation import sketch
from attrbench.store.shards import FeatureStore
from tests.gradients.small_pairs import (
    ALL,
    COUNT,
    SHAPE,
    STEPS,
    denoiser,  # noqa: F401
    network,
    source_of,
)
from tests.methods.in_memory import LOSS, Small, batch_gradients, everything, seeded, small_items, small_samples

# --- what a pass makes of them


@pytest.fixture
def compute(tmp_path, denoiser):
    """Runs a pass into a new cache; gives each feature's arrays and the list of lost samples."""
    runs = iter(range(100))

    def run(*features, model=denoiser, factors=None, batch_size=None, items=None):
        root = tmp_path / str(next(runs))
        split = Split("train", items or small_items(COUNT, model.latent_shape))
        stores = {feature: FeatureStore(root, {"feature": repr(feature)}) for feature in features}
        engine = Engine(batch_size=batch_size)
        GradientPass(features[0].source, model, split, engine, factors).compute(ALL, stores)
        lost = [stores[feature].sidecar(ALL).nonfinite for feature in features]
        return [stores[feature].read(ALL) for feature in features], lost, list(stores.values())

    return run


def gradients(denoiser, source=LOSS, output="loss"):
    """[n, T, p] by plain autograd."""
    batch = everything(small_samples(denoiser, COUNT, source))
    if output == "loss":
        rows = batch_gradients(denoiser, batch)
    else:
        parameters = list(denoiser.module.parameters())
        values = (MODEL_OUTPUTS[output](denoiser.module(x[None]), None) for x in batch.noisy)
        rows = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(v.sum(), parameters)]) for v in values])
    return rows.reshape(-1, COUNT, rows.shape[1]).transpose(0, 1).numpy()


def raw(arrays):
    return arrays["rows"].astype("f8") * arrays["norms"][:, :, None]


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("output", ["loss", "mean"])
def test_mean_normalised_rows_are_means_of_unit_gradients(compute, denoiser, output, batch_size):
    source = source_of(output=output)
    whole = gradients(denoiser, source, output)
    unit = (whole / np.linalg.norm(whole, axis=2, keepdims=True)).mean(axis=1)
    normalized, plain = (GradientRows(source=source, sketch=None, timesteps=t) for t in ("mean-normalized", "mean"))
    sketched = normalized.model_copy(update={"sketch": Sketch(length=16)})
    (mine, mean, short), _, _ = compute(normalized, plain, sketched, batch_size=batch_size)
    np.testing.assert_allclose(raw(mine)[:, 0], unit, atol=1e-6)
    np.testing.assert_allclose(mine["norms"][:, 0], np.linalg.norm(unit, axis=1), rtol=1e-5)
    expected = sketch(torch.from_numpy(unit).float(), 16, 42)
    np.testing.assert_allclose(raw(short)[:, 0], expected, atol=1e-5)
    whole_mean = whole.mean(axis=1)
    np.testing.assert_allclose(raw(mean)[:, 0], whole_mean, atol=1e-5 * np.abs(whole_mean).max())


def test_timesteps_without_a_gradient_add_nothing_to_the_mean_of_unit_gradients(compute):
    class Gated(Small):
        """No gradient at timestep 333."""

        def predict(self, noisy, t, conditioning):
            return self.module(noisy) * (t != 333)[:, None, None, None]

    model = Gated(seeded(network), SHAPE)
    source = source_of(output="squared-norm")
    normalized, stack = (GradientRows(source=source, sketch=None, timesteps=t) for t in ("mean-normalized", "stack"))
    (mine, rows), lost, _ = compute(normalized, stack, model=model)
    assert lost == [[], []]
    assert not rows["rows"][:, 1].any()
    np.testing.assert_allclose(raw(mine)[:, 0], (rows["rows"][:, 0] + rows["rows"][:, 2]) / 3, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("layers", ["all", "module"])
def test_products_of_means_are_the_products_of_mean_gradients(compute, denoiser, layers, batch_size):
    whole = gradients(denoiser)
    asked = torch.randn(1, 4, whole.shape[2], generator=torch.Generator().manual_seed(0))
    feature = GradientProducts(source=LOSS, timesteps="mean", layers=layers)
    stacked = GradientProducts(source=LOSS, layers=layers)
    factors = {feature: Transformed(asked), stacked: Transformed(asked.expand(STEPS, -1, -1))}
    (mean, stack), _, _ = compute(feature, stacked, factors=factors, batch_size=batch_size)
    sizes = [whole.shape[2]] if layers == "all" else [57, 8]
    assert sum(sizes) == whole.shape[2]
    parts = zip(np.split(whole.mean(axis=1), np.cumsum(sizes)[:-1], axis=1), asked[0].split(sizes, dim=1), strict=True)
    expected = np.stack([g @ q.double().numpy().T for g, q in parts], axis=2).reshape(COUNT, 1, -1)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(mean["products"], expected, atol=1e-5 * scale)
    np.testing.assert_allclose(stack["products"].mean(axis=1, keepdims=True), expected, atol=1e-5 * scale)
    assert mean["query_norms"].shape == (4, 1)
    np.testing.assert_allclose(mean["query_norms"][:, 0], asked[0].norm(dim=1), rtol=1e-5)


def test_mean_gradients_of_the_queries_are_the_means_of_the_whole_ones(denoiser):
    work = GradientPass(LOSS, denoiser, Split("train", small_items(COUNT, SHAPE)), Engine(batch_size=4))
    mean, whole = work.whole(ALL, mean=True), work.whole(ALL)
    torch.testing.assert_close(mean, whole.mean(0, keepdim=True))
    np.testing.assert_allclose(whole.transpose(0, 1), gradients(denoiser), atol=1e-6)


def test_products_behind_a_transform_are_those_with_what_it_made_and_keep_its_facts(compute, denoiser):
    whole = gradients(denoiser).mean(axis=1)
    asked = torch.randn(1, 4, whole.shape[1], generator=torch.Generator().manual_seed(0))
    plain, turned, doubled = (
        GradientProducts(source=LOSS, timesteps="mean", transform=name) for name in ("", "turned", "doubled")
    )
    matrix = torch.randn(whole.shape[1], whole.shape[1], generator=torch.Generator().manual_seed(1))
    factors = {
        plain: Transformed(asked),
        turned: Transformed(asked @ matrix, {"residual": 0.5}),
        doubled: Transformed(2 * asked),
    }
    (one, two, three), _, stores = compute(plain, turned, doubled, factors=factors)
    expected = whole @ (asked[0] @ matrix).double().numpy().T
    np.testing.assert_allclose(two["products"][:, 0], expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(three["products"], 2 * one["products"], rtol=1e-5)
    assert [store.sidecar(ALL).facts for store in stores] == [{}, {"residual": 0.5}, {}]


# --- outputs


@pytest.mark.parametrize("output", ["loss", "squared-norm", "mean", "l1"])
def test_outputs_are_the_scalars_of_each_item_and_timestep_with_and_without_a_backward_pass(compute, denoiser, output):
    source = source_of(output=output)
    batch = everything(small_samples(denoiser, COUNT, source))
    expected = MODEL_OUTPUTS[output](denoiser.module(batch.noisy), batch.target).detach()
    expected = expected.reshape(STEPS, COUNT).T.numpy()
    outputs, rows = Outputs(source=source), GradientRows(source=source, sketch=None)
    (alone,), _, _ = compute(outputs)
    (beside, _), _, _ = compute(outputs, rows, batch_size=4)
    for found in (alone, beside):
        assert list(found) == ["outputs"]
        np.testing.assert_allclose(found["outputs"], expected, rtol=1e-5)


def test_outputs_alone_need_no_backward_pass(compute, monkeypatch):
    def refused(*_):
        raise AssertionError("a backward pass")

    for kind in PerSampleGradients.__subclasses__():
        monkeypatch.setattr(kind, "__call__", refused)
    compute(Outputs(source=LOSS))
    with pytest.raises(AssertionError, match="a backward pass"):
        compute(Outputs(source=LOSS), GradientRows(source=LOSS, sketch=None))


def test_losses_are_what_the_gradients_come_from(compute, denoiser):
    """A step against a row lowers its own output."""
    (outputs, rows), _, _ = compute(Outputs(source=LOSS), GradientRows(source=LOSS, sketch=None))
    moved = copy.deepcopy(denoiser)
    eta = 1e-3
    with torch.no_grad():
        flat = torch.from_numpy(rows["rows"][2, 1].astype("f8"))
        sizes = [parameter.numel() for parameter in moved.module.parameters()]
        for parameter, part in zip(moved.module.parameters(), flat.split(sizes), strict=True):
            parameter -= eta * part.view_as(parameter)
    (after,), _, _ = compute(Outputs(source=LOSS), model=moved)
    change = after["outputs"][2, 1] - outputs["outputs"][2, 1]
    assert change == pytest.approx(-eta * rows["norms"][2, 1], rel=0.02)


@pytest.mark.parametrize("beside", [False, True])
def test_output_that_is_not_finite_is_named_and_reads_as_zero(compute, beside):
    class Broken(Small):
        def target(self, latents, noise, t):
            target = noise.clone()
            target[(t == 333) & (latents == self.marked).flatten(1).all(dim=1)] = torch.inf
            return target

    model = Broken(seeded(network), SHAPE)
    items = small_items(COUNT, SHAPE)
    model.marked = model.encode(items.images[4:5], (), "model").latents
    features = [Outputs(source=LOSS)] + [GradientRows(source=LOSS, sketch=None)] * beside
    found, lost, _ = compute(*features, model=model)
    assert lost == [[(4, 333)]] * len(features)
    outputs = found[0]["outputs"]
    assert outputs[4, 1] == 0
    others = np.ones_like(outputs, bool)
    others[4, 1] = False
    assert (outputs[others] > 0).all()


def test_rows_at_other_weights_are_the_gradients_of_that_network(compute, denoiser):
    source = LOSS.model_copy(update={"checkpoint": "untrained"})
    (rows,), _, _ = compute(GradientRows(source=source, sketch=None))
    expected = gradients(denoiser.at("untrained"))
    np.testing.assert_allclose(raw(rows), expected, atol=1e-5 * np.abs(expected).max())
