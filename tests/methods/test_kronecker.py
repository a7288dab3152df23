"""EK-FAC and K-FAC as methods: what they score, and what they keep (Grosse et al. 2023, arXiv 2308.03296)."""

import numpy as np
import pytest
import torch
from torch import nn

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import Unavailable
from attrbench.features.gradient_products import GradientProducts
from attrbench.features.views import TrainProducts
from attrbench.gradients.curvature.kronecker import FactorOptions, kronecker_factors
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.store.checksums import Seal, seal_path
from attrbench_methods.kernel.trak import TRAK, RidgeOptions
from attrbench_methods.second_order import ekfac
from attrbench_methods.second_order.ekfac import EKFAC, KFAC, KroneckerOptions
from tests.methods.in_memory import (
    Small,
    SmallTask,
    batch_gradients,
    context,
    everything,
    products,
    query_features,
    scores_by_run,
    seeded,
    small_items,
    train_features,
)

SHAPE = (2, 3, 3)
N, M, T = 20, 4, 3
SOURCE = GradientSource(grid=TimestepGrid(kind="uniform", steps=T), noise="per-item")
OPTIONS = f"timesteps={T},draws=64"
METHODS = [EKFAC, KFAC]

both = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)


class Network(nn.Module):
    """Convolutions around a norm, which takes no part."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


@pytest.fixture(scope="module")
def opened():
    return SmallTask(Small(seeded(Network), SHAPE), small_items(N, SHAPE), small_items(M, SHAPE, 1))


def samples_of(opened, split="train"):
    return NoisySamples(SOURCE, opened.denoiser, Split(split, opened.train if split == "train" else opened.queries))


def mean_gradients(opened, split):
    """[n, p] by plain autograd."""
    samples = samples_of(opened, split)
    rows = batch_gradients(opened.denoiser, everything(samples))
    return rows.view(T, samples.count, -1).mean(0)


def tracked(opened):
    """Which parameters take part."""
    named = opened.denoiser.attributed_parameters("all")
    return torch.cat([torch.full((p.numel(),), not name.startswith("norm")) for name, p in named.items()])


def method(kind, **options):
    return kind(KroneckerOptions(timesteps=T, **{"draws": 64, **options}))


def workplace(opened, folder, samples=None):
    """A context with a folder of its own."""
    return context(workspace=folder / "methods" / "any", training=lambda source: samples or samples_of(opened))


def assert_close(found, expected, tolerance=1e-3):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(np.asarray(expected)).max())


# --- scores


@both
@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_scores_are_inner_products_behind_the_inverse_of_the_factors(opened, tmp_path, kind, mode):
    (found,) = scores_by_run(opened, tmp_path, f"{kind.name}:{OPTIONS},damping=0.05,damping_mode={mode}")
    factors = kronecker_factors(samples_of(opened), FactorOptions(draws=64))
    asked, train = (mean_gradients(opened, split).float() for split in ("query", "train"))
    expected = factors.solve(asked, kind.corrected, 0.05, mode == "relative") @ train.T
    assert_close(found, expected)


def test_the_two_differ(opened, tmp_path):
    ekfac, kfac = scores_by_run(opened, tmp_path, f"ekfac:{OPTIONS}", f"kfac:{OPTIONS}")
    assert np.abs(ekfac - kfac).max() > 0.05 * np.abs(ekfac).max()


@both
def test_one_pair_and_one_layer_give_the_explicit_inverse(tmp_path, kind):
    """All the way through a run: F = g g^T."""
    shape = (1, 1, 4)
    model = Small(seeded(lambda: nn.Sequential(nn.Linear(4, 4))), shape)
    opened = SmallTask(model, small_items(1, shape), small_items(M, shape, 1))
    options = "timesteps=1,grid=random,noise=per-item,fisher=empirical,draws=1"
    (found,) = scores_by_run(opened, tmp_path, f"{kind.name}:{options},damping=0.01,damping_mode=absolute")
    source = GradientSource(grid=TimestepGrid(kind="random", steps=1), noise="per-item")
    train, asked = (
        batch_gradients(model, everything(NoisySamples(source, model, Split(name, items)))).numpy()
        for name, items in (("train", opened.train), ("query", opened.queries))
    )
    explicit = train.T @ train + 0.01 * np.eye(train.shape[1])
    assert_close(found, asked @ np.linalg.solve(explicit, train.T))


@both
def test_large_damping_leaves_the_inner_product_over_the_tracked_layers(opened, tmp_path, kind):
    (found,) = scores_by_run(opened, tmp_path, f"{kind.name}:{OPTIONS},damping=1e9,damping_mode=absolute")
    asked, train = (mean_gradients(opened, split)[:, tracked(opened)] for split in ("query", "train"))
    assert_close(found * 1e9, asked @ train.T)
    whole = mean_gradients(opened, "query") @ mean_gradients(opened, "train").T
    assert (whole - asked @ train.T).norm() > 0.01 * whole.norm()


@both
def test_scores_of_a_common_set_are_symmetric(opened, tmp_path, kind):
    train = mean_gradients(opened, "train").float()
    made = method(kind).transform(train[None], workplace(opened, tmp_path))
    scorer = method(kind).fit(train_features(method(kind), N, products=TrainProducts({})), context())
    view = products(made.gradients.transpose(0, 1).double().numpy(), train[:, None].double().numpy())
    found = scorer.scores(query_features(method(kind), N, products=view))
    assert_close(found, found.T)


@both
def test_each_query_is_solved_as_it_is_alone_and_linearly(opened, tmp_path, kind):
    asked = mean_gradients(opened, "query").float()[None].clone()
    asked[0, 3] = 3 * asked[0, 0] - asked[0, 1]
    found = method(kind).transform(asked, workplace(opened, tmp_path)).gradients
    alone = method(kind).transform(asked[:, 2:3], workplace(opened, tmp_path)).gradients
    assert_close(alone[0, 0], found[0, 2], 1e-5)
    assert_close(found[0, 3], 3 * found[0, 0] - found[0, 1], 1e-4)
    assert not found[0, :, ~tracked(opened)].any()
    assert not method(kind).transform(0 * asked, workplace(opened, tmp_path)).gradients.any()


def test_options_of_the_factors_change_the_scores(opened, tmp_path):
    changes = ["draws=64", "draws=63", *(f"draws=64,{option}" for option in ("fisher=empirical", "sharing=reduce"))]
    changes += ["draws=64,factor_seed=1", "draws=64,damping=0.2"]
    found = scores_by_run(opened, tmp_path, *(f"ekfac:timesteps={T},{change}" for change in changes))
    for one in range(len(found)):
        for other in range(one):
            assert np.abs(found[one] - found[other]).max() > 1e-4 * np.abs(found[one]).max(), (one, other)


def test_network_without_such_layers_is_unavailable(tmp_path):
    model = Small(seeded(lambda: nn.Sequential(nn.Conv2d(2, 2, 1, groups=2))), SHAPE)
    opened = SmallTask(model, small_items(4, SHAPE), small_items(2, SHAPE, 1))
    with pytest.raises(Unavailable, match="Linear or Conv2d"):
        scores_by_run(opened, tmp_path, f"ekfac:{OPTIONS}")


def test_features_are_products_of_means_in_the_passes_of_trak():
    requests = [kind(KroneckerOptions(**options)).features() for kind in METHODS for options in ({}, {"damping": 0.2})]
    trak = TRAK(RidgeOptions()).features().train[0].source
    for request in requests:
        (feature,) = request.train
        assert isinstance(feature, GradientProducts)
        assert request.query == (feature,)
        assert (feature.source, feature.timesteps) == (trak, "mean")
    assert len({request.train[0].transform for request in requests}) == len(requests)


# --- what is kept


@pytest.fixture
def builds(monkeypatch):
    """Counts how often factors are estimated."""
    done = []
    inner = ekfac.kronecker_factors

    def counted(samples, options):
        done.append(options)
        return inner(samples, options)

    monkeypatch.setattr(ekfac, "kronecker_factors", counted)
    return done


@both
def test_factors_on_disk_are_used_again_and_give_the_same(opened, tmp_path, kind, builds):
    asked = mean_gradients(opened, "query").float()[None]
    first, again = (method(kind).transform(asked, workplace(opened, tmp_path)) for _ in range(2))
    assert len(builds) == 1
    assert torch.equal(first.gradients, again.gradients)
    (file,) = tmp_path.rglob("*.safetensors")
    assert file.stat().st_size == first.state_bytes == again.state_bytes
    building = Seal.read(seal_path(file)).seconds
    assert min(first.state_seconds, again.state_seconds) >= building > 0  # what it took then is counted on
    assert first.facts == again.facts == {"modules": 2, "draws": 64}


def test_state_is_at_least_the_factors_themselves(opened, tmp_path):
    asked = mean_gradients(opened, "query").float()[None]
    made = method(EKFAC).transform(asked, workplace(opened, tmp_path))
    shapes = ((4, 2 * 9 + 1), (2, 4 + 1))
    numbers = sum(o * o + i * i + 2 * o * i for o, i in shapes)
    assert 4 * numbers <= made.state_bytes < 4 * numbers + 2000


def test_both_methods_and_all_dampings_share_the_factors(opened, tmp_path, builds):
    asked = mean_gradients(opened, "query").float()[None]
    for kind, options in ((EKFAC, {}), (KFAC, {}), (EKFAC, {"damping": 1.0}), (KFAC, {"damping_mode": "absolute"})):
        method(kind, **options).transform(asked, workplace(opened, tmp_path))
    assert len(builds) == 1


@pytest.mark.parametrize("options", [{"draws": 63}, {"fisher": "empirical"}, {"sharing": "reduce"}, {"factor_seed": 1}])
def test_other_options_have_factors_of_their_own(opened, tmp_path, builds, options):
    asked = mean_gradients(opened, "query").float()[None]
    for each in ({}, options, {}):
        method(EKFAC, **each).transform(asked, workplace(opened, tmp_path))
    assert len(builds) == 2


def test_other_items_weights_sources_and_limits_have_factors_of_their_own(opened, tmp_path, builds):
    asked = mean_gradients(opened, "query").float()[None]
    items = Split("train", opened.train)
    others = [
        NoisySamples(SOURCE, opened.denoiser, items),
        NoisySamples(SOURCE, opened.denoiser, items, N - 1),
        NoisySamples(SOURCE, opened.denoiser, Split("train", small_items(N, SHAPE, 9))),
        NoisySamples(SOURCE, Small(seeded(Network, 1), SHAPE), items),
    ]
    for samples in others * 2:
        method(EKFAC).transform(asked, workplace(opened, tmp_path, samples))
    assert len(builds) == len(others)
    method(EKFAC, noise_seed=1).transform(asked, workplace(opened, tmp_path))
    assert len(builds) == len(others) + 1


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_damaged_factors_are_estimated_again(opened, tmp_path, builds, damage):
    asked = mean_gradients(opened, "query").float()[None]
    first = method(EKFAC).transform(asked, workplace(opened, tmp_path))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    again = method(EKFAC).transform(asked, workplace(opened, tmp_path))
    assert len(builds) == 2
    assert torch.equal(first.gradients, again.gradients)
