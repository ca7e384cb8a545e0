"""Which ids of a row are a text's, which of them counted, and where they are cut."""

import numpy as np
import pytest

from rayinfluence.corpus.token_rows import TokenForm, TokenRow, cuts_of, tokens_of


def listed(row: TokenRow | str) -> tuple[list[int], list[bool] | None]:
    assert isinstance(row, TokenRow)
    return row.tokens_T.tolist(), None if row.counted_T is None else row.counted_T.tolist()


def test_ids_are_those_of_their_column_without_padding() -> None:
    assert listed(tokens_of({"input_ids": [5, 6, 7]}, "input_ids")) == ([5, 6, 7], None)
    assert listed(tokens_of({"t": np.array([5, 6], np.uint16)}, "t")) == ([5, 6], None)
    assert listed(tokens_of({"t": []}, "t")) == ([], None)
    for padding, left in (([0, 1, 1, 0], [6, 7]), ([1, 1, 1, 1], [5, 6, 7, 8]), ([0] * 4, [])):
        row = {"t": [5, 6, 7, 8], "attention_mask": padding}
        assert listed(tokens_of(row, "t"))[0] == left
    assert listed(tokens_of({"t": [5], "attention_mask": None}, "t"))[0] == [5]


def test_what_counted_is_told_by_labels_or_by_a_mask_of_each_place() -> None:
    tokens = [5, 6, 7, 8]
    for counted in ([-100, -100, 7, 8], [0, 0, 1, 1], [False, False, True, True]):
        row = {"t": tokens, "l": counted}
        assert listed(tokens_of(row, "t", "l")) == (tokens, [False, False, True, True])
    # Padding goes from both alike.
    row = {"t": [9, *tokens], "l": [-100, -100, 6, 7, -100], "attention_mask": [0, 1, 1, 1, 1]}
    assert listed(tokens_of(row, "t", "l")) == (tokens, [False, True, True, False])
    # Of ids 0 and 1 alone both may be meant: where they say the same it does not matter.
    assert listed(tokens_of({"t": [1, 1], "l": [1, 1]}, "t", "l"))[1] == [True, True]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"t": "w1 w2"}, "'t' is not a list of token ids"),
        ({"t": None}, "'t' is not a list of token ids"),
        ({"t": [1.5, 2.0]}, "'t' is not a list of token ids"),
        ({"t": ["1", "2"]}, "'t' is not a list of token ids"),
        ({"t": [True, False]}, "'t' is not a list of token ids"),
        ({"t": [1, None]}, "'t' is not a list of token ids"),
        ({"t": [[1, 2], [3]]}, "'t' is not a list of token ids"),
        ({"t": [[1, 2]]}, "'t' is not a list of token ids"),
        ({"t": [10**30]}, "'t' is not a list of token ids"),
        ({"t": [4, -1]}, "'t' has -1 at place 1, and no token id is negative"),
        ({"t": [4, 5], "l": [1]}, "'l' has 1 values for 2 token ids"),
        ({"t": [4, 5], "l": None}, "'l' is not a list of whole numbers"),
        ({"t": [4, 5], "l": [0, 1], "attention_mask": [1]}, "'attention_mask' has 1 values"),
        ({"t": [4, 5], "l": [0, 1], "attention_mask": [1, 2]}, "other values than 0 and 1"),
        ({"t": [4] * 3, "l": [0] * 3, "attention_mask": [1, 0, 1]}, "padding between tokens"),
        ({"t": [4, 5, 6], "l": [5, 6, -100]}, "'l' has 5 at place 0, where the token id is 4"),
        ({"t": [4, 5], "l": [2, 2]}, "'l' has 2 at place 0"),
        ({"t": [0, 1], "l": [0, 1]}, "may be labels or a mask"),
    ],
)
def test_what_is_no_row_of_ids_says_why(row: dict[str, object], said: str) -> None:
    why = tokens_of(row, "t", "l" if "l" in row else None)
    assert isinstance(why, str)
    assert said in why


def test_rows_are_cut_as_training_had_them() -> None:
    row = TokenRow(np.array([4, 5, 0, 6, 0, 7]))
    assert cuts_of(row, TokenForm("t", separator=0)) == [(0, 6)]
    ends = TokenForm("t", packing="separate", separator=0)
    assert cuts_of(row, ends) == [(0, 3), (3, 5), (5, 6)]
    starts = TokenForm("t", packing="separate", separator=0, separator_at="start")
    assert cuts_of(row, starts) == [(0, 2), (2, 4), (4, 6)]
    # A separator at an end leaves nothing empty.
    assert cuts_of(TokenRow(np.array([0, 4, 0])), ends) == [(0, 1), (1, 3)]
    assert cuts_of(TokenRow(np.array([0, 4, 0])), starts) == [(0, 2), (2, 3)]
    # Positions that begin again need no separator, and say more than one.
    packed = TokenRow(np.array([4, 5, 6, 7]), positions_T=np.array([0, 1, 0, 1]))
    assert cuts_of(packed, TokenForm("t", packing="separate")) == [(0, 2), (2, 4)]
    why = cuts_of(row, TokenForm("t", packing="separate"))
    assert isinstance(why, str)
    assert "corpus.tokens.separator" in why
