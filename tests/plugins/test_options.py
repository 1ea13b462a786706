import dataclasses
import math
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waymax_sim.plugins import PluginError
from waymax_sim.plugins.options import parse_options, parse_value, split_options

PLAIN_TEXT = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])).map(str.strip)


@dataclasses.dataclass(frozen=True)
class Options:
    rate: float
    count: int = 3
    on: bool = False
    limit: float | None = None
    mode: Literal["fast", "slow", 2] = "fast"
    label: str = ""
    other: tuple[int, ...] = ()
    constant: int = dataclasses.field(default=1, init=False)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "-3", -3),
        (float, "2", 2.0),
        (float, "1e-3", 0.001),
        (float, "-inf", -math.inf),
        (bool, "True", True),
        (bool, "false", False),
        (str, "none", "none"),
        (int | None, "none", None),
        (int | None, "5", 5),
        (Optional[float], "None", None),  # noqa: UP045
        (str | int, "5", 5),
        (str | int, "five", "five"),
        (int | float, "5", 5),
        (bool | str, "true", True),
        (None, "none", None),
        (Literal["a", 2], "2", 2),
        (Literal["a"] | None, "none", None),
    ],
)
def test_values_have_the_type_of_the_annotation(annotation, text, value):
    result = parse_value(annotation, text)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "1.5"),
        (int, ""),
        (float, "nan"),
        (float, "fast"),
        (bool, "1"),
        (bool, "yes"),
        (int | None, "null"),
        (Literal["a", "b"], "c"),
        (None, ""),
    ],
)
def test_other_values_are_refused(annotation, text):
    with pytest.raises(ValueError, match="is not of type"):
        parse_value(annotation, text)


@pytest.mark.parametrize("annotation", [Any, tuple[int, ...], list, dict[str, int], "Unknown", Options])
def test_types_without_text_are_refused(annotation):
    with pytest.raises(ValueError, match="cannot be given as text"):
        parse_value(annotation, "1")


@given(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), PLAIN_TEXT))
def test_a_printed_value_is_read_back(value):
    result = parse_value(type(value), str(value))
    assert result == value and type(result) is type(value)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), PLAIN_TEXT, min_size=1))
def test_pairs_are_read_back(options):
    assert split_options(",".join(f"{key}={value}" for key, value in options.items())) == options


@pytest.mark.parametrize("text", ["", "a", "a=1,", "a=1,b", "=1", "a b=1", "1=a", "a=1,a=2"])
def test_malformed_options_are_refused(text):
    with pytest.raises(PluginError, match=r"is not key=value|is given twice"):
        split_options(text)


def test_options_of_a_dataclass():
    given = split_options("rate=0.5, count=4,on=true,limit=none,mode=2,label=a=b:c d")
    expected = {"rate": 0.5, "count": 4, "on": True, "limit": None, "mode": 2, "label": "a=b:c d"}
    assert parse_options(Options, given, "it") == expected


def test_an_unknown_option_is_answered_with_those_that_exist():
    with pytest.raises(PluginError) as caught:
        parse_options(Options, {"cuont": "1"}, "braking")
    message = str(caught.value)
    assert message.startswith("braking has no option 'cuont' (did you mean count?); its options are rate: float, count")
    assert "limit: float | None = None" in message
    assert "other" not in message and "constant" not in message


def test_errors_name_the_option():
    with pytest.raises(PluginError, match=r"^it, option count=many: 'many' is not of type int$"):
        parse_options(Options, {"count": "many"}, "it")
    with pytest.raises(PluginError, match=r"^it, option other=1: values of tuple\[int, ...\] cannot be given as text$"):
        parse_options(Options, {"other": "1"}, "it")


def test_functions_have_options_too():
    def make(rate: "float", *rest: int, untyped=1, **more: int): ...

    assert parse_options(make, {"rate": "2"}, "it") == {"rate": 2.0}
    with pytest.raises(PluginError, match="a parameter without annotation"):
        parse_options(make, {"untyped": "2"}, "it")
    for name in ("rest", "more"):
        with pytest.raises(PluginError, match="its options are rate: float"):
            parse_options(make, {name: "2"}, "it")


def test_a_function_without_signature_has_no_options():
    with pytest.raises(PluginError, match="it has no options"):
        parse_options(dict, {"a": "2"}, "it")
