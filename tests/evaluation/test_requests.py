"""What a user asks for by `all`: every method, or all but some."""

import pytest

from attrbench.errors import UsageError
from attrbench.evaluation.requests import request_methods, request_sweeps
from attrbench.plugins.registry import registry


def labels(*methods):
    return [request.label for request in request_methods(registry(), methods)]


def test_all_is_every_method_but_those_that_are_left_out():
    every = labels("all")
    assert every == list(registry().names("method")) and {"kfac", "ekfac"} < set(every)
    assert labels("all:without=kfac|ekfac") == [name for name in every if name not in ("kfac", "ekfac")]


def test_a_method_that_all_leaves_out_runs_where_it_is_named_with_options():
    found = labels("kfac:damping=0.1", "all:without=kfac")
    assert found[0] == "kfac:damping=0.1" and "kfac" not in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("all:without=kfacs", ["unknown method 'kfacs'", "did you mean kfac"]),
        ("all:but=kfac", ["unknown option of all 'but'", "without"]),
        ("all:kfac", ["'kfac' in 'all:kfac'", "KEY=VALUE"]),
    ],
)
def test_what_all_does_not_take_is_named(text, words):
    with pytest.raises(UsageError) as raised:
        labels(text)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("text", ["all", "all:without=kfac"])
def test_options_of_all_methods_at_once_are_not_chosen(text):
    with pytest.raises(UsageError, match="name the method whose options are to be chosen"):
        request_sweeps(registry(), [text])
