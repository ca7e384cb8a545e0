"""Survivors by some blocks of the model."""

import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis.restricted import chosen_blocks, restricted
from rayinfluence.errors import ConfigError


def test_blocks_are_named_by_numbers_or_thirds() -> None:
    there = list(range(7))
    assert chosen_blocks(there, "lower") == [0, 1, 2]
    assert chosen_blocks(there, "middle") == [3, 4]
    assert chosen_blocks(there, "upper") == [5, 6]
    assert chosen_blocks(there, "2-4") == [2, 3, 4]
    assert chosen_blocks(there, "6") == [6]


@pytest.mark.parametrize(
    ("wanted", "there", "sentence"),
    [
        ("top", [0, 1, 2], "--layers top: write A-B, lower, middle or upper."),
        ("8-9", [0, 1, 2], "--layers 8-9: the hits have scores of blocks 0 to 2."),
        ("upper", [0, 1], "--layers upper: the hits have scores of 2 blocks, and thirds are"),
    ],
)
def test_what_means_no_block_is_refused(wanted: str, there: list[int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        chosen_blocks(there, wanted)


def test_survivors_are_ranked_by_the_chosen_blocks_in_their_direction() -> None:
    layers = {1: (9.0, 1.0), 2: (2.0, 5.0), 3: (1.0, 3.0)}
    rows = [
        row(
            "q",
            rank,
            side,
            score=sign * sum(both),
            layer_scores=[(f"h.{b}.mlp", sign * s) for b, s in enumerate(both)],
        )
        for side, sign in (("proponent", 1.0), ("opponent", -1.0))
        for rank, both in layers.items()
    ]
    made = make_results(rows, [query(log_probability=-1.5)], n_training_sequences=10)
    found = restricted(made, "1")
    for side, sign in (("proponents", 1.0), ("opponents", -1.0)):
        hits = getattr(found, side)("q")
        assert [hit.score for hit in hits] == [sign * s for s in (5.0, 3.0, 1.0)]
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert [hit.sequence_id % 1000 for hit in hits] == [
            hit.sequence_id % 1000 for hit in (getattr(made, side)("q")[i] for i in (1, 2, 0))
        ]
        assert [hit.delta_nats for hit in hits] == [sign * s for s in (0.5, 0.3, 0.1)]
        assert {hit.token_scores for hit in hits} == {None}
    assert found.manifest["layers"]["blocks"] == [1]
    assert "Only survivors of the scan" in found.manifest["layers"]["sentence"]
    assert len(found.statistics) == len(found.tails) == 0
    # All blocks give the order that there was.
    assert found.manifest["methods"] == made.manifest["methods"]
    assert [h.rank for h in restricted(made, "0-1").proponents("q")] == [1, 2, 3]
    assert restricted(made, "0-1").ids("q", "proponent") == made.ids("q", "proponent")


def test_a_method_without_scores_by_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="ekfac has no scores by layer"):
        restricted(make_results([row(layer_scores=[])], n_training_sequences=10), "upper")
