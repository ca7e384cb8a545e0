import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.storage.digest import canonical_json, differences, digest, digest_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def turned(value: object) -> object:
    """The same value with its dictionaries in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(inner) for key, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


@given(JSON)
def test_equal_values_have_equal_digests_whatever_their_key_order(value: object) -> None:
    assert digest(value) == digest(turned(value))
    assert len(digest(value)) == 32


@given(JSON, JSON)
def test_values_with_equal_digests_are_equal(left: object, right: object) -> None:
    assert (digest(left) == digest(right)) == (canonical_json(left) == canonical_json(right))


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_parts_are_told_apart(left: list[bytes], right: list[bytes]) -> None:
    assert (digest_bytes(*left) == digest_bytes(*right)) == (left == right)


def test_the_digest_does_not_change_between_versions() -> None:
    # A changed digest would make every run directory in the world start again.
    assert digest_bytes(b"a", b"bc") == "9a8acca1b6c6c0befd3fbc756aed625d"
    assert digest({"b": [1, 2.5, None], "a": "naïve"}) == "be0d6ad27a82bf5711b32542c37e4d7d"


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(value)


def test_differences_are_one_line_per_leaf() -> None:
    ours = {"fit": {"seed": 0, "lanes": 8}, "modules": [["a", 1]], "model": "x", "new": 1}
    theirs = {"fit": {"seed": 1, "lanes": 8}, "modules": [["b", 1]], "model": "x", "gone": None}
    assert differences(ours, theirs) == [
        "fit.seed: 0, was 1",
        "gone: absent, was null",
        'modules: [["a",1]], was [["b",1]]',
        "new: 1, was absent",
    ]
    assert differences(ours, ours) == []


def test_of_long_lists_it_is_said_what_they_lack_and_not_all_they_have() -> None:
    def layers(*kinds: str) -> list[list[object]]:
        return [
            [f"h.{i}.{kind}", 64, 256, True, f"h.{i}.{kind}"] for i in range(24) for kind in kinds
        ]

    few, many = layers("up", "gate", "down"), layers("up", "gate", "down", "out")
    assert differences({"modules": few}, {"modules": many}) == [
        "modules: 72 entries, was 96; no longer: h.0.out, h.1.out and 22 more"
    ]
    [line] = differences({"modules": layers("up", "in")}, {"modules": layers("up", "out")})
    assert line == (
        "modules: 48 entries, was 48; no longer: h.0.out, h.1.out and 22 more; "
        "new: h.0.in, h.1.in and 22 more"
    )
    other = [*few[:5], ["h.1.down", 64, 512, True, "h.1.down"], *few[6:]]
    assert differences({"modules": other}, {"modules": few}) == [
        'modules: 72 entries, was 72; first ["h.1.down",64,512,true,"h.1.down"], '
        'was ["h.1.down",64,256,true,"h.1.down"]'
    ]
    [line] = differences({"groups": [few, few]}, {"groups": [few]})
    assert len(line) < 400
