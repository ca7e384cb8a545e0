"""Runs on documents that are token ids already: the sequences are those of training."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.begin.early import Inputs, corpus_store
from rayinfluence.dataflow.looking import looked_at
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError, CorpusError, RayInfluenceError
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import CONTEXT, VOCABULARY, tiny_tokenizer
from rayinfluence.testing.token_files import write_megatron

pytestmark = pytest.mark.runs

Rows = list[dict[str, Any]]
#: Its unknown token; the tiny tokenizer has no other special one.
SEPARATOR = 0
#: Queries are drawn after them: as many in two runs are the same queries.
N_DOCUMENTS = 10
#: Of results, what says in which file a document is, and at which of its characters.
_OF_FILES = ("document_file", "shard", "char_start", "char_end")


def configured(
    folder: Path, data: Path, tokens: Mapping[str, Any], corpus: Mapping[str, Any] = {}, **more: Any
) -> RunConfig:
    section = {"documents": [str(data)], "tokens": dict(tokens), **corpus}
    return tiny_run(folder, corpus=section, **more)


def tokenized(config: RunConfig) -> Rows:
    with Run(config) as run:
        run.tokenize()
    corpus = Corpus.open(corpus_store(config))
    return [row for split in corpus.plan(10**6) for row in corpus.read(split).to_pylist()]


def tokens_of(rows: Rows) -> list[list[int]]:
    return [row["tokens"] for row in rows]


def as_ids(documents: Path) -> Rows:
    """Documents of texts as rows of ids, beside the same other columns."""
    rows = [json.loads(line) for line in documents.read_text("utf-8").splitlines()]
    made = tiny_tokenizer()
    return [{**row, "input_ids": made(row.pop("text"))["input_ids"]} for row in rows]


def scores(config: RunConfig) -> dict[str, list[Any]]:
    table = rayinfluence.run(config).table
    found: dict[str, list[Any]] = table.drop_columns(
        [name for name in table.column_names if name in _OF_FILES or "digest" in name]
    ).to_pydict()
    return found


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "arrow"])
def test_ids_get_the_scores_of_their_texts_bit_for_bit(tmp_path: Path, kind: str) -> None:
    texts = tiny_run(tmp_path / "texts", n_documents=N_DOCUMENTS)
    rows = as_ids(tmp_path / "texts" / "documents.jsonl")
    data = tmp_path / f"ids.{kind}"
    if kind == "jsonl":
        data.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    elif kind == "arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(data), table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(pa.Table.from_pylist(rows), data)
    found = scores(configured(tmp_path / "ids", data, {}, n_documents=N_DOCUMENTS))
    wanted = scores(texts)
    assert wanted["score"]
    assert {key for key in wanted if repr(found[key]) != repr(wanted[key])} == set()


def test_a_bare_file_and_megatrons_get_the_scores_of_their_texts(tmp_path: Path) -> None:
    texts = tiny_run(tmp_path / "texts", n_documents=N_DOCUMENTS)
    rows = [row["input_ids"] for row in as_ids(tmp_path / "texts" / "documents.jsonl")]
    wanted = scores(texts)
    megatron = write_megatron(tmp_path / "text_document.bin", rows)
    found = scores(configured(tmp_path / "megatron", megatron, {}, n_documents=N_DOCUMENTS))
    np.array([i for row in rows for i in row], np.uint16).tofile(tmp_path / "bare.bin")
    assert found["score"] == wanted["score"]
    assert found["sequence_id"] == wanted["sequence_id"]
    # Where each row ends in the bare file, nothing says: they are other sequences.
    form = {"dtype": "uint16"}
    bare = configured(tmp_path / "bare", tmp_path / "bare.bin", form, n_documents=N_DOCUMENTS)
    assert scores(bare)["score"] != wanted["score"]


def test_rows_are_kept_whole_or_cut_as_in_training(tmp_path: Path) -> None:
    stream = [5, 6, 0, 7, 8, 9, 0, *range(10, 27), 0, 4, 0]
    np.array(stream, np.uint16).tofile(tmp_path / "train.bin")
    across = configured(tmp_path / "a", tmp_path / "train.bin", {"dtype": "uint16"})
    rows = tokenized(across)
    assert tokens_of(rows) == [stream[:CONTEXT], stream[CONTEXT:]]
    form = {"dtype": "uint16", "packing": "separate", "separator": SEPARATOR}
    rows = tokenized(configured(tmp_path / "s", tmp_path / "train.bin", form))
    assert tokens_of(rows) == [[5, 6, 0], [7, 8, 9, 0], list(range(10, 26)), [26, 0], [4, 0]]
    # Each is traced back: its document, and the ids of the file before it.
    places = [json.loads(row["metadata"])["first_token"] + row["token_start"] for row in rows]
    assert places == [0, 3, 7, 23, 25]
    assert [row["document_row"] for row in rows] == [1, 2, 3, 3, 4]
    assert rows[3]["document_id"] == "train.bin:3"
    # What every input of training was followed by is in the window after it.
    lapping = configured(
        tmp_path / "o", tmp_path / "train.bin", {"dtype": "uint16"}, {"overlap": 1, "context": 8}
    )
    assert tokens_of(tokenized(lapping)) == [stream[n : n + 8] for n in range(0, 27, 7)][:4]


def test_packed_rows_of_a_table_are_cut_and_keep_what_counted(tmp_path: Path) -> None:
    rows = [
        {
            "input_ids": [4, 5, 0, 6, 7, 0, 9],
            "labels": [-100, 5, 0, -100, 7, 0, -100],
            "attention_mask": [1, 1, 1, 1, 1, 1, 0],
            "token_type_ids": [0] * 7,
            "id": "r1",
            "source": "web",
        }
    ] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    loss = {"loss": "labels"}
    form = {"packing": "separate", "separator": SEPARATOR}
    config = configured(tmp_path / "s", tmp_path / "d.parquet", form, objective=loss)
    found = tokenized(config)
    assert tokens_of(found) == [[4, 5, 0], [6, 7, 0]] * 3
    assert found[1]["token_start"] == 3
    assert found[1]["loss_mask"] == [False, True, True]
    assert json.loads(found[1]["metadata"]) == {"source": "web"}
    whole = configured(tmp_path / "a", tmp_path / "d.parquet", {}, objective=loss)
    [row, *_] = tokenized(whole)
    assert row["tokens"] == [4, 5, 0, 6, 7, 0]
    assert row["loss_mask"] == [False, True, True, False, True, True]
    results = rayinfluence.run(whole)
    assert results.complete


def test_documents_that_positions_tell_apart_have_the_scores_of_rows_of_their_own(
    tmp_path: Path,
) -> None:
    documents = [[4 + n, 5, 6 + n % 3, 7] for n in range(12)] + [[9, 8 + n, 7] for n in range(12)]
    packed = [
        {
            "input_ids": [*first, *second],
            "position_ids": [*range(len(first)), *range(len(second))],
        }
        for first, second in zip(documents[::2], documents[1::2], strict=True)
    ]
    rows = [{"input_ids": one} for one in documents]
    found = []
    for name, table, form in (("p", packed, {"packing": "separate"}), ("r", rows, {})):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(table), path)
        config = configured(tmp_path / name, path, form, objective={"loss": "all"})
        results = rayinfluence.run(config)
        assert tokens_of(tokenized(config)) == documents
        found.append([(row["sequence_id"], row["score"]) for row in results.survivors.to_pylist()])
    assert found[0] == found[1]
    assert len(found[0]) > 20


def test_a_token_that_begins_documents_may_be_added(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "d.bin", [[4, 5, 6], [SEPARATOR, 7, 8]] * 5)
    config = configured(tmp_path, path, {}, {"bos": "document"})
    made = tiny_tokenizer()
    made.bos_token = made.unk_token
    made.save_pretrained(tmp_path / "model")
    assert tokens_of(tokenized(config))[:2] == [[0, 4, 5, 6], [0, 7, 8]]


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "d.bin", [[4, 5, 6], [7, VOCABULARY, 8]])
    with pytest.raises(
        CorpusError, match=r"1 of 2 rows .*token id 48, and the tokenizer, of 48 tokens, has none"
    ):
        tokenized(configured(tmp_path, path, {}))
    # Where all are so, it is seen from the first, before a shard is written.
    all_wrong = write_megatron(tmp_path / "all.bin", [[400, 50]] * 3)
    with pytest.raises(CorpusError, match=r"none of the documents .*token id 400"):
        tokenized(configured(tmp_path / "all", all_wrong, {}))


def test_a_few_bad_rows_are_counted_and_named(tmp_path: Path) -> None:
    rows: list[list[int]] = [[4, 5, 6]] * 200
    rows[7] = [4, VOCABULARY]
    config = configured(tmp_path, write_megatron(tmp_path / "d.bin", rows), {})
    assert len(tokenized(config)) == 199
    [report] = Corpus.open(corpus_store(config)).manifest.files
    assert report["n_bad"] == 1
    assert "d.bin:8" in json.dumps(report["bad"])


def test_files_that_are_not_whole_are_refused_before_a_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"\1\0\2")
    config = configured(tmp_path, tmp_path / "odd.bin", {"dtype": "uint16"})
    with pytest.raises(CorpusError, match="no whole number of ids"):
        Inputs.of(config)


@pytest.mark.parametrize(
    ("corpus", "more", "error", "said"),
    [
        ({"tokens": {"separator": 0}}, {}, ConfigError, "packing: a separator is named"),
        ({"tokens": {"dtype": "float32"}}, {}, ConfigError, "dtype: must be 'uint8'"),
        ({"tokens": {"separator": "<eos>"}}, {}, ConfigError, "separator: must be a whole number"),
        ({"tokens": {"mask": "m"}}, {}, ConfigError, "unknown key 'corpus.tokens.mask'"),
        ({"tokens": {}, "text_column": "body"}, {}, ConfigError, "text_column is of texts"),
        ({"tokens": {}, "prompt_column": "p"}, {}, ConfigError, "prompt_column is of texts"),
        ({"tokens": {}, "bos": "never"}, {}, ConfigError, "bos: never, and documents are token"),
        ({"tokens": {"column": "ids"}}, {}, CorpusError, r"no column 'ids'.*corpus.tokens.column"),
        (
            {"tokens": {}},
            {"objective": {"loss": "completion"}},
            ConfigError,
            "completion, and documents are token ids",
        ),
        (
            {"tokens": {}},
            {"objective": {"loss": "labels"}},
            CorpusError,
            r"'labels' in any row.*objective.loss",
        ),
        (
            {"tokens": {"packing": "separate"}},
            {},
            CorpusError,
            "corpus.tokens.separator is not set",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path,
    corpus: dict[str, Any],
    more: dict[str, Any],
    error: type[RayInfluenceError],
    said: str,
) -> None:
    pq.write_table(pa.table({"input_ids": [[4, 5, 6]] * 3}), tmp_path / "d.parquet")
    with pytest.raises(error, match=said):
        tokenized(
            tiny_run(
                tmp_path, corpus={"documents": [str(tmp_path / "d.parquet")], **corpus}, **more
            )
        )


def test_a_row_is_shown_with_the_texts_of_its_tokens(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "d.bin", [[4, 5, 6], [7, 8]])
    config = configured(tmp_path, path, {}, {"context": CONTEXT})
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(exclude_unset=True)))
    looking = looked_at(str(tmp_path / "run.yaml"), None, {}, lambda text: None)
    shown = looking.document(None, 2, None, None)
    [sequence] = shown.sequences
    assert [(one.id, one.text.strip()) for one in sequence.tokens] == [(7, "w6"), (8, "w7")]


def test_the_examples_of_the_page_are_run(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "corpora.md").read_text("utf-8")
    examples = re.findall(r"<!-- snippet: tokens -->\n```yaml\n(.*?)```", page, re.DOTALL)
    stream = [4, 5, 0, 6, 7, 8, 0]
    row = {"input_ids": stream, "labels": [-100, 5, 0, -100, 7, 8, 0]}
    pq.write_table(pa.Table.from_pylist([row] * 2), tmp_path / "packed.parquet")
    write_megatron(tmp_path / "text_document.bin", [stream, [9, 10, 0]])
    np.array(stream, np.uint16).tofile(tmp_path / "train.bin")
    found = []
    for number, example in enumerate(examples):
        values = yaml.safe_load(example)
        [name] = values["corpus"].pop("documents")
        corpus = {**values.pop("corpus"), "documents": [str(tmp_path / name)]}
        rows = tokenized(tiny_run(tmp_path / str(number), corpus=corpus, **values))
        found.append(tokens_of(rows))
    apart = [[4, 5, 0], [6, 7, 8, 0]]
    assert found == [apart * 2, [stream, [9, 10, 0]], [stream], apart]


def test_of_a_row_one_longer_than_the_context_the_last_token_is_counted_out(tmp_path: Path) -> None:
    rows = [list(range(1, CONTEXT + 2))] * 3
    config = configured(tmp_path, write_megatron(tmp_path / "d.bin", rows), {})
    assert tokens_of(tokenized(config)) == [rows[0][:CONTEXT]] * 3
    [report] = Corpus.open(corpus_store(config)).manifest.files
    assert report["short_chunks"] == 3
