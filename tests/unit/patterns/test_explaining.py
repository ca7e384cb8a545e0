"""Questions that are alike, and models whose own code fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from other_kinds import CLS, MASK, SEP, bert

from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
from rayinfluence.patterns.anatomy import anatomy_of
from rayinfluence.patterns.explain import explain, flow_of
from rayinfluence.patterns.question import Question

KEPT = (True, False, True, False, True)
FIRST = Question("a", (CLS, 1, MASK, 7, SEP), ("",) * 5, 2, 3, 4, KEPT, "", "")
OTHER = replace(FIRST, query_id="b", tokens=(CLS, 9, MASK, 20, SEP), right=4, wrong=3)
SHORT = Question("c", (CLS, 1, MASK, SEP), ("",) * 4, 2, 3, 4, (True, False, True, True), "", "")


def test_questions_of_a_length_and_place_are_a_group() -> None:
    model = freeze(bert())
    baseline = model.get_input_embeddings().weight[MASK], "the mask"
    told: list[str] = []
    questions = [FIRST, SHORT, OTHER]
    found = explain(model, anatomy_of(model), questions, baseline, 6, False, told.append)
    assert [one.query_ids for one in found.groups] == [("a", "b"), ("c",)]
    assert [one.n_tokens for one in found.groups] == [5, 4]
    assert [one.one_answer for one in found.groups] == [False, True]
    assert len(found.groups[0].compressed) == 16
    assert found.groups[1].compressed == ()
    assert told == ["query 1 of 3: a", "query 2 of 3: c", "query 3 of 3: b"]
    assert [[p.start for p in one.patterns] for one in found.flowing] == [[1, 3], [1], [1, 3]]
    for one in found.flowing:
        whole = sum(pattern.whole for pattern in one.patterns)
        assert whole == pytest.approx(one.value - one.value_at_baseline + one.gap, abs=1e-12)
        sums = [a + b for a, b in zip(one.by_skip, one.by_heads, strict=True)]
        assert sums == pytest.approx([whole] * 2, abs=1e-12)
        assert all(share is not None and 0 < share < 1 for share in one.skip_shares)


def test_equal_questions_give_equal_figures() -> None:
    model = freeze(bert())
    baseline = model.get_input_embeddings().weight[MASK], "the mask"
    arguments = (model, anatomy_of(model), [FIRST, OTHER], baseline, 6, False, lambda _: None)
    assert explain(*arguments) == explain(*arguments)


def test_what_a_model_s_own_code_raises_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = freeze(bert())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(model.bert.encoder.layer[1], "forward", fail)
    baseline = model.get_input_embeddings().weight[MASK]
    with pytest.raises(ModelError, match="cannot be followed along a line in float64") as raised:
        flow_of(model, anatomy_of(model), FIRST, baseline, 6)
    assert "no room. Fewer `--points` take less memory" in str(raised.value)
