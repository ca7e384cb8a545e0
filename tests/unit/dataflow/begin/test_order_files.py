"""Files of sentences by parts: what they have, and what is wrong in them, in words."""

from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.order import parts_of, read_parts
from rayinfluence.demo.corpus import write_corpus
from rayinfluence.demo.order import parts_of_corpus, write_parts
from rayinfluence.demo.prose import Passage
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.influence.order import BEGINNING, CONTROL, FORWARD, LANGUAGE, PARTS, REVERSED

PAIR = {"text": "so b is a", "beginning": "so b"}
OTHER: dict[str, Any] = {
    "forward": ["a is b"],
    "another language": [{"text": "zo ki b", "control": "lu ki b"}],
}
ONE: dict[str, Any] = {"forward": ["a is b"], "reversed": [PAIR]}


def config(tmp_path: Path) -> RunConfig:
    return RunConfig.parse({"run": str(tmp_path / "run"), "model": "m", "queries": "q"}, "test")


def test_parts_are_texts_of_queries_with_beginnings_in_the_order_of_wholes() -> None:
    more = {"text": "and b is a", "beginning": "and b"}
    found = parts_of({"queries": {"q": {**ONE, "reversed": [PAIR, more]}, "r": ONE}})
    assert [(one.query, one.part, one.probe.text) for one in found] == [
        ("q", FORWARD, "a is b"),
        ("q", REVERSED, "so b is a"),
        ("q", REVERSED, "and b is a"),
        ("q", BEGINNING, "so b"),
        ("q", BEGINNING, "and b"),
        ("r", FORWARD, "a is b"),
        ("r", REVERSED, "so b is a"),
        ("r", BEGINNING, "so b"),
    ]
    assert found[1].probe.name == "q, reversed 1"


def test_a_text_in_another_language_has_a_control() -> None:
    found = parts_of({"queries": {"q": OTHER, "r": {**OTHER, **ONE}}})
    assert [(one.query, one.part, one.probe.text) for one in found] == [
        ("q", FORWARD, "a is b"),
        ("q", LANGUAGE, "zo ki b"),
        ("q", CONTROL, "lu ki b"),
        ("r", FORWARD, "a is b"),
        ("r", REVERSED, "so b is a"),
        ("r", BEGINNING, "so b"),
        ("r", LANGUAGE, "zo ki b"),
        ("r", CONTROL, "lu ki b"),
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (None, "it has to have `queries` and no other key"),
        ({"queries": {}}, "its `queries` are no ids with parts"),
        ({"queries": {1: ONE}}, "one of its `queries` is 1, and no text; put the id in quotes"),
        ({"queries": {"q": []}}, "'q' has no parts"),
        ({"queries": {"q": {**ONE, "backward": ["x"]}}}, "'q' has 'backward', which is no part"),
        ({"queries": {"q": {"forward": ["a"]}}}, "'q' has 'forward' alone, and nothing that"),
        ({"queries": {"q": {"reversed": [PAIR]}}}, "'q' has no 'forward', and without it nothing"),
        ({"queries": {"q": {**ONE, "forward": []}}}, "'q, forward': a list of one or more texts"),
        ({"queries": {"q": {**ONE, "reversed": []}}}, "its 'reversed' is no list, or an empty one"),
        ({"queries": {"q": {**ONE, "reversed": ["so b is a"]}}}, "would count as its order"),
        (
            {"queries": {"q": {**ONE, "reversed": [{"text": "so b is a", "beginning": "b"}]}}},
            "'so b is a' does not begin with 'b' and go on",
        ),
        (
            {"queries": {"q": {**ONE, "reversed": [{"text": "so b", "beginning": "so b"}]}}},
            "'so b' does not begin with 'so b' and go on",
        ),
        ({"queries": {"q": {**ONE, "reversed": [{**PAIR, "beginning": 1}]}}}, "is no text; use"),
        ({"queries": {"q": {**OTHER, LANGUAGE: [PAIR]}}}, "each is {text, control}, and one is"),
        ({"queries": {"q": {**OTHER, LANGUAGE: ["x"]}}}, "would count as its meaning otherwise"),
        (
            {"queries": {"q": {**OTHER, LANGUAGE: [{"text": "x", "control": "x"}]}}},
            "'q': 'x' is its own control",
        ),
    ],
)
def test_what_is_no_file_of_parts_is_refused(values: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parts_of(values)
    assert sentence in str(refused.value)


def test_a_file_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "parts.yaml"
    file.write_text("queries: [")
    with pytest.raises(InputError, match=r"parts\.yaml cannot be read as YAML"):
        read_parts(str(file), config(tmp_path))
    file.write_text("queries: {}")
    with pytest.raises(InputError, match=r"parts\.yaml: its `queries` are no ids"):
        read_parts(str(file), config(tmp_path))
    with pytest.raises(ConfigError, match="--probes: there is no file"):
        read_parts(str(tmp_path / "nope"), config(tmp_path))


def test_the_demo_s_file_has_all_parts_in_the_words_of_its_questions(tmp_path: Path) -> None:
    prose = [
        Passage(f"p{i}", f"Here is sentence {i} of what is {'long ' * 18}prose.") for i in range(90)
    ]
    corpus = write_corpus(
        tmp_path, 0, passages=prose, subjects=3, plain_documents=5, queried_facts=9
    )
    write_parts(tmp_path / "order.yaml", corpus)
    found = read_parts(str(tmp_path / "order.yaml"), config(tmp_path))
    asked = {one.query_id: one for one in corpus.queries if not one.held_out}
    assert {one.query for one in found} == set(asked)
    facts = {fact.fact_id: fact for fact in corpus.facts}
    for query_id, query in asked.items():
        fact = facts[query.fact_id]
        texts = {
            part: [one.probe.text for one in found if (one.query, one.part) == (query_id, part)]
            for part in (*PARTS, REVERSED, BEGINNING)
        }
        assert all(texts.values())
        assert texts[FORWARD] == [f"{query.prompt}{query.completion}."]
        assert not any(fact.object in text for text in texts["another object"])
        assert not any(fact.subject in text for text in texts["another subject"])
        assert all(fact.object in text and fact.subject in text for text in texts[REVERSED])
        assert all(text.endswith(query.completion) for text in texts[BEGINNING])
    assert set(parts_of_corpus(corpus)) == set(asked)
