import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.queries import EncodedQuery, border_warnings, encode_queries
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.errors import QueryError, StorageError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

GOOD = {"query_id": "a", "prompt": "w1", "completion": " w2"}


def read(path: Path, *lines: Any) -> list[Query]:
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return read_queries(Store(str(path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queries.jsonl"


def test_queries_are_read_in_order(path: Path) -> None:
    second = {**GOOD, "query_id": "b", "prompt": "", "metadata": {"why": ["x"]}}
    assert read(path, GOOD, b"", second, b"  ") == [
        Query.of("a", "w1", " w2", {}),
        Query.of("b", "", " w2", {"why": ["x"]}),
    ]
    assert read(path, {**GOOD, "metadata": None})[0].metadata == {}


def test_byte_order_marks_carriage_returns_and_unicode_lines_are_no_trouble(path: Path) -> None:
    prompt = "one\u2028two\x85three\u2029"
    line = json.dumps({**GOOD, "prompt": prompt}, ensure_ascii=False).encode()
    assert read(path, b"\xef\xbb\xbf" + line + b"\r", b"")[0].answers[0].prompt == prompt


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "is not JSON"),
        (b'{"query_id": "\xe9"}', "is not UTF-8: it has the byte 0xe9"),
        (
            b'{"query_id": "b", "prompt": "\\ud800", "completion": "c"}',
            "is no text: it has \\ud800",
        ),
        (
            b'{"query_id": "b", "prompt": "", "completion": "c", "metadata": {"x": NaN}}',
            "is not JSON",
        ),
        (
            b'{"query_id": "b", "prompt": "x", "prompt": "y", "completion": "c"}',
            "'prompt' stands twice",
        ),
        (
            b'{"query_id": "b", "prompt": "", "completion": "c", "metadata": {"x": 1, "x": 2}}',
            "the key 'x' stands twice",
        ),
        (b"[" * 100_000, "is not to be read: it is nested too deeply"),
        (b"3", "needs the keys prompt and completion"),
        (["query_id", "prompt", "completion"], "needs the keys"),
        ({"query_id": "b", "prompt": "x"}, "needs the keys"),
        (
            {**GOOD, "query_id": "b", "promt": "x"},
            "unknown key 'promt'; if it is prompt, call it so",
        ),
        ({**GOOD, "query_id": 7}, "query_id must be a string"),
        ({**GOOD, "query_id": "b", "prompt": None}, "prompt must be a string, or a list of"),
        ({**GOOD, "query_id": "b", "completion": ["x"]}, "completion has a message 0"),
        (
            {**GOOD, "query_id": "b", "completion": [{"role": "user", "content": "x"}]},
            "the last of completion is from 'user'",
        ),
        ({**GOOD, "query_id": ""}, "query_id is empty"),
        ({**GOOD, "query_id": "b", "completion": ""}, "the completion of query 'b' is empty"),
        ({**GOOD, "query_id": "b", "metadata": [1]}, "metadata must be an object"),
        (GOOD, "query_id 'a' is already that of line 1"),
    ],
    ids=range(19),
)
def test_a_malformed_query_is_named_by_its_line(path: Path, line: Any, expected: str) -> None:
    with pytest.raises(QueryError) as caught:
        read(path, GOOD, b"", line)
    assert f"{path}:3" in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("lines", [[], [b""], [b" ", b"\r"]])
def test_a_file_without_queries_is_refused(path: Path, lines: list[bytes]) -> None:
    with pytest.raises(QueryError, match="holds no query; write one JSON object a line"):
        read(path, *lines)
    with pytest.raises(StorageError, match="does not exist"):
        read_queries(Store(str(path.parent / "missing.jsonl")))


def encoded(prompt: str, completion: str, tokenizer: Any = None) -> EncodedQuery:
    query = Query.of("a", prompt, completion)
    return encode_queries([query], tokenizer or tiny_tokenizer(), 16)[0]


def characters(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a letter, but for ``b c``, which is one."""
    vocabulary = {"<s>": 0} | {c: i + 1 for i, c in enumerate(["a", "b", "c", " ", "b c"])}
    backend = Tokenizer(models.BPE({**vocabulary, "b ": 6}, [("b", " "), ("b ", "c")]))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    backend.decoder = decoders.Fuse()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A <s>", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@pytest.mark.parametrize(
    ("prompt", "completion", "tokens", "first"),
    [
        ("w1 w2", " w3 w4", (2, 3, 4, 5), 2),
        ("w1 ", "w2", (2, 3), 1),
        ("w1", " w2", (2, 3), 1),
        ("", "w1 w2", (2, 3), 1),  # the first token is only conditioned on
    ],
)
def test_the_completion_begins_where_the_prompt_ends(
    prompt: str, completion: str, tokens: tuple[int, ...], first: int
) -> None:
    query = encoded(prompt, completion)
    assert (query.answers[0].tokens, query.answers[0].first_target) == (tokens, first)


def test_a_token_across_the_boundary_belongs_to_the_completion() -> None:
    query = encoded("ab", " ca", characters())
    assert (query.answers[0].tokens, query.answers[0].first_target) == ((1, 5, 1), 1)
    inside = encoded("ab c", "a", characters())
    assert (inside.answers[0].tokens, inside.answers[0].first_target) == ((1, 5, 1), 2)


def test_a_leading_token_of_the_tokenizer_makes_the_whole_completion_a_target() -> None:
    query = encoded("", "ac", characters(bos=True))
    assert (query.answers[0].tokens, query.answers[0].first_target) == ((0, 1, 3), 1)
    query = encoded("a", "c", characters(bos=True))
    assert (query.answers[0].tokens, query.answers[0].first_target) == ((0, 1, 3), 2)


@pytest.mark.parametrize(("prompt", "completion"), [("", "w1"), ("", " ")])
def test_a_query_that_leaves_nothing_to_predict_is_refused(prompt: str, completion: str) -> None:
    with pytest.raises(QueryError, match=r"query 'a' leaves no token to predict"):
        encoded(prompt, completion)


def test_that_a_prompt_which_is_part_of_the_first_token_leaves_nothing_to_predict_is_said() -> None:
    with pytest.raises(QueryError, match=r"are one token, and nothing comes before it: give it"):
        encoded("b", " c", characters())
    with pytest.raises(QueryError, match=r"makes none of its completion '\\n', whose"):
        encoded("a", "\n", characters())  # which is no token at all


@pytest.mark.parametrize(
    ("prompt", "completion", "token"),
    [("", "ab", "a"), ("b", " ca", "b c"), ("b ", "ca", "b c"), ("", "b cb", "b c")],
)
def test_a_completion_s_token_that_nothing_comes_before_is_named(
    prompt: str, completion: str, token: str
) -> None:
    query = encoded(prompt, completion, characters())
    assert query.answers[0].first_target == 1
    [warning] = border_warnings([query])
    assert "the first token of a completion is not scored, as no token comes" in warning
    assert f"{token!r} of 'a'. What follows it is." in warning
    # A tokenizer with a leading token scores it.
    query = encoded(prompt, completion, characters(bos=True))
    assert query.answers[0].unscored == ""
    assert query.answers[0].first_target == 1


@pytest.mark.parametrize(("prompt", "completion"), [("ab", " ca"), ("ab ", "c"), ("ab ", "ca")])
def test_a_token_across_the_border_is_named_as_scored_whole(prompt: str, completion: str) -> None:
    [warning] = border_warnings([encoded(prompt, completion, characters())])
    assert "a completion begins in the prompt, and is scored whole: 'b c' of 'a'." in warning


def accents() -> PreTrainedTokenizerFast:
    """One token a character, after an accent and its letter were made one."""
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(["e", "é", "x", "\u0301"])}, []))
    backend.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_an_accent_that_a_completion_begins_with_takes_its_letter_along() -> None:
    query = encoded("xe", "\u0301x", accents())
    assert (query.answers[0].tokens, query.answers[0].first_target) == ((2, 1, 2), 1)
    [warning] = border_warnings([query])
    assert "begins in the prompt, and is scored whole: 'e\u0301' of 'a'." in warning
    # All of it in the prompt, it is the prompt's.
    query = encoded("xe\u0301", "x", accents())
    assert (query.answers[0].tokens, query.answers[0].first_target) == ((2, 1, 2), 2)
    assert border_warnings([query]) == []


def test_queries_that_are_scored_as_they_were_asked_need_no_warning() -> None:
    queries = [
        encoded("a", "b c", characters()),
        encoded("", "ab", characters(bos=True)),
        encoded("w1 ", "w2"),
        encoded("w1", " w2"),
    ]
    assert border_warnings(queries) == []


def test_many_queries_of_one_kind_are_one_warning() -> None:
    queries = [Query.of(f"q{i}", "", "ab") for i in range(9)]
    [warning] = border_warnings(encode_queries(queries, characters(), None))
    assert "the first token of 9 completions is not scored" in warning
    assert "'a' of 'q0', 'a' of 'q1', 'a' of 'q2' and 6 more." in warning


def test_a_query_may_fill_the_context_and_no_more() -> None:
    assert len(encoded("w1 " * 14, "w2 w3").answers[0].tokens) == 16
    with pytest.raises(QueryError, match=r"query 'a' has 17 tokens, .* context is 16; shorten"):
        encoded("w1 " * 15, "w2 w3")
    with pytest.raises(QueryError, match=r"context is 16; shorten its completion"):
        encoded("w1", " w2" * 20)
    assert (
        len(
            encode_queries([Query.of("a", "w1 " * 99, "w2")], tiny_tokenizer(), None)[0]
            .answers[0]
            .tokens
        )
        > 99
    )


def test_a_token_that_the_model_does_not_know_is_refused() -> None:
    queries = [Query.of("a", "w1", " w2")]
    assert len(encode_queries(queries, tiny_tokenizer(), 16, 4)) == 1
    with pytest.raises(QueryError, match=r"query 'a' has token id 3, outside .* vocabulary of 3"):
        encode_queries(queries, tiny_tokenizer(), 16, 3)


def test_a_query_is_known_by_its_tokens_and_where_they_begin_to_count() -> None:
    query = encoded("w1", " w2 w3")
    assert query.digest == encoded("w1 ", "w2 w3").digest
    assert query.digest != encoded("w1 w2", " w3").digest
    assert query.digest != encoded("w1", " w2 w4").digest


def test_a_completion_that_is_normalised_away_is_said(path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"w1": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    with pytest.raises(QueryError, match=r"'a' leaves no token to predict: .* completion '  ', wh"):
        encode_queries([Query.of("a", "w1", "  ")], fast, None)


def test_queries_in_utf_16_are_refused_as_such(path: Path) -> None:
    path.write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(QueryError, match=r"queries\.jsonl is in UTF-16 or UTF-32"):
        read_queries(Store(str(path)))
