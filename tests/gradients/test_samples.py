"""Pairs of item and timestep, their grids, noises and latents; and what a pass makes of them."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, Sketch, TimestepGrid
from attrbench.contracts.method_results import Transformed
from attrbench.errors import Unavailable, UsageError
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.gradient_rows import GradientRows
from attrbench.features.outputs import Outputs
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.per_sample import PerSampleGradients
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.gradients.sketching.rotation import sketch
from attrbench.models.noise import feature_noise
from attrbench.models.timesteps import grid_draws, grid_timesteps, sampler_steps
from attrbench.store.shards import FeatureStore, Unit
from tests.methods.in_memory import LOSS, Small, batch_gradients, everything, seeded, small_items, small_samples

SHAPE = (2, 3, 3)
COUNT, STEPS = 6, 3
TIMES = (0, 333, 666)
ALL = Unit(0, COUNT)


def network():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 1))


@pytest.fixture(scope="module")
def denoiser():
    return Small(seeded(network), SHAPE)


def source_of(kind="uniform", noise="per-item", output="loss", **grid):
    return GradientSource(output=output, grid=TimestepGrid(kind=kind, **{"steps": STEPS, **grid}), noise=noise)


def assert_same_batch(found, expected):
    for name in ("noisy", "target", "t"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


# --- samples


@pytest.mark.parametrize(("size", "block"), [(1, 64), (4, 2), (5, 4), (1000, 64)])
def test_batches_hold_every_sample_once_and_each_is_the_same_in_any_batch(denoiser, size, block):
    samples = small_samples(denoiser)
    seen = {}
    for items, steps, batch in samples.batches(size, block):
        assert len(items) == len(steps) == len(batch.t) <= size
        for b, key in enumerate(zip(items.tolist(), steps.tolist(), strict=True)):
            assert key not in seen
            seen[key] = batch.sample(b)
    assert sorted(seen) == [(item, step) for item in range(COUNT) for step in range(STEPS)]
    encoded = denoiser.encode(samples.split.items.images, (), "model").latents
    for (item, step), one in seen.items():
        noise = feature_noise(LOSS, samples.split.items.keys[item], TIMES[step], SHAPE)[None].double()
        t = torch.tensor([TIMES[step]])
        torch.testing.assert_close(one.noisy, denoiser.noisy(encoded[item : item + 1], noise, t))
        assert torch.equal(one.target, noise)
        assert torch.equal(one.t, t)


def keys_of(batch, samples):
    """(item, step) of each sample of a batch, by its noisy latents."""
    every = everything(samples)
    keys = {row.numpy().tobytes(): index for index, row in enumerate(every.noisy)}
    assert len(keys) == len(every.t)
    found = [keys[row.numpy().tobytes()] for row in batch.noisy]
    for b, index in enumerate(found):
        assert_same_batch(batch.sample(b), every.sample(index))
    return found


def test_drawn_samples_are_different_ones_of_the_samples_there_are(denoiser):
    samples = small_samples(denoiser)
    found = keys_of(samples.drawn(7, torch.Generator().manual_seed(0)), samples)
    assert len(set(found)) == 7
    again = keys_of(samples.drawn(7, torch.Generator().manual_seed(0)), samples)
    other = keys_of(samples.drawn(7, torch.Generator().manual_seed(1)), samples)
    assert found == again != other


@pytest.mark.parametrize("size", [COUNT * STEPS, 1000])
def test_as_many_as_there_are_samples_are_all_of_them(denoiser, size):
    samples = small_samples(denoiser)
    found = keys_of(samples.drawn(size, torch.Generator().manual_seed(0)), samples)
    assert sorted(found) == list(range(COUNT * STEPS))


def test_every_sample_is_drawn_equally_often(denoiser):
    samples = small_samples(denoiser)
    draws = torch.Generator().manual_seed(0)
    counts = Counter(key for _ in range(300) for key in keys_of(samples.drawn(6, draws), samples))
    expected = 300 * 6 / (COUNT * STEPS)
    assert set(counts) == set(range(COUNT * STEPS))
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in counts.values())


def test_only_the_first_items_take_part_where_a_count_is_given(denoiser):
    split = Split("train", small_items(COUNT, SHAPE))
    few, every = NoisySamples(LOSS, denoiser, split, 2), NoisySamples(LOSS, denoiser, split)
    items = [item for items, _, _ in few.batches(100) for item in items.tolist()]
    assert sorted(items) == sorted([0, 1] * STEPS)
    drawn = few.drawn(100, torch.Generator().manual_seed(0))
    assert {index % COUNT for index in keys_of(drawn, every)} == {0, 1}


def test_samples_of_other_weights_have_their_gradients():
    denoiser = Small(seeded(network), SHAPE)
    untrained = denoiser.at("untrained")
    samples = small_samples(denoiser, source=LOSS.model_copy(update={"checkpoint": "untrained"}))
    assert all(
        torch.equal(parameter, other)
        for parameter, other in zip(samples.parameters.values(), untrained.module.parameters(), strict=True)
    )
    assert not torch.equal(next(iter(samples.parameters.values())), next(denoiser.module.parameters()))
    assert_same_batch(everything(samples), everything(small_samples(denoiser)))


# --- grids


@given(st.integers(1, 60), st.integers(0, 50), st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_random_grid_is_a_function_of_its_seed_within_the_training(steps, seed, training_steps):
    grid = TimestepGrid(kind="random", steps=steps, seed=seed)
    found = grid_timesteps(grid, training_steps)
    assert found == grid_timesteps(grid, training_steps)
    assert len(found) == steps
    assert all(0 <= t < training_steps for t in found)


def test_random_grid_draws_with_replacement_and_uniformly():
    found = grid_timesteps(TimestepGrid(kind="random", steps=1000), 10)
    counts = np.bincount(found, minlength=10)
    assert (np.abs(counts - 100) < 4 * np.sqrt(90)).all()
    assert found != grid_timesteps(TimestepGrid(kind="random", steps=1000, seed=1), 10)


def test_single_grid_is_one_timestep_again_and_again():
    grid = TimestepGrid(kind="single", steps=4, at=321)
    assert grid_timesteps(grid) == (321,) * 4
    with pytest.raises(UsageError, match="321"):
        grid_timesteps(grid, 300)


def test_sampler_grid_takes_the_samplers_own_timesteps_in_their_order():
    visited = (980, 700, 500, 300, 100, 0)
    for steps, expected in ((6, visited), (3, (980, 500, 100)), (1, (980,)), (4, (980, 700, 300, 100))):
        assert grid_timesteps(TimestepGrid(kind="sampler", steps=steps), 1000, lambda: visited) == expected
    with pytest.raises(UsageError, match="takes 6"):
        grid_timesteps(TimestepGrid(kind="sampler", steps=7), 1000, lambda: visited)
    with pytest.raises(Unavailable, match="no sampling trajectories"):
        grid_timesteps(TimestepGrid(kind="sampler", steps=3))


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_steps_of_a_sampler_are_distinct_and_in_order(data):
    visited = data.draw(st.integers(1, 1000))
    found = sampler_steps(data.draw(st.integers(1, visited)), visited)
    assert list(found) == sorted(set(found))
    assert found[0] == 0
    assert found[-1] < visited


def test_only_random_grids_count_their_repeats():
    times = (5, 7, 5, 5, 7, 1)
    for kind in ("random", "single"):
        assert grid_draws(TimestepGrid(kind=kind), times) == (0, 0, 1, 2, 1, 0)
    for kind in ("cubic", "uniform", "sampler"):
        assert grid_draws(TimestepGrid(kind=kind), times) == (0,) * 6


# --- noise


@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_the_first_draw_has_the_noise_of_a_grid_without_draws_and_later_ones_have_their_own(policy):
    source = source_of(noise=policy)
    plain = feature_noise(source, "key", 500, SHAPE)
    draws = [feature_noise(source, "key", 500, SHAPE, draw) for draw in range(3)]
    assert torch.equal(draws[0], plain)
    assert torch.equal(draws[1], draws[2]) == torch.equal(draws[1], plain) == (policy == "shared")


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [("shared", [0.72435, 0.22390]), ("per-timestep", [-0.25174, 1.65113]), ("per-item", [-0.71686, 1.56022])],
)
def test_noise_of_the_first_draw_is_that_from_before_there_were_draws(policy, numbers):
    noise = feature_noise(source_of(noise=policy), "train/3", 500, (2,), 0)
    assert noise.tolist() == pytest.approx(numbers, abs=1e-5)


@pytest.mark.parametrize("kind", ["random", "single"])
@pytest.mark.parametrize("policy", ["shared", "per-timestep", "per-item"])
def test_repeats_of_a_timestep_are_noised_anew(denoiser, kind, policy):
    steps = 40
    source = source_of(kind, policy, steps=steps, at=500)

    class Short(Small):
        def timesteps(self, grid):
            return tuple(t % 10 for t in super().timesteps(grid))

    samples = small_samples(Short(seeded(network), SHAPE), 2, source)
    assert len(set(samples.timesteps)) < steps
    targets = everything(samples).target.reshape(steps, 2, -1)  # timestep by timestep
    of_first = {targets[step, 0].numpy().tobytes() for step in range(steps)}
    assert len(of_first) == (1 if policy == "shared" else steps)
    assert torch.equal(targets[:, 0], targets[:, 1]) == (policy != "per-item")


def test_a_duplicate_of_the_cubic_grid_is_the_same_sample_twice(denoiser):
    source = source_of("cubic", steps=30)
    samples = small_samples(denoiser, 1, source)
    assert samples.timesteps[0] == samples.timesteps[1]
    batch = everything(samples)
    assert torch.equal(batch.noisy[0], batch.noisy[1])


def test_weights_of_the_variational_bound_go_with_the_samples(tiny_denoiser):
    split = Split("train", small_items(2, (1, 8, 8)))
    for output in ("weighted-loss", "loss"):
        samples = NoisySamples(source_of(output=output), tiny_denoiser, split)
        weights = everything(samples).weight
        if output == "loss":
            assert weights is None
        else:
            torch.testing.assert_close(weights, tiny_denoiser.loss_weights(torch.tensor([0, 0, 333, 333, 666, 666])))


# --- trajectories

VISITED = (900, 600, 300, 0)


class Followed(Small):
    """What the sampler took for the clean picture at a step is the number 10 * seed + step."""

    def trajectory(self, prompts, seeds):
        numbers = 10 * torch.tensor(seeds)[:, None] + torch.arange(len(VISITED))
        return numbers[:, :, None, None, None].expand(-1, -1, *self.latent_shape).double()

    def noisy(self, latents, noise, t):
        return latents


@pytest.fixture(scope="module")
def followed():
    return Followed(seeded(network), SHAPE, VISITED)


def along(denoiser, grid, seeds=(7, 3)):
    source = GradientSource(grid=grid, noise="per-item", latents="trajectory")
    return NoisySamples(source, denoiser, Split("query", small_items(2, SHAPE, seeds=seeds)))


@pytest.mark.parametrize(("steps", "taken"), [(4, [0, 1, 2, 3]), (2, [0, 2])])
def test_each_timestep_has_the_estimate_of_its_own_sampling_step(followed, steps, taken):
    samples = along(followed, TimestepGrid(kind="sampler", steps=steps))
    batch = everything(samples)
    assert batch.t.tolist() == [VISITED[step] for step in taken for _ in range(2)]
    assert batch.noisy[:, 0, 0, 0].tolist() == [10 * seed + step for step in taken for seed in (7, 3)]
    drawn = samples.drawn(3, torch.Generator().manual_seed(0))
    assert len(drawn.t) == 3
    for number, t in zip(drawn.noisy[:, 0, 0, 0].tolist(), drawn.t.tolist(), strict=True):
        assert VISITED[int(number) % 10] == t


@pytest.mark.parametrize(("at", "step"), [(900, 0), (999, 0), (700, 1), (460, 1), (440, 2), (0, 3)])
def test_a_single_timestep_has_the_estimate_of_the_nearest_sampling_step(followed, at, step):
    batch = everything(along(followed, TimestepGrid(kind="single", steps=3, at=at)))
    assert batch.t.tolist() == [at] * 6
    assert batch.noisy[:, 0, 0, 0].tolist() == [10 * seed + step for _ in range(3) for seed in (7, 3)]
    assert len({row.numpy().tobytes() for row in batch.target}) == 6  # each draw with a noise of its own


def test_items_without_seeds_have_no_trajectory(followed):
    with pytest.raises(Unavailable, match="query items have no sampling trajectory"):
        along(followed, TimestepGrid(kind="sampler", steps=4), seeds=None)


def test_models_without_a_sampler_have_no_trajectory(denoiser):
    with pytest.raises(Unavailable, match="no sampling trajectories"):
        along(Small(denoiser.module, SHAPE, VISITED), TimestepGrid(kind="sampler", steps=4)).encode(0, 2)


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
