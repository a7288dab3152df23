from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.options import Options, Spec, build_options, meanings, needs_of, parse_spec
from attrbench.errors import UsageError
from attrbench.plugins.registry import registry


class Example(Options):
    v: int | None = 4
    """Length."""
    name: str = "x"
    flag: bool = False


def test_commas_inside_a_value_need_no_quotes():
    assert parse_spec("dmin:index=IVF64,Flat,nprobe=8") == [Spec("dmin", {"index": "IVF64,Flat", "nprobe": "8"})]


def test_bars_sweep_over_all_combinations():
    specs = parse_spec("m:a=1|2,b=x|y")
    assert [str(spec) for spec in specs] == ["m:a=1,b=x", "m:a=1,b=y", "m:a=2,b=x", "m:a=2,b=y"]


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.from_regex(r"[A-Za-z0-9.-]{1,6}", fullmatch=True))
)
@settings(max_examples=50, deadline=None)
def test_a_spec_reads_back_what_it_prints(given_options):
    spec = Spec("m", given_options)
    assert parse_spec(str(spec)) == [spec]


@pytest.mark.parametrize("text", ["", ":a=1", "m:", "m:a", "m:a=", "m:=1", "m:a=1,a=2"])
def test_malformed_specs_are_refused(text):
    with pytest.raises(UsageError):
        parse_spec(text)


def test_none_and_booleans_are_words():
    options = build_options("method", Spec("m", {"v": "none", "flag": "true"}), Example)
    assert options.v is None
    assert options.flag is True


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UsageError, match="unknown option of method m 'nam': did you mean name"):
        build_options("method", Spec("m", {"nam": "1"}), Example)


def test_meanings_are_the_strings_under_the_declarations_and_are_inherited():
    class Child(Example):
        extra: int = 1
        """More."""

    assert meanings(Child) == {"v": "Length.", "extra": "More."}


def test_an_option_that_gets_another_default_keeps_its_meaning():
    class Longer(Example):
        v: int | None = 8

    assert meanings(Longer) == {"v": "Length."}


def test_none_stays_a_word_where_none_is_not_allowed():
    assert build_options("method", Spec("m", {"name": "none"}), Example).name == "none"


class Search(Options):
    needs: ClassVar = {"M": "search=graph", "seed": "v", "cells": "search=cells|graph,v", "at": "exact=false"}
    search: Literal["all", "graph", "cells"] = "all"
    v: int | None = 8
    M: int = 16
    seed: int = 0
    cells: int = 2
    exact: bool = True
    at: int | None = None


class Inherits(Search):
    needs: ClassVar = {"step": "search=all"}
    step: int = 1


class Overrides(Inherits):
    needs: ClassVar = {"M": "search=cells", "seed": ""}


def refusal(model, **given_options):
    with pytest.raises(UsageError) as caught:
        build_options("method", Spec("m", given_options), model)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"M": "32"}, "M=32: has an effect with search=graph only, not with search=all"),
        ({"M": "16", "search": "cells"}, "M=16: has an effect with search=graph only, not with search=cells"),
        ({"seed": "7", "v": "none"}, "seed=7: has an effect with v only, not with v=none"),
        ({"cells": "3"}, "cells=3: has an effect with search=cells|graph only, not with search=all"),
        ({"cells": "3", "search": "cells", "v": "none"}, "cells=3: has an effect with v only, not with v=none"),
        ({"at": "none"}, "at=none: has an effect with exact=false only, not with exact=true"),
    ],
    ids=str,
)
def test_options_without_an_effect_are_refused_even_at_their_default(options, expected):
    assert refusal(Search, **options) == f"method m: {expected}"


@pytest.mark.parametrize(
    "options",
    [{}, {"search": "graph", "M": "3", "cells": "3"}, {"v": "none"}, {"exact": "false", "at": "3"}, {"seed": "1"}],
    ids=str,
)
def test_options_with_an_effect_and_those_not_given_pass(options):
    built = build_options("method", Spec("m", options), Search)
    assert built.model_fields_set == options.keys()


def test_needs_are_inherited_added_to_replaced_and_lifted():
    assert "search=graph" in refusal(Inherits, M="1")
    assert "search=all" in refusal(Inherits, step="1", search="graph")
    assert "search=cells" in refusal(Overrides, M="1", search="graph")
    assert "search=all" in refusal(Overrides, step="1", search="graph")
    assert build_options("method", Spec("m", {"seed": "1", "v": "none"}), Overrides).seed == 1
    assert "seed" not in needs_of(Overrides)


@pytest.mark.parametrize("needs", [{"nam": "flag=true"}, {"name": "flags=true"}, {"name": "flag=true,w"}], ids=str)
def test_a_need_that_names_no_option_is_an_error_where_it_is_declared(needs):
    with pytest.raises(TypeError, match=r"needs: there is no option '(nam|flags|w)'"):
        type("Broken", (Example,), {"needs": needs, "__module__": __name__})


@pytest.mark.parametrize(
    ("needs", "wrong"),
    [({"name": "flag=yes"}, "flag is never yes"), ({"name": "way=fast|slwo"}, "way is never slwo")],
)
def test_a_need_of_a_value_that_an_option_never_has_is_an_error_where_it_is_declared(needs, wrong):
    class WithWay(Example):
        way: Literal["fast", "slow"] | None = None

    with pytest.raises(TypeError, match=wrong):
        type("Broken", (WithWay,), {"needs": needs, "__module__": __name__})
    type("Sound", (WithWay,), {"needs": {"name": "way=none|slow,v=7"}, "__module__": __name__})


def test_needs_that_would_be_an_option_are_an_error():
    with pytest.raises(TypeError, match="declared as an option"), pytest.warns(UserWarning, match="shadows"):

        class Broken(Example):
            needs: dict[str, str] = {}  # noqa: RUF012


def seeds_of_methods_and_tasks():
    """Yield (kind, name, options model, option) of everything that is registered."""
    known = registry()
    for kind in ("method", "task"):
        for name in known.names(kind):
            model = known.entry(kind, name).load().Options
            for option in model.model_fields:
                if option == "draw" or option.endswith("seed"):
                    yield kind, name, model, option


def test_every_seed_of_a_method_or_task_is_refused_outside_63_bits():
    found = list(seeds_of_methods_and_tasks())
    assert {option for *_, option in found} >= {"seed", "noise_seed", "factor_seed", "draw", "train_seed"}
    for kind, name, model, option in found:
        assert getattr(build_options(kind, Spec(name, {option: str(2**63 - 1)}), model), option) == 2**63 - 1
        for wrong in (2**63, 2**64, -1):
            with pytest.raises(UsageError, match=f"{option}={wrong}"):
                build_options(kind, Spec(name, {option: str(wrong)}), model)
