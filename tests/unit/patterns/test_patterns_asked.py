"""Questions in words and in tokens, and what is refused in a sentence."""

import json
from pathlib import Path

import pytest
from other_kinds import CLS, MASK, SEP
from other_kinds import tokenizer as masked_tokenizer

from rayinfluence.errors import ConfigError, QueryError
from rayinfluence.objective_kinds import CAUSAL, MASKED
from rayinfluence.patterns.asked import Asked, Asking, read_asked
from rayinfluence.storage.store import Store
from rayinfluence.testing.models import tiny_tokenizer

CAUSAL_ASKING = Asking(tiny_tokenizer(), CAUSAL, 5, 48)
MASKED_ASKING = Asking(masked_tokenizer(), MASKED, 8, 48)


def line(**changes: object) -> str:
    return json.dumps({"prompt": "w1 w2", "right": " w3", "wrong": " w4", **changes})


def asked(text: str, right: str = " w3", wrong: str = " w4", is_prompt: bool = True) -> Asked:
    return Asked("q", text, is_prompt, right, wrong, "place:1")


def test_a_question_may_be_given_and_a_file_of_them(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{line(query_id='a', note=3)}\n{line(text='w1 [MASK]', prompt='w9')}\n")
    with pytest.raises(QueryError, match=r"questions.jsonl:2 has the keys 'prompt', .*'text'"):
        read_asked([line(), str(file)], Store)
    file.write_text(f"{line(query_id='a', note=3)}\n{line()}\n")
    found = read_asked([line(), str(file)], Store)
    assert [one.query_id for one in found] == ["q1", "a", "q3"]
    assert found[1] == Asked("a", "w1 w2", True, " w3", " w4", f"{Store(str(file)).url}:1")


@pytest.mark.parametrize(
    ("given", "kind", "phrase"),
    [
        (["no.jsonl"], ConfigError, "--query no.jsonl: it is no file"),
        (["."], ConfigError, "--query .: it is no file"),
        (["The keys to the " + 100 * "long "], ConfigError, "it is no file; name a file of"),
        (["[]"], QueryError, "there is no question; write one as"),
        (["[1]"], QueryError, "is no object; write a question as"),
        (["{1}"], QueryError, "--query:1 is no"),
        (['{"promt": "a", "right": "b", "wrong": "c"}'], QueryError, "has the keys 'promt'"),
        (['{"prompt": "a", "right": "b"}'], QueryError, "a question has right, wrong, and"),
        ([line(right=3)], QueryError, "right must be a text, and is 3"),
        ([line(query_id="a"), line(query_id="a")], QueryError, "query_id 'a' is already that of"),
    ],
)
def test_what_is_no_question_is_refused(given: list[str], kind: type, phrase: str) -> None:
    with pytest.raises(kind) as raised:
        read_asked(given, Store)
    assert phrase in str(raised.value)


def test_a_prompt_is_asked_at_its_end() -> None:
    found = CAUSAL_ASKING.question(asked("w1 w2 w7"))
    assert found.tokens == (2, 3, 8)
    assert (found.position, found.right, found.wrong) == (2, 4, 5)
    assert found.kept == (False,) * 3
    assert "".join(found.texts) == "w1 w2 w7"


def test_a_text_is_asked_at_its_mask_and_keeps_what_frames_it() -> None:
    found = MASKED_ASKING.question(asked("w1 [MASK] w7", "w3", "w4", is_prompt=False))
    assert found.tokens == (CLS, 1, MASK, 7, SEP)
    assert (found.position, found.right, found.wrong) == (2, 3, 4)
    assert found.kept == (True, False, True, False, True)


@pytest.mark.parametrize(
    ("asking", "question", "phrase"),
    [
        (CAUSAL_ASKING, asked("w1", is_prompt=False), "give the question a prompt, in the place"),
        (MASKED_ASKING, asked("w1"), "give the question a text, with a mask in the place that"),
        (CAUSAL_ASKING, asked(""), "the prompt holds no token"),
        (CAUSAL_ASKING, asked("w1 w2 w3 w4 w5 w6"), "has 6 tokens, and the model has 5 positions"),
        (
            MASKED_ASKING,
            asked("w1 w2 w3 w4 [MASK] w5 w6", "w1", "w2", False),
            "has 9 tokens, and the model has 8 positions",
        ),
        (CAUSAL_ASKING, asked("w1", " w2 w3"), "right must be one token, and ' w2 w3' is not"),
        (CAUSAL_ASKING, asked("w1", wrong="w2"), "mostly it begins with a space"),
        (CAUSAL_ASKING, asked("w1", " w2", " w2"), "right and wrong are the same token"),
        (CAUSAL_ASKING, asked("w1", " nowhere"), "the tokenizer does not know ' nowhere'"),
        (MASKED_ASKING, asked("w1 w2", "w1", "w2", False), "the text has no mask; write [MASK]"),
        (MASKED_ASKING, asked("[MASK] [MASK]", "w1", "w2", False), "the text has 2 masks"),
        (
            MASKED_ASKING,
            asked("w1 [MASK]", "w1 w2", "w2", False),
            "right must be one token, and 'w1 w2' is not (it is 'w1', ' w2')",
        ),
        (
            Asking(tiny_tokenizer(), MASKED, 8, 48),
            asked("w1 [MASK]", "w1", "w2", False),
            "the tokenizer of the model has no mask",
        ),
        (
            Asking(tiny_tokenizer(), CAUSAL, None, 4),
            asked("w1", " w2", " w9"),
            "a token 10 of it, and the model embeds 4",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(asking: Asking, question: Asked, phrase: str) -> None:
    with pytest.raises(QueryError) as raised:
        asking.question(question)
    assert str(raised.value).startswith("place:1: ")
    assert phrase in str(raised.value)
