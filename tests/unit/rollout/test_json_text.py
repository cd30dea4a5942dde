"""JSON that is written here can be read by any parser."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.json_text import finite, json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3),
)


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


@given(value=VALUES)
def test_no_number_is_written_that_json_does_not_know(value):
    """It reads back as the same value with None in their places, by a parser that knows neither infinity nor NaN."""
    assert json.loads(json_text(value), parse_constant=refuse) == finite(value)


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_stay_as_they_are(number):
    """To the last bit; the others are None, however deep."""
    assert finite({"a": (number, {"b": -math.inf})}) == {"a": [number, {"b": None}]}


def test_what_json_cannot_hold_is_left_to_the_caller():
    """Refused, or as ``default`` turns it."""
    with pytest.raises(TypeError):
        json_text({"a": object})
    assert json_text([1, refuse], default=lambda value: "a function") == '[1, "a function"]'
