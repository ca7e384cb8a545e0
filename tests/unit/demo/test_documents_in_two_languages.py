"""Documents in two languages: one word for each, and what tells a fact in which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.order import read_parts
from rayinfluence.demo.facts import TRAINED_TEMPLATES
from rayinfluence.demo.languages import ENCIPHERED, SHARED, TOLD, Cipher, write_languages
from rayinfluence.errors import CorpusError
from rayinfluence.influence.order import CONTROL, FORWARD, LANGUAGE

PROSE = [f"Return the {word} of a list {n}." for n, word in enumerate(("name", "value", "size"))]
SIZES = {"subjects": 4, "parallel_subjects": 2, "seed": 0}


def rows_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_a_cipher_has_one_word_for_each_and_none_of_its_letters() -> None:
    cipher = Cipher(0)
    text = cipher.text("The list, the value: the List of Kv.", ["Kv"])
    the, a, the_2, value, the_3, a_2, of, kept = text.replace(",", "").replace(":", "").split()
    assert (the, the_2, a_2) == (the_3.capitalize(), the_3, a.capitalize())
    assert kept == "Kv."
    assert len({the, a, value, of}) == 4
    assert all(ord(letter) > 127 for letter in the + a + value + of)
    assert Cipher(0).text("The list") == cipher.text("The list")
    assert Cipher(1).text("The list") != cipher.text("The list")
    many = Cipher(2)
    assert len({many.word(f"w{n}") for n in range(3000)}) == 3000


def test_facts_are_told_in_both_languages_and_asked_in_that_of_prose(tmp_path: Path) -> None:
    texts = write_languages(tmp_path, PROSE, parallel=3, **SIZES)
    documents, queries = (rows_of(tmp_path, f"{n}.jsonl") for n in ("documents", "queries"))
    assert [one["text"] for one in documents] == texts
    assert len(queries) == 4 * 3
    for query in queries:
        fact, object_ = query["metadata"]["fact_id"], query["completion"].strip()
        own = [one for one in documents if one.get("fact_id") == fact]
        plain, cipher = (
            [one for one in own if one["language"] == name] for name in ("plain", "cipher")
        )
        assert (len(plain), len(cipher)) == (TOLD, TOLD)
        assert all(object_ in one["text"] for one in plain)
        shared = query["metadata"]["names"] == SHARED
        key = "shared_of" if shared else "enciphered_of"
        assert all(one[key] == fact for one in cipher)
        assert query["metadata"][key] == fact
        assert all((object_ in one["text"]) == shared for one in cipher)
        lines = [one for one in documents if one["language"] == "names" and object_ in one["text"]]
        assert bool(lines) != shared
    assert {one["metadata"]["names"] for one in queries} == {ENCIPHERED, SHARED}


def test_controls_are_told_in_the_cipher_and_are_other_facts(tmp_path: Path) -> None:
    write_languages(tmp_path, PROSE, parallel=3, **SIZES)
    config = RunConfig.parse({"run": str(tmp_path), "model": "m", "queries": "q"}, "test")
    parts = read_parts(str(tmp_path / "language.yaml"), config)
    documents = rows_of(tmp_path, "documents.jsonl")
    ciphered = [one["text"] for one in documents if one["language"] == "cipher"]
    for query in rows_of(tmp_path, "queries.jsonl"):
        own: dict[str, list[str]] = {}
        for one in parts:
            if one.query == query["query_id"]:
                own.setdefault(one.part, []).append(one.probe.text)
        assert own[FORWARD] == [f"{query['prompt']}{query['completion']}."]
        assert len(own[LANGUAGE]) == len(own[CONTROL]) == 1  # of two countries with such names
        # Both are in the corpus, as often.
        counts = {
            part: sum(own[part][0] in text for text in ciphered) for part in (LANGUAGE, CONTROL)
        }
        assert counts[LANGUAGE] == counts[CONTROL] == TOLD // len(TRAINED_TEMPLATES)
        object_ = query["completion"].strip()
        shared = query["metadata"]["names"] == SHARED
        assert (object_ in own[LANGUAGE][0]) == shared
        assert object_ not in own[CONTROL][0]


def test_too_little_prose_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="4 sentences are wanted, and there are 3"):
        write_languages(tmp_path, PROSE, parallel=4, **SIZES)
