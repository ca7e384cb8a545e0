"""Conditions on metadata mean what they say, of rows that lack a key or have another kind too."""

from __future__ import annotations

import copy

import pytest

from rayinfluence.corpus.predicate import Predicate
from rayinfluence.errors import ConfigError

ROWS = [
    {"license": "x", "year": 1990, "of": {"lang": "en"}, "public": True},
    {"license": "y", "year": 1989.5, "of": {"lang": "de"}, "public": False},
    {"license": "y", "year": 2001, "a key": 1},
    {"year": "1995", "license": None},
    {"license": ["x"], "of.lang": "en", "of": "no object", "year": 2**70},
]
T, F, U = True, False, None


def says(text: str) -> list[bool | None]:
    found = Predicate(text, "corpus.select").of(ROWS)
    return [
        None if unknown else bool(holds)
        for holds, unknown in zip(found.holds_N, found.unknown_N, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("license == 'x'", [T, F, F, U, U]),
        ("license != 'x'", [F, T, T, U, U]),
        ("not license == 'x'", [F, T, T, U, U]),
        ("year >= 1990", [T, F, T, U, T]),
        ("1990 <= year", [T, F, T, U, T]),
        ("1990 < year", [F, F, T, U, T]),
        ("1990 > year", [F, T, F, U, F]),
        ("1989 < year <= 1990", [T, T, F, U, F]),
        ("year == '1995'", [U, U, U, T, U]),
        ("year > -1.5", [T, T, T, U, T]),
        ("license != 'x' and year >= 1990", [F, F, T, U, U]),
        ("license == 'y' or year >= 1990", [T, T, T, U, T]),
        ("license in ['x', 'y']", [T, T, T, U, U]),
        ("license not in ('x', 'z')", [F, T, T, U, U]),
        ("license in ['x', null]", [T, F, F, T, U]),
        ("license is null", [F, F, F, T, F]),
        ("license is not None", [T, T, T, F, T]),
        ("of.lang == 'en'", [T, F, U, U, T]),
        ("field('a key') == 1", [U, U, T, U, U]),
        ("public", [T, F, U, U, U]),
        ("not public", [F, T, U, U, U]),
        ("public == true", [T, F, U, U, U]),
        ("nothing == 1", [U, U, U, U, U]),
        ("\n(year >= 1990\nand license == 'x')\n", [T, F, F, U, U]),
    ],
)
def test_a_condition_says(text: str, expected: list[bool | None]) -> None:
    assert says(text) == expected


@pytest.mark.parametrize(
    ("text", "sizes", "expected"),
    [
        ("size > 1e6", [2**24 + 1, 5], [T, F]),
        ("size == 1234567890123456789", [1234567890123456789, 1.5, 1234567890123456788], [T, F, F]),
        ("size in [9007199254740993, 'x']", [2**53 + 1, 2**53, float(2**53)], [T, F, F]),
        ("size < 9007199254740993", [2**53 + 1, float(2**53)], [F, T]),
        ("size >= 9223372036854775808", [2**63, 2**63 - 1, -(2**63)], [T, F, F]),
        ("size == 36893488147419103233", [2**65 + 1, 2**65, 1e300], [T, F, F]),
        ("size < 1e400", [2**2000, float("nan")], [T, F]),
    ],
)
def test_numbers_are_compared_as_they_are(
    text: str, sizes: list[float], expected: list[bool]
) -> None:
    """Whatever other rows there are with them."""
    predicate = Predicate(text, "corpus.select")
    rows = [{"size": size} for size in sizes]
    assert predicate.of(rows).holds_N.tolist() == expected
    assert [bool(predicate.of([row]).holds_N[0]) for row in rows] == expected


def test_values_of_another_kind_are_counted_and_named() -> None:
    found = Predicate("year >= 1990 and license == 'x'", "corpus.select").of(ROWS)
    assert found.others == {("year", "number"): (1, "1995"), ("license", "text"): (1, '["x"]')}


def test_one_sign_of_equality_will_do_and_texts_keep_theirs() -> None:
    def holds(text: str) -> list[bool]:
        rows = [{"a": "x = 'y'", "n": 1}, {"a": "x == 'y'", "n": 2}]
        return Predicate(text, "corpus.select").of(rows).holds_N.tolist()

    assert holds("n = 1") == holds("n==1") == holds("1=n") == [True, False]
    assert holds("a = \"x = 'y'\"") == holds(r"a='x = \'y\''") == [True, False]
    assert holds("n >= 2 and n <= 2 and n != 1") == [False, True]


def test_a_condition_travels() -> None:
    predicate = copy.deepcopy(Predicate("of.lang == 'en'", "corpus.select"))
    assert predicate.keys == ["of.lang"]
    assert predicate.of(ROWS).holds_N.tolist() == [True, False, False, False, True]
    assert predicate.of([]).holds_N.tolist() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("license == 'x' AND year > 1", "small letters"),
        ("license <> 'x'", "unequal is written !="),
        ("license == x", "text values need quotes"),
        ("license in ['x' 'y']", "between 'x' and 'y' a comma is missing"),
        ("license in ['x'\n'y', 'z']", "between 'x' and 'y' a comma is missing"),
        ("class == 'x'", r"class has a reserved word, and as a key is written field\('class'\)"),
        ("year > 1 and of.from == 'x'", r"is written field\('of.from'\)"),
        ("'x' == 'x'", "neither is a key"),
        ("__import__('os').system('true')", "is no comparison"),
        ("license == __import__('os')", "is no value"),
        ("(lambda: 1)()", "is no comparison"),
        ("year + 1 > 2", "neither is a key"),
        ("license in 'x'", "has to be a list"),
        ("license in []", "has to be a list"),
        ("license < null", "cannot be ordered"),
        ("public > true", "cannot be ordered"),
        ("license == b'x'", "is no text, number"),
        ("year == 1j", "is no text, number"),
        ("1990", "is no comparison"),
        ("[year for year in license]", "is no comparison"),
        ("(" * 300 + "year" + ")" * 300, "cannot be read"),
        ("not " * 2000 + "public", "nested too deeply|cannot be read"),
        ("year == 1 or " * 1000 + "year == 1", "characters"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"corpus.select: .*({said}).*Compare keys"):
        Predicate(text, "corpus.select")
