import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.errors import UsageError
from attrbench.options import Options, Spec, build_options, meanings, parse_spec


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


def test_none_stays_a_word_where_none_is_not_allowed():
    assert build_options("method", Spec("m", {"name": "none"}), Example).name == "none"
