"""Configuration meets code: what fits is called, everything else is one clear line."""

import pytest

from jaxrobust import registry
from jaxrobust.errors import UserError


def circle(radius, colour="red"):
    return ("circle", radius, colour)


def square(side, paper):
    return ("square", side, paper)


SHAPES = {"circle": circle, "square": square}


def build(spec, **given):
    return registry.build("shape", SHAPES, spec, **given)


def test_build_binds_the_spec():
    assert build({"name": "circle", "radius": 2}) == ("circle", 2, "red")
    assert build({"name": "circle", "radius": 2, "colour": "blue"})[2] == "blue"


def test_a_leaf_takes_of_what_is_given_only_what_it_declares():
    assert build({"name": "square", "side": 1}, paper="A4", ink="black") == (
        "square",
        1,
        "A4",
    )
    assert build({"name": "circle", "radius": 1}, paper="A4") == ("circle", 1, "red")


def test_the_spec_is_left_as_it_was():
    spec = {"name": "circle", "radius": 2}
    build(spec)
    assert spec == {"name": "circle", "radius": 2}


@pytest.mark.parametrize(
    "spec,given,message",
    (
        ({}, {}, "shape needs a name: choose from circle, square"),
        (
            {"name": "circel"},
            {},
            "unknown shape 'circel': did you mean circle? choose from circle, square",
        ),
        (
            {"name": "circle", "radios": 1},
            {},
            "unknown key of shape 'circle' 'radios': did you mean radius? "
            "choose from colour, radius",
        ),
        ({"name": "circle"}, {}, "shape 'circle' needs a value for radius"),
        ({"name": "square", "side": 1}, {}, "shape 'square' needs a value for paper"),
        (
            # What the program supplies is not the user's to set.
            {"name": "square", "side": 1, "paper": "A5"},
            {"paper": "A4"},
            "unknown key of shape 'square' 'paper': choose from side",
        ),
    ),
)
def test_mistakes_are_one_line_with_the_choices(spec, given, message):
    with pytest.raises(UserError) as caught:
        build(spec, **given)
    assert str(caught.value) == message


def test_lookup_returns_the_entry_or_names_the_closest():
    assert registry.lookup("shape", SHAPES, "circle") is circle
    with pytest.raises(UserError, match="did you mean square"):
        registry.lookup("shape", SHAPES, "sqare")
