"""Chunks of documents: what is in each, what frames it, and what of it counts."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.chunks import Chunk, Framing, chunks
from rayinfluence.corpus.spans import Spans
from rayinfluence.corpus.tokenize import TokenizeSettings, tokenize_file
from rayinfluence.corpus.tokenizer import Encoding, encode
from rayinfluence.errors import ConfigError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

BOS, EOS = 900, 901


def encoded(n_tokens: int) -> Encoding:
    spans = Spans.of([(place, place + 1) for place in range(n_tokens)])
    return Encoding(list(range(n_tokens)), spans)


def framing(bos: str, eos: str) -> Framing:
    placed = ("document", "chunk")
    return Framing(bos, eos, (BOS,) if bos in placed else (), (EOS,) if eos in placed else ())


def cut(
    n_tokens: int, context: int, overlap: int = 0, bos: str = "auto", eos: str = "auto"
) -> list[list[int]]:
    found = chunks([(encoded(n_tokens), None)], context, overlap, framing(bos, eos))
    return [chunk.tokens for chunk in found]


@pytest.mark.parametrize(
    ("bos", "eos", "expected"),
    [
        ("auto", "auto", [[0, 1, 2, 3], [4, 5, 6]]),
        ("never", "never", [[0, 1, 2, 3], [4, 5, 6]]),
        ("document", "never", [[BOS, 0, 1, 2], [3, 4, 5, 6]]),
        ("never", "document", [[0, 1, 2, 3], [4, 5, 6, EOS]]),
        ("document", "document", [[BOS, 0, 1, 2], [3, 4, 5, 6], [EOS]]),
        ("chunk", "never", [[BOS, 0, 1, 2], [BOS, 3, 4, 5], [BOS, 6]]),
        ("never", "chunk", [[0, 1, 2, EOS], [3, 4, 5, EOS], [6, EOS]]),
        ("chunk", "document", [[BOS, 0, 1, 2], [BOS, 3, 4, 5], [BOS, 6, EOS]]),
        (
            "chunk",
            "chunk",
            [[BOS, 0, 1, EOS], [BOS, 2, 3, EOS], [BOS, 4, 5, EOS], [BOS, 6, EOS]],
        ),
    ],
)
def test_what_stands_at_the_ends(bos: str, eos: str, expected: list[list[int]]) -> None:
    assert cut(7, 4, 0, bos, eos) == expected


def test_chunks_have_tokens_in_common() -> None:
    assert cut(9, 4, 2) == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8]]
    assert cut(8, 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert cut(4, 4, 2) == [[0, 1, 2, 3]]  # no chunk of what another has whole
    assert cut(6, 4, 1, "chunk") == [[BOS, 0, 1, 2], [BOS, 2, 3, 4], [BOS, 4, 5]]


@given(
    n=st.integers(0, 60),
    context=st.integers(4, 12),
    overlap=st.integers(0, 8),
    bos=st.sampled_from(["auto", "never", "document", "chunk"]),
    eos=st.sampled_from(["auto", "never", "document", "chunk"]),
)
def test_no_token_is_lost_or_misplaced(
    n: int, context: int, overlap: int, bos: str, eos: str
) -> None:
    frame = framing(bos, eos)
    overlap = min(overlap, context - frame.of_chunks - 2)
    masks = [place % 3 == 0 for place in range(n)]
    whole: dict[int, int] = {}
    for chunk in chunks([(encoded(n), masks)], context, overlap, frame):
        assert 0 < len(chunk.tokens) <= context
        assert len(chunk.tokens) == len(chunk.spans) == len(chunk.masks or ())
        for token, span, counts in zip(chunk.tokens, chunk.spans, chunk.masks or (), strict=True):
            if token in (BOS, EOS):
                assert span == (0, 0)
                continue
            assert span == (token, token + 1)
            assert counts == (token % 3 == 0)
            whole[token] = whole.get(token, 0) + 1
    assert sorted(whole) == list(range(n))
    assert all(count <= 1 for count in whole.values()) or overlap


def test_an_end_counts_as_what_is_before_it_and_a_beginning_does_not() -> None:
    for masks in ([True, False], [False, True]):
        [chunk] = chunks([(encoded(2), masks)], 8, 0, framing("document", "document"))
        assert chunk.masks == [False, *masks, masks[-1]]


def tokenizer(adds: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer with special tokens, which it puts around a text if ``adds`` says so."""
    made = tiny_tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    if adds:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=adds,
            special_tokens=[("<s>", made.bos_token_id), ("</s>", made.eos_token_id)],
        )
    return made


def test_the_tokenizers_habit_is_not_doubled_and_can_be_left() -> None:
    made = tokenizer("<s> $A </s>")
    bos, eos = made.bos_token_id, made.eos_token_id
    [text] = encode(made, ["w1 w2 w3"])
    w1, w2, w3 = text.tokens[1:]

    def of(bos: str, eos: str) -> list[list[int]]:
        return [c.tokens for c in chunks([(text, None)], 3, 0, Framing.of(made, bos, eos))]

    assert of("auto", "auto") == [[bos, w1, w2], [w3]]
    assert of("never", "never") == [[w1, w2, w3]]
    assert of("document", "document") == [[bos, w1, w2], [w3, eos]]
    assert of("chunk", "never") == [[bos, w1, w2], [bos, w3]]
    written = encode(made, ["<s> w1</s>"])[0]  # by a template, say
    [chunk] = chunks([(written, None)], 8, 0, Framing.of(made, "document", "document"))
    assert chunk.tokens == [bos, w1, eos]


@pytest.mark.parametrize(("bos", "eos"), [("chunk", "auto"), ("auto", "document")])
def test_a_tokenizer_without_the_token_is_refused(bos: str, eos: str) -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    key = "bos" if bos != "auto" else "eos"
    with pytest.raises(ConfigError, match=rf"corpus\.{key}: .* no {key}_token"):
        Framing.of(made, bos, eos)


def test_shards_have_what_the_settings_say(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"id": "x", "text": "w1 w2 w3 w4 w5", "at": [[3, 8]]}) + "\n")
    settings = TokenizeSettings(
        "text", "id", 4, 100, 1000, mask_column="at", bos="chunk", eos="document", overlap=1
    )
    made = tokenizer()
    shards: dict[str, bytes] = {}
    _, report = tokenize_file(Store(str(path)), made, settings, shards.__setitem__)
    rows = [row for body in shards.values() for row in pq.read_table(io.BytesIO(body)).to_pylist()]
    shown = [
        [made.convert_ids_to_tokens(token).strip("▁") for token in row["tokens"]] for row in rows
    ]
    assert shown == [["<s>", "w1", "w2", "w3"], ["<s>", "w3", "w4", "w5"], ["<s>", "w5", "</s>"]]
    assert [row["token_start"] for row in rows] == [0, 2, 4]
    assert [(row["char_start"], row["char_end"]) for row in rows] == [(0, 8), (5, 14), (11, 14)]
    assert [row["loss_mask"] for row in rows] == [
        [False, False, True, True],
        [False, True, False, False],
        [False, False, False],
    ]
    assert report.counted_tokens == 3


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    context=st.integers(6, 14),
    overlap=st.integers(0, 8),
    bos=st.sampled_from(["auto", "never", "document", "chunk"]),
    eos=st.sampled_from(["auto", "never", "document", "chunk"]),
    ends=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    few=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_a_document_in_parts_has_the_chunks_of_the_whole(
    lengths: list[int],
    context: int,
    overlap: int,
    bos: str,
    eos: str,
    ends: tuple[int, int],
    few: bool,
    seed: int,
) -> None:
    # Of two tokens, which special ones are too, many documents begin and end with these.
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 2 if few else 500, sum(lengths)).tolist()
    masks = rng.integers(0, 2, sum(lengths)).astype(bool).tolist() if seed % 2 else None
    placed = ("document", "chunk")
    frame = Framing(
        bos,
        eos,
        tuple(rng.integers(0, 2, ends[0]).tolist()) if bos in placed else (),
        tuple(rng.integers(0, 2, ends[1]).tolist()) if eos in placed else (),
    )
    overlap = min(overlap, context - frame.of_chunks - 2)
    spans = Spans.of([(place, place + 1) for place in range(len(tokens))])
    n_added = int(rng.integers(0, lengths[0] + 1))
    whole = Encoding(tokens, spans, n_added=n_added)
    parts, start = [], 0
    for place, length in enumerate(lengths):
        ours = slice(start, start + length)
        part = Encoding(
            tokens[ours], spans.cut(start, start + length), n_added=0 if place else n_added
        )
        parts.append((part, None if masks is None else masks[ours]))
        start += length
    found = list(chunks(parts, context, overlap, frame))
    assert found == list(chunks([(whole, masks)], context, overlap, frame))
    assert found == list(naive_chunks(whole, masks, context, overlap, frame))


def naive_chunks(
    whole: Encoding, masks: list[bool] | None, context: int, overlap: int, frame: Framing
) -> Iterator[Chunk]:
    """All tokens are framed, and then every chunk."""
    n_added = 0 if frame.bos == "auto" else whole.n_added
    rows = [
        (token, span, masks[place] if masks else False)
        for place, (token, span) in enumerate(zip(whole.tokens, whole.offsets, strict=True))
    ][n_added:]

    def framed(some: list[Any], when: str) -> list[Any]:
        own = [token for token, *_ in some]
        before = [(token, (0, 0), False) for token in frame.begins if frame.bos == when]
        last = bool(some) and some[-1][2]
        after = [(token, (0, 0), last) for token in frame.ends if frame.eos == when]
        has_before = bool(before) and tuple(own[: len(before)]) == frame.begins
        has_after = bool(after) and tuple(own[-len(after) :]) == frame.ends
        return before * (not has_before) + some + after * (not has_after)

    document = framed(rows, "document")
    room = context - frame.of_chunks
    for start in range(0, max(len(document) - overlap, 1), room - overlap):
        if some := document[start : start + room]:
            some = framed(some, "chunk")
            tokens, spans, counted = (list(of) for of in zip(*some, strict=True))
            yield Chunk(tokens, start, Spans.of(spans), None if masks is None else counted)
