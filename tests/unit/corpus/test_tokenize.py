import dataclasses
import gzip
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus import tokenize
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.fragments import FileReport, Fragment
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.ordinals import Making
from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query, queries_of
from rayinfluence.corpus.tokenize import TokenizeSettings, tokenize_file
from rayinfluence.corpus.tokenizer import Encoding, encode, tokenizer_digest
from rayinfluence.objective_kinds import CAUSAL, MASKED
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

SETTINGS = TokenizeSettings("text", "id", context=8, row_group_tokens=20, shard_tokens=10**9)


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def tokenized(
    path: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    settings: TokenizeSettings = SETTINGS,
) -> tuple[dict[str, bytes], CorpusManifest, FileReport]:
    shards: dict[str, bytes] = {}
    tokenizer = tokenizer or tiny_tokenizer()
    file = Store(str(path))
    records, report = tokenize_file(file, tokenizer, settings, shards.__setitem__)
    kept = [json.loads(line) for key in report.quarantine for line in shards.pop(key).splitlines()]
    assert len(kept) == report.quarantined == min(1000, report.n_bad)
    assert [(one["place"], one["reason"]) for one in kept] == [
        (bad.place, bad.reason) for bad in report.bad
    ]
    assert [record.key for record in records] == list(shards)
    assert [record.size for record in records] == [len(body) for body in shards.values()]
    assert report.digest == file_digest(file)
    making = Making(tokenizer_digest(tokenizer), settings)
    return shards, CorpusManifest.of(making, [Fragment.of(report, records)]), report


def rows_of(shards: dict[str, bytes]) -> list[dict[str, Any]]:
    return [row for body in shards.values() for row in pq.read_table(io.BytesIO(body)).to_pylist()]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{(start + i) % 47}" for i in range(count))


def test_a_short_document_is_one_sequence_with_its_metadata(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl",
        {"id": "x", "text": "w1 w2 w3", "source": "books", "year": 1999, "ok": True, "n": None},
        {"text": "w4 w5", "score": 1.5, "tags": ["a"], "é": "ü"},
    )
    first, second = rows_of(tokenized(path)[0])
    assert first | {"metadata": json.loads(first["metadata"])} == {
        "tokens": [2, 3, 4],
        "n_tokens": 3,
        "document_id": "x",
        "document_row": 1,
        "loss_mask": None,
        "label": None,
        "token_start": 0,
        "char_start": 0,
        "char_end": 8,
        "metadata": {"source": "books", "year": 1999, "ok": True},
    }
    assert second["document_id"] == "d.jsonl:2"
    assert second["document_row"] == 2
    assert json.loads(second["metadata"]) == {"score": 1.5, "tags": ["a"], "é": "ü"}


@pytest.mark.parametrize("n_words", [2, 7, 8, 10, 16, 31])
def test_a_long_document_is_cut_into_chunks_that_rebuild_it(tmp_path: Path, n_words: int) -> None:
    text = words(n_words)
    rows = rows_of(tokenized(write(tmp_path / "d.jsonl", {"id": "x", "text": text}))[0])
    assert all(row["n_tokens"] <= 8 for row in rows)
    assert [row["token_start"] for row in rows] == list(range(0, n_words, 8))
    assert {row["document_id"] for row in rows} == {"x"}
    pieces = [text[row["char_start"] : row["char_end"]] for row in rows]
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert [len(piece.split()) for piece in pieces] == [row["n_tokens"] for row in rows]


def test_chunks_of_bytes_rebuild_the_document_to_the_character(tmp_path: Path) -> None:
    text = "the cat — naïve 😀😀 — sat\n\non the   mat, 中文字符。" * 5
    tokenizer = byte_level()
    path = write(tmp_path / "d.jsonl", {"text": text})
    for context in (2, 3, 5, 8, 1000):
        settings = TokenizeSettings("text", "id", context, 10**6, 10**9)
        shards, _, report = tokenized(path, tokenizer, settings)
        rows = rows_of(shards)
        tokens = [token for row in rows for token in row["tokens"]]
        if report.short_chunks == 0:
            assert tokenizer.backend_tokenizer.decode(tokens, False) == text
        rebuilt, end = "", 0
        for row in rows:
            # A character whose bytes are in two chunks is in both ranges.
            assert end - 1 <= row["char_start"] <= end
            rebuilt += text[max(end, row["char_start"]) : row["char_end"]]
            end = max(end, row["char_end"])
        assert text.startswith(rebuilt)
        assert len(text) - len(rebuilt) <= report.short_chunks


def test_chunks_of_accents_that_are_put_together_rebuild_the_document(tmp_path: Path) -> None:
    text = unicodedata.normalize("NFD", "thé cät sât") * 4
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    path = write(tmp_path / "d.jsonl", {"text": text})
    for context in (2, 3, 5, 8, 1000):
        settings = TokenizeSettings("text", "id", context, 10**6, 10**9)
        for row in rows_of(tokenized(path, tokenizer, settings)[0]):
            piece = text[row["char_start"] : row["char_end"]]
            decoded = tokenizer.backend_tokenizer.decode(row["tokens"], False)
            assert decoded.strip("\ufffd") in unicodedata.normalize("NFC", piece)
            assert not unicodedata.combining(text[row["char_end"] : row["char_end"] + 1] or "x")


def test_what_has_one_token_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"text": words(9)}, {"text": "w1"}, {"text": words(8)})
    shards, _, report = tokenized(path)
    assert [row["n_tokens"] for row in rows_of(shards)] == [8, 8]
    assert (report.short_chunks, report.short_documents) == (1, 1)
    assert (report.documents, report.empty_documents, report.n_rows) == (3, 0, 3)
    assert report.why_passed_over == {"it has one token, which predicts nothing": 1}
    assert [one.place for one in report.passed_over] == [f"{path}:2"]


def test_documents_without_text_are_counted_and_skipped(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl", {"text": ""}, {"text": " \n\t"}, {"text": "w1 w2"}, {"text": "\u2003"}
    )
    shards, _, report = tokenized(path)
    assert len(rows_of(shards)) == 1
    assert (report.documents, report.empty_documents, report.n_bad) == (4, 3, 0)
    assert (report.reasons, report.quarantine) == ({}, [])
    assert report.why_passed_over == {"its text is empty or white space": 3}
    assert [one.place for one in report.passed_over] == [f"{path}:{n}" for n in (1, 2, 4)]


def test_a_text_of_which_the_tokenizer_makes_nothing_is_without_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    path = write(tmp_path / "d.jsonl", {"text": "\u200b\u200b"}, {"text": "w1 w2"})
    shards, _, report = tokenized(path, tokenizer)
    assert len(rows_of(shards)) == 1
    assert (report.documents, report.empty_documents, report.short_chunks) == (2, 1, 0)
    assert report.why_passed_over == {"the tokenizer makes no token of its text": 1}


def test_tokens_that_a_tokenizer_adds_are_no_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace("\u200b", "")
    ids = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ids)
    path = write(tmp_path / "d.jsonl", {"text": "\u200b"}, {"text": "the cat"})
    for kind in (CAUSAL, MASKED):
        settings = dataclasses.replace(SETTINGS, kind=kind)
        shards, _, report = tokenized(path, tokenizer, settings)
        assert {row["document_row"] for row in rows_of(shards)} == {2}
        assert (report.empty_documents, report.short_chunks) == (1, 0)


def test_many_documents_without_text_crowd_out_no_bad_row(tmp_path: Path) -> None:
    rows = [{"text": ""}] * 1200 + [{"text": 1}]
    _, _, report = tokenized(write(tmp_path / "d.jsonl", *rows))
    assert (report.empty_documents, report.n_bad) == (1200, 1)
    assert [bad.place for bad in report.bad] == [f"{tmp_path / 'd.jsonl'}:1201"]
    assert len(report.passed_over) == 20


@pytest.mark.parametrize("text", [None, [], ""])
def test_null_is_no_text(tmp_path: Path, text: object) -> None:
    _, _, report = tokenized(write(tmp_path / "d.jsonl", {"text": "w1 w2"}, {"text": text}))
    assert (report.empty_documents, report.n_bad) == (1, 0)


def test_bad_rows_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"text": "w1 w2"}, {"txt": 1}, [1], {"text": "w1 w2 w3"})
    shards, manifest, report = tokenized(path)
    assert len(rows_of(shards)) == 2
    assert (report.documents, report.n_bad) == (2, 2)
    assert [bad.place for bad in report.bad] == [f"{path}:2", f"{path}:3"]
    [recorded] = manifest.files
    assert recorded["n_bad"] == 2
    first = {"place": f"{path}:2", "reason": "'text' is not a string"}
    assert recorded["bad"][0] == first
    assert report.reasons == {"'text' is not a string": 1, "not a JSON object": 1}


def test_all_bad_rows_are_counted_and_a_thousand_are_named(tmp_path: Path) -> None:
    _, _, report = tokenized(write(tmp_path / "d.jsonl", *[{"text": i} for i in range(1200)]))
    assert (report.n_bad, len(report.bad)) == (1200, 1000)


def test_a_full_shard_is_closed_and_the_next_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *[{"text": words(4, i)} for i in range(10)])
    settings = TokenizeSettings("text", "id", 8, 4, shard_tokens=12)
    shards, manifest, _ = tokenized(path, settings=settings)
    assert list(shards) == [f"shards/{digest_bytes(body)}.parquet" for body in shards.values()]
    assert [len(rows_of({"": body})) for body in shards.values()] == [3, 3, 3, 1]
    assert [len(record.row_groups) for record in manifest.shards] == [3, 3, 3, 1]
    assert [row["tokens"][0] for row in rows_of(shards)] == list(range(1, 11))


def random_rows(count: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {"id": f"d{i}", "text": words(int(generator.integers(2, 20)), i), "source": f"s{i % 3}"}
        for i in range(count)
    ]


def fingerprint(manifest: CorpusManifest) -> str:
    return Corpus(Store("nowhere"), manifest).fingerprint


def test_the_same_documents_give_the_same_bytes_under_any_name_and_compression(
    tmp_path: Path,
) -> None:
    rows = random_rows(300)
    first = write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "elsewhere").mkdir()
    second = write(tmp_path / "elsewhere" / "b.jsonl", *rows)
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(first.read_bytes()))
    table = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    ours, manifest, _ = tokenized(first)
    assert len(manifest.shards[0].row_groups) > 50
    for path in (first, second, packed, table):
        theirs, other, _ = tokenized(path)
        assert list(theirs.values()) == list(ours.values())
        assert fingerprint(other) == fingerprint(manifest)


def test_another_text_or_order_gives_another_fingerprint(tmp_path: Path) -> None:
    rows = random_rows(20)
    ours = fingerprint(tokenized(write(tmp_path / "a.jsonl", *rows))[1])
    changed = [rows[0] | {"text": words(5, 40)}, *rows[1:]]
    assert fingerprint(tokenized(write(tmp_path / "b.jsonl", *changed))[1]) != ours
    assert fingerprint(tokenized(write(tmp_path / "c.jsonl", *rows[::-1]))[1]) != ours
    relabelled = [rows[0] | {"source": "other"}, *rows[1:]]
    assert fingerprint(tokenized(write(tmp_path / "d.jsonl", *relabelled))[1]) != ours


def test_long_documents_are_not_encoded_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory must not grow with how long documents are."""
    lengths = [3, 1000, 1000, 1000, 5, 4000, 7, 11]
    rows = [{"id": f"d{i}", "text": "w1 " * (n // 3)} for i, n in enumerate(lengths)]
    path = write(tmp_path / "d.jsonl", *rows)
    at_once: list[list[int]] = []

    def counted(
        tokenizer: PreTrainedTokenizerFast, texts: list[str], templated: list[bool]
    ) -> list[Encoding]:
        at_once.append([len(text) for text in texts])
        return encode(tokenizer, texts, templated)

    monkeypatch.setattr("rayinfluence.corpus.tokenize.encode", counted)
    monkeypatch.setattr("rayinfluence.corpus.tokenize._BATCH_CHARACTERS", 2600)
    together = tokenized(path)[0]
    assert [len(batch) for batch in at_once] == [3, 2, 1, 2]
    assert all(len(batch) == 1 or sum(batch) <= 2600 for batch in at_once)
    monkeypatch.setattr("rayinfluence.corpus.tokenize._BATCH_CHARACTERS", 1)
    assert tokenized(path)[0] == together


def around() -> tuple[PreTrainedTokenizerFast, int]:
    """A tokenizer that puts a token before a text and one after it, and the id of the first."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_special_tokens(["<s>", "</s>", "<|user|>"])
    start = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", start + 1)]
    )
    return tokenizer, start


@pytest.mark.parametrize("begin", ["", "<s>"])
@pytest.mark.parametrize("kind", [CAUSAL, MASKED])
def test_messages_have_the_special_tokens_that_the_template_wrote(
    tmp_path: Path, begin: str, kind: str
) -> None:
    """And no others, as `apply_chat_template(tokenize=True)` has it; texts beside them as ever."""
    tokenizer, start = around()
    tokenizer.bos_token = "<s>"
    tokenizer.chat_template = begin + (
        "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|user|>{% endif %}"
    )
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert (expected[0] == start) == bool(begin)
    path = write(tmp_path / "d.jsonl", {"text": "the cat"}, {"text": messages}, {"text": "cat"})
    settings = dataclasses.replace(SETTINGS, context=64, kind=kind)
    rows = rows_of(tokenized(path, tokenizer, settings)[0])
    assert rows[1]["tokens"] == expected
    assert [rows[0]["tokens"][0], rows[2]["tokens"][0]] == [start, start]
    [asked] = queries_of({"query_id": "q", "messages": messages}, "line 1")
    ended = {"query_id": "e", "prompt": messages[:1], "completion": "cat"}
    [of_prompt] = queries_of(ended, "line 2")
    plain = Query.of("p", "the", " cat")
    found = encode_queries([asked, plain, of_prompt], tokenizer, None, kind=kind)
    answers = [list(one.answers[0].tokens) for one in found]
    assert answers[0] == answers[2] == expected
    assert answers[1] == [start, *tokenizer.encode("the cat", add_special_tokens=False)]


def test_documents_that_are_rendered_chat_templates_have_one_leading_token(tmp_path: Path) -> None:
    """As plain documents have, and as prompts that are rendered have."""
    tokenizer, start = around()
    rendered = "<s><|user|>the cat</s>"
    path = write(tmp_path / "d.jsonl", {"text": rendered}, {"text": "the cat"})
    settings = dataclasses.replace(SETTINGS, context=64)
    chat, plain = rows_of(tokenized(path, tokenizer, settings)[0])
    assert plain["tokens"][0] == start
    assert chat["tokens"] == [start, start + 2, *plain["tokens"][1:], start + 1]
    assert (chat["char_start"], chat["char_end"]) == (0, len(rendered))
    query = Query.of("q", "<s><|user|>the", " cat</s>")
    [encoded] = encode_queries([query], tokenizer, None)
    assert list(encoded.answers[0].tokens) == chat["tokens"]


def test_progress_counts_every_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "_TOLD_TOKENS", 1000)
    path = write(tmp_path / "d.jsonl", *random_rows(600))
    counts: list[int] = []
    file = Store(str(path))
    records, _ = tokenize_file(
        file, tiny_tokenizer(), SETTINGS, lambda key, body: None, counts.append
    )
    assert len(counts) > 3
    assert sum(counts) == sum(g.n_tokens for record in records for g in record.row_groups)
