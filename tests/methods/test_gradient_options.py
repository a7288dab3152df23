"""Gradient methods share one class of options, and declare the features that they always did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attrbench.contracts.options import Options, build_options, parse_spec
from attrbench.errors import UsageError
from attrbench.plugins.registry import registry
from attrbench_methods.gradient_options import GradientOptions

DECLARED = json.loads((Path(__file__).parent / "declared_features.json").read_text(encoding="utf-8"))
"""Spec -> options and features (train and query, or both) before the options became one class."""
SHARED = {
    "grid": "random",
    "timesteps": "3",
    "noise": "per-timestep",
    "noise_seed": "4",
    "prompt": "empty",
    "precision": "bf16",
}
"""Options that every gradient method offers, at other values than their defaults."""


def method(text):
    (spec,) = parse_spec(text)
    kind = registry().method(spec.name)
    return kind(build_options("method", spec, kind.Options))


def gradient_methods():
    known = registry()
    names = [name for name in known.names("method") if known.provider("method", name).distribution == "attrbench"]
    return [name for name in names if issubclass(known.method(name).Options, GradientOptions)]


def described(features):
    """Return kind and fields of features; a transform's key, which names all options, as its options alone."""
    result = []
    for feature in features:
        fields = {"kind": type(feature).__name__, **feature.model_dump(mode="json")}
        result.append(without_options(fields))
    return result


def without_options(fields):
    if not fields.get("transform"):
        return fields
    name, _, options = fields["transform"].partition(" {")
    kept = {**json.loads("{" + options)}
    return {**fields, "transform": name, "transform_options": {key: kept[key] for key in sorted(kept)}}


def same_features(found, expected):
    assert len(found) == len(expected)
    for feature, before in zip(found, map(without_options, expected), strict=True):
        options, options_before = (fields.pop("transform_options", {}) for fields in (feature, before))
        assert feature == before
        assert options_before.items() <= options.items()


@pytest.mark.parametrize("text", DECLARED)
def test_options_and_features_are_those_of_before(text):
    before, now = DECLARED[text], method(text)
    assert before["options"].items() <= now.options.model_dump(mode="json").items()
    request = now.features()
    same_features(described(request.train), before.get("train", before.get("both")))
    same_features(described(request.query), before.get("query", before.get("both")))


def test_every_registered_method_is_compared():
    names = registry().names("method")
    ours = [name for name in names if registry().provider("method", name).distribution == "attrbench"]
    assert set(ours) <= DECLARED.keys()


@pytest.mark.parametrize("name", gradient_methods())
def test_the_shared_options_combine_in_every_gradient_method(name):
    text = ",".join(f"{key}={value}" for key, value in SHARED.items())
    request = method(f"{name}:{text}").features()
    for source in {feature.source for feature in request.train}:
        assert (source.grid.kind, source.grid.steps) == ("random", 3)
        assert (source.noise, source.noise_seed) == ("per-timestep", 4)
        assert (source.prompt, source.precision) == ("empty", "bf16")
    for feature in request.query:
        source = getattr(feature, "queries", None) or feature.source
        assert (source.prompt, source.noise, source.precision) == ("empty", "per-timestep", "bf16")


@pytest.mark.parametrize("name", ["grad-cos", "trak", "d-trak", "relative-if", "renorm-if", "journey-trak"])
@pytest.mark.parametrize("v", ["64", "none"])
def test_mean_gradients_are_of_unit_gradients_where_normalize_says_so(name, v):
    for normalize, timesteps in (("false", "mean"), ("true", "mean-normalized")):
        request = method(f"{name}:v={v},normalize={normalize}").features()
        assert {feature.timesteps for feature in (*request.train, *request.query)} == {timesteps}


def test_methods_that_differ_in_an_option_alone_declare_the_same_features():
    assert method("trak:output=squared-norm").features() == method("d-trak").features()
    assert method("grad-cos:normalize=true").features() == method("diffusion-retrac").features()
    assert method("diffusion-retrac:normalize=false").features() == method("trak").features()
    assert method("relative-if:output=l2").features() == method("d-trak:output=l2").features()


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("das:output=loss", "output"),
        ("datainf:output=mean", "output"),
        ("lissa:normalize=true", "normalize"),
        ("lissa-released:output=loss", "output"),
        ("ekfac:normalize=false", "normalize"),
        ("kfac:output=loss", "output"),
        ("d-trak:output=loss", "output"),
    ],
)
def test_an_option_that_a_method_fixes_is_not_offered(text, option):
    with pytest.raises(UsageError, match=option):
        method(text)


def test_a_source_with_the_own_prompt_is_described_as_before_there_was_a_choice():
    own, empty = (method(f"grad-dot:prompt={prompt}").features().train[0].source for prompt in ("own", "empty"))
    assert "prompt" not in own.model_dump(mode="json")
    assert empty.model_dump(mode="json") == {**own.model_dump(mode="json"), "prompt": "empty"}
    assert type(own).model_validate(own.model_dump()) == own
    assert type(own).model_validate(empty.model_dump()) == empty


def test_gradient_options_are_all_options_of_a_gradient():
    assert issubclass(GradientOptions, Options)
    assert {"datainf", "dmin", "ekfac", "journey-trak", "lissa", "shuffled", "trak"} <= set(gradient_methods())
