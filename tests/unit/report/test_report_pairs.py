"""Scores by pairs of tokens in a page: which part, which token, and how exactly."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from made_up_results import Page, make_results, query, row

from rayinfluence.report import render_page
from rayinfluence.report.panes import parts_of, quantised
from rayinfluence.storage.results import Results, Survivor

TEXTS = ["One", " two\u200b", "", "é", " 😀x", "\n", " four"]


class WithPairs(Results):
    """Results whose hits have scores by pairs."""

    pairs: Sequence[Sequence[float]]

    def proponents(self, query_id: str, n: int | None = None) -> list[Survivor]:
        pairs = [list(one) for one in self.pairs]
        return [replace(hit, pair_scores=pairs) for hit in super().proponents(query_id, n)]


def with_pairs(pairs: Sequence[Sequence[float]], texts: list[str], **changes: Any) -> Results:
    asked = query(token_texts=[" B", "el", "mora"], token_log_probabilities=[-1.0] * 3)
    total = np.sum(pairs, axis=0).tolist()
    found = row(token_texts=texts, token_scores=total, text="".join(texts), **changes)
    results = make_results([found], [asked])
    results.queries["q"]["part_ends"] = [2, 3]
    results.__class__ = WithPairs
    results.pairs = pairs  # type: ignore[attr-defined]
    return results


def test_parts_are_of_tokens_of_the_answer() -> None:
    assert parts_of({"part_ends": [2, 3]}) == [0, 0, 1]
    assert parts_of({"part_ends": None}) == parts_of({}) == []


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_page_s_numbers_are_right_to_half_a_step(scale: float) -> None:
    exact = np.random.default_rng(0).standard_t(2, (5, 300)) * scale
    step, steps = quantised(exact)
    assert steps.dtype == np.int8
    assert np.abs(steps).max() == 127
    assert step == pytest.approx(np.abs(exact).max() / 127)
    assert np.abs(steps * step - exact).max() <= step / 2 * (1 + 1e-9)


def test_pairs_that_are_all_zero_have_no_step() -> None:
    step, steps = quantised(np.zeros((2, 3)))
    assert step == 0
    assert not steps.any()


def test_a_hit_s_pairs_are_those_of_its_shown_tokens() -> None:
    pairs = [[1.0, 2.0, -4.0, 8.0, 0.5, 0.0, 3.0], [0.0, 1.0, 1.0, -2.0, 0.0, 7.0, 3.0]]
    page = render_page({"ekfac": with_pairs(pairs, TEXTS)})
    [card] = Page(page).of_class("card")
    step = float(card["data-step"] or "nan")
    steps = np.frombuffer(base64.b64decode(card["data-pairs"] or ""), np.int8).reshape(2, -1)
    # On the token that is predicted; a part of a character with the rest of it.
    shown = np.array([[0, 1, 2 - 4, 8, 0.5, 0], [0, 0, 1 + 1, -2, 0, 7]])
    np.testing.assert_allclose(steps * step, shown, atol=8 / 254 + 1e-9)
    assert card["data-sums"] == "10.5,10"


def test_a_hit_s_text_can_be_cut_into_its_tokens() -> None:
    pairs = [[float(n) for n in range(7)], [1.0] * 7]
    page = render_page({"ekfac": with_pairs(pairs, TEXTS)})
    found = re.search(r'<div class="text" dir="auto" data-start="0" data-sizes="([\d,]+)">', page)
    assert found is not None
    text = page[found.end() :].split("</div>")[0]
    units = "".join(Page(f"<p>{text}</p>").pieces).encode("utf-16-le")
    sizes = [2 * int(size) for size in found[1].split(",")]
    ends = np.cumsum([0, *sizes]).tolist()
    cut = [units[a:b].decode("utf-16-le") for a, b in pairwise(ends)]
    assert ends[-1] == len(units)
    assert cut == ["One", " two[U+200B]", "é", " 😀x", "↵\n", " four"]


def test_the_answer_says_which_part_each_of_its_tokens_is_in() -> None:
    page = Page(render_page({"ekfac": with_pairs([[1.0] * 7] * 2, TEXTS)}))
    assert [a["data-part"] for _, a in page.elements if "data-part" in a] == ["0", "0", "1"]


def test_pairs_without_room_are_left_out_and_the_text_stays() -> None:
    n = 2000
    page = render_page({"ekfac": with_pairs([[1.0] * n] * 2, ["x"] * n)}, per_side=1500)
    [card] = Page(page).of_class("card")
    assert "data-pairs" not in card
    assert "too many for this page" in page
    assert len(page) < 200_000


def test_without_pairs_a_page_says_nothing_of_them() -> None:
    page = Page(render_page({"ekfac": make_results([row()])}))
    names = {key for _, attributes in page.elements for key in attributes}
    assert not names & {"data-pairs", "data-part", "data-sizes", "data-sums", "data-step"}
