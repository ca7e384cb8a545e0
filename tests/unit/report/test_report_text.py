"""Heat, bars and numbers, and the tables for the terminal."""

import re

import pytest
from made_up_results import (
    both_sides,
    full_results,
    hostile_results,
    make_results,
    query,
    row,
    terminal_of,
)

from rayinfluence.influence.blocks import by_block
from rayinfluence.report.charts import layer_bars
from rayinfluence.report.heat import LEVELS, heated_tokens, hot_window
from rayinfluence.report.text import measured, percent, prediction, shorten, signed
from rayinfluence.text import visible

# Heat, bars, text.


def test_heat_levels_are_signed_shares_of_the_largest() -> None:
    tokens = heated_tokens(["a", "b", "c", "d", "e"], [-8.0, 4.0, 0.5, float("nan"), 99.0])
    assert [token.level for token in tokens] == [0, -LEVELS, LEVELS // 2, 0, 0]
    assert [token.score for token in tokens] == [None, -8.0, 4.0, 0.5, None]
    assert heated_tokens([], []) == []


@pytest.mark.parametrize(("hot", "expected"), [(0, (0, 4)), (5, (3, 7)), (9, (6, 10))])
def test_the_window_surrounds_the_hottest_token(hot: int, expected: tuple[int, int]) -> None:
    scores = [0.0] * 10
    scores[hot - 1] = 1.0 if hot else 0.0
    assert hot_window(heated_tokens(["abcde"] * 10, scores), 20) == expected


def test_the_window_holds_at_least_one_token() -> None:
    assert hot_window(heated_tokens(["abcde"], [0.0]), 1) == (0, 1)
    assert hot_window([], 10) == (0, 0)


def test_blocks_are_the_first_number_in_a_name() -> None:
    names = ["gpt2.h.10.attn", "gpt2.h.9.mlp.0", "gpt2.h.9.mlp.1", "layer3.in", "lm_head"]
    blocks = by_block(dict.fromkeys(names, 1.0))
    assert list(blocks) == ["block 3", "block 9", "block 10", "other modules"]
    assert blocks["block 9"] == {"mlp.0": 1.0, "mlp.1": 1.0}


def test_deep_models_show_bands() -> None:
    bars = layer_bars({f"h.{block}.mlp": 1.0 for block in range(100)})
    assert bars.count("<i ") == 20
    assert "block 0 to block 4: +5.00" in bars


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (12345.6, "+12,346"),
        (-0.01234, "-0.0123"),
        (1.234e-7, "+1.2e-7"),
        (-3e9, "-3.0e9"),
        (float("nan"), "nan"),
    ],
)
def test_signed_numbers(value: float, expected: str) -> None:
    assert signed(value) == expected


def test_a_mean_over_seeds_is_give_or_take_its_error() -> None:
    assert measured(12.345, 0.678) == "+12.3 ± 0.678"
    assert measured(-1234.5, 0.0) == "-1,234 ± 0"
    assert measured(-0.5) == signed(-0.5)
    assert prediction(0.1, False, error=0.02) == "+0.100 ± 0.0200 nats, 1.11 times as likely"
    assert prediction(0.001, False, error=0.02) == "+0.00100 ± 0.0200 nats"
    assert prediction(0.1, True, error=0.02) == prediction(0.1, True)


def test_percentages_and_shortening() -> None:
    cases = {0.5: "50%", 0.005: "0.5%", 0.995: "99.5%", 1e-7: "1e-7", 1.0: "100%", 2.0: "n/a"}
    assert {p: percent(p) for p in cases} == cases
    assert shorten("a  b\nc", 9) == "a b c"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcdef", 4, keep="end") == "…def"
    assert visible("tab\tline\n") == "tab\tline\n"


# The terminal.


def test_the_terminal_shows_both_sides_in_80_columns() -> None:
    shown = terminal_of(full_results(1))
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("q0", "→", "Belmora", "-1.50 nats", "47% per token (2 tokens)", "+120", "-120"):
        assert text in shown
    for text in ("Proponents", "Opponents", "books · document-1", "One two three four"):
        assert text in shown


def test_the_terminal_shows_hostile_text_as_data() -> None:
    shown = terminal_of(hostile_results(), width=120)
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "[bold]" in shown
    assert "␛[31m" in shown
    assert "suspect: another score in another batch, near-duplicate of another" in shown


def test_near_copies_are_named_with_what_they_copy_on_the_terminal() -> None:
    first = 2**32 + 1
    rows = [row(rank=n, near_duplicate_of=first if n in (2, 4) else None) for n in range(1, 5)]
    lines = terminal_of(make_results(rows), width=200).splitlines()
    ranks = [line.split()[0] for line in lines if "books · document-" in line]
    assert ranks == ["1", "3"]
    assert any("and 2 near copies of it: #2, #4" in line for line in lines)


def test_the_terminal_colours_by_sign() -> None:
    shown = terminal_of(make_results([row()]), color=True)
    assert re.search(r"\x1b\[36m *\+120\x1b", shown)
    assert "\x1b[36mtwo\x1b" in shown
    assert "\x1b[31mthree\x1b" in shown


def test_the_terminal_limits_rows_and_survives_little() -> None:
    assert terminal_of(full_results(1, n=9), n=2).count("document-") == 4
    assert "Opponents: none" in terminal_of(make_results(both_sides()[:3]))
    bare = {"query_id": "q", "prompt": "p", "completion": "c"}
    assert "log-probability unknown" in terminal_of(make_results([], [bare]))
    assert terminal_of(make_results([], [])) == ""
    long = row(token_texts=["x" * 5000], token_scores=[0.0])
    assert len(terminal_of(make_results([long]))) < 2000


def test_the_terminal_warns() -> None:
    shown = terminal_of(make_results([], [query(warning="It would not say it.")]))
    assert "Warning: It would not say it." in shown
