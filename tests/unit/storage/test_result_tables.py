"""What stands in the tables of results, for who reads them without us."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole_runs import TABLES, results_of

from rayinfluence.config import RunConfig
from rayinfluence.report import render_page
from rayinfluence.storage import metadata as metadata_module
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

Done = tuple[Path, RunConfig]
Execute = Callable[..., dict[str, Results]]


def tables(config: RunConfig) -> dict[str, pa.Table]:
    folder = results_of(Path(config.run))
    return {path.name: pq.read_table(path) for path in folder.glob("*.parquet")}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize("name", TABLES)
def test_every_column_says_what_it_means_and_every_table_of_which_results_it_is(
    finished: Done, name: str
) -> None:
    schema = pq.read_schema(results_of(finished[0] / "run") / name)
    for field in schema:
        assert len(field.metadata[b"description"]) > 5, field.name
    units = {field.name: (field.metadata or {}).get(b"unit") for field in schema}
    for column, unit in (
        ("delta_nats", b"nats"),
        ("log_probability", b"nats"),
        ("score", b"nats times the number of training sequences"),
        ("char_start", b"characters"),
        ("n_tokens", b"tokens"),
    ):
        assert units.get(column, unit) == unit
    fingerprint = results_of(finished[0] / "run").name
    assert schema.metadata[b"rayinfluence.schema_version"] == b"2"
    assert schema.metadata[b"rayinfluence.fingerprint"].decode() == fingerprint


def test_the_columns_are_those_that_the_reference_lists(finished: Done) -> None:
    """Nobody should have to open a file to learn what is in it."""
    text = (Path(__file__).parents[3] / "docs" / "reference.md").read_text("utf-8")
    listed = text[text.index("## Results") : text.index("## Run directory")]
    for name in TABLES:
        for field in pq.read_schema(results_of(finished[0] / "run") / name):
            assert f"`{field.name}`" in listed, (name, field.name)


def test_a_method_of_which_only_the_order_means_something_has_no_unit(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 12, scan={"methods": ["gradient_product"]})
    execute(config)
    schema = pq.read_schema(results_of(Path(config.run)) / "gradient_product.parquet")
    for name in ("score", "scan_score", "layer_scores", "token_scores"):
        assert schema.field(name).metadata[b"unit"].startswith(b"none"), name


def test_a_sequence_is_there_once_however_many_queries_and_methods_found_it(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 30, scan={"methods": ["ekfac", "kfac"]})
    execute(config)
    found = tables(config)
    ids = found["sequences.parquet"]["sequence_id"].to_pylist()
    assert ids == sorted(set(ids))
    of_all = set()
    for method in ("ekfac", "kfac"):
        table = found[f"{method}.parquet"]
        of_all |= set(table["sequence_id"].to_pylist())
        assert not {"text", "token_texts", "tokens", "metadata"} & set(table.column_names)
    assert of_all == set(ids)
    assert len(ids) < len(found["ekfac.parquet"]) + len(found["kfac.parquet"])


def test_what_a_sequence_is_and_where_it_is_from(finished: Done) -> None:
    written = (finished[0] / "documents.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in written]
    sequences = tables(finished[1])["sequences.parquet"].to_pylist()
    for row in sequences:
        document = documents[row["document_row"] - 1]
        assert row["document_file"] == "documents.jsonl"
        assert row["document_id"] == document["id"]
        assert row["text"] == "".join(row["token_texts"])
        assert row["text"].strip() == document["text"][row["char_start"] : row["char_end"]].strip()
        assert row["n_tokens"] == len(row["tokens"]) == len(row["token_texts"])
        assert row["row"] == row["sequence_id"] % 2**32
        assert row["metadata"] == {"source": document["source"], "year": document["year"]}


def test_queries_are_a_table_of_their_own(finished: Done) -> None:
    rows = tables(finished[1])["queries.parquet"].to_pylist()
    asked = [json.loads(x) for x in (finished[0] / "queries.jsonl").read_text().splitlines()]
    assert [row["query_id"] for row in rows] == [one["query_id"] for one in asked]
    for row, one in zip(rows, asked, strict=True):
        assert (row["prompt"], row["completion"]) == (one["prompt"], one["completion"])
        n = row["n_completion_tokens"]
        assert len(row["token_log_probabilities"]) == len(row["token_ranks"]) == n
        assert "".join(row["token_texts"]) == one["completion"]
        assert row["log_probability"] == pytest.approx(sum(row["token_log_probabilities"]))
        assert row["greedy"] == (set(row["token_ranks"]) == {1})
        assert len(row["tokens"]) > n


def test_documents_of_files_of_one_name_are_told_apart(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path)
    places = [tmp_path / year / "part.jsonl" for year in ("1990", "1991")]
    for place, path in enumerate(places):
        write(path, [{"text": f"w{i} w{i + place + 1} w3 w4"} for i in range(1, 15)])
    (tmp_path / "1990/other.jsonl").write_text('{"text": "w9 w8 w7"}\n')
    documents = [str(path) for path in (*places, tmp_path / "1990/other.jsonl")]
    config = config.model_copy(update={"corpus": config.corpus.model_copy(
        update={"documents": documents})})  # fmt: skip
    results = execute(config)["ekfac"]
    keys = ["document_file", "document_id", "document_row"]
    rows = [tuple(row[key] for key in keys) for row in results.sequences.to_pylist()]
    assert {file for file, *_ in rows} <= {"1990/part.jsonl", "1991/part.jsonl", "other.jsonl"}
    assert len({id_ for _, id_, _ in rows}) == len(rows)
    assert f"{rows[0][0]}, row {rows[0][2]}" in render_page({"ekfac": results})


def test_metadata_have_the_types_that_all_documents_give_them(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 1, scan={"top": 50})
    values: list[dict[str, Any]] = [
        {"year": 1990, "share": 1, "ok": True, "tags": ["a", "b"], "mixed": "x", "big": 2**60},
        {"year": 1991, "share": 0.5, "ok": False, "tags": [], "mixed": 7, "big": 1},
        {"year": 1992, "share": 2.0, "ok": True, "tags": ["c"], "mixed": {"b": 1, "a": [2]}},
        {"year": 1993, "huge": 10**30, "source": "s"},
    ] * 5
    write(tmp_path / "documents.jsonl", [
        {"text": f"w{i % 40} w{i % 7} w3", **one} for i, one in enumerate(values)
    ])  # fmt: skip
    results = execute(config)["ekfac"]
    kind = results.sequences.schema.field("metadata").type
    types = {kind.field(i).name: str(kind.field(i).type) for i in range(kind.num_fields)}
    assert types == {
        "big": "int64",
        "huge": "string",
        "mixed": "string",
        "ok": "bool",
        "share": "double",
        "source": "string",
        "tags": "string",  # of an empty list nobody knows what is in it
        "year": "int64",
    }
    encoded = {kind.field(i).name for i in range(kind.num_fields)
               if (kind.field(i).metadata or {}).get(b"encoding") == b"canonical JSON"}  # fmt: skip
    assert encoded == {"huge", "mixed", "tags"}
    shown = results.table["metadata.mixed"].to_pylist()
    assert set(shown) - {None} == {'"x"', "7", '{"a":[2],"b":1}'}
    for hit in results.proponents("q0") + results.opponents("q0"):
        assert hit.document_row is not None
        assert hit.metadata == values[hit.document_row - 1]
    # A report shows them as before: strings as they are, all else as JSON.
    page = render_page({"ekfac": results})
    assert '<dt class="key">mixed</dt><dd>x</dd>' in page
    assert '<dt class="key">tags</dt><dd>[&quot;a&quot;,&quot;b&quot;]</dd>' in page


def test_keys_beyond_the_bound_are_kept_as_one_object(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_module, "MOST_KEYS", 2)
    config = tiny_run(tmp_path, 1, scan={"top": 50})
    rows = [{"text": f"w{i} w3 w4", "source": "s", "year": i, f"k{i}": [i]} for i in range(10)]
    write(tmp_path / "documents.jsonl", rows)
    results = execute(config)["ekfac"]
    assert results.sequences.schema.field("metadata").type.num_fields == 2
    assert json.loads(results.sequences["metadata_rest"][0].as_py()) == {"k0": [0]}
    for hit in results.proponents("q0"):
        i = hit.metadata["year"]
        assert hit.metadata == {"source": "s", "year": i, f"k{i}": [i]}


def test_documents_without_metadata_are_no_trouble(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 1, scan={"group_by": []})
    write(tmp_path / "documents.jsonl", [{"text": f"w{i} w3 w4"} for i in range(10)])
    results = execute(config)["ekfac"]
    assert "metadata" not in results.sequences.column_names
    hit = results.proponents("q0")[0]
    assert (hit.metadata, hit.source) == ({}, "")


def test_metadata_of_queries_come_back_as_they_were_given(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 12)
    given = [{"kind": "fact", "n": 1, "none": None}, {"kind": 2, "n": 2}, {}]
    path = tmp_path / "queries.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [{**row, "metadata": one} for row, one in zip(rows, given, strict=True)])
    results = execute(config)["ekfac"]
    assert [query["metadata"] for query in results.queries.values()] == given
    assert {query["query_id"] for query in results.manifest["queries"]} == set(results.queries)


def test_tables_of_many_pieces_are_those_of_one(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_run(tmp_path / "whole", 40, scan={"token_scores": 1})
    cut = tiny_run(tmp_path / "cut", 40, scan={"token_scores": 1})
    expected = execute(whole)["ekfac"]
    monkeypatch.setattr("rayinfluence.dataflow.stages.gathering._PIECE_ROWS", 3)
    monkeypatch.setattr("rayinfluence.dataflow.stages.tables._PIECE_ROWS", 4)
    monkeypatch.setattr("rayinfluence.storage.tables._KEPT", 1)
    found = execute(cut)["ekfac"]
    folder = results_of(Path(cut.run))
    assert pq.ParquetFile(folder / "ekfac.parquet").num_row_groups == 3
    assert pq.ParquetFile(folder / "sequences.parquet").num_row_groups > 5
    assert found.table.equals(expected.table)
    for query_id in expected.queries:
        assert found.proponents(query_id) == expected.proponents(query_id)
    order = np.argsort(found.survivors["sequence_id"].to_numpy(), kind="stable")
    assert found._join.survivors.take(order).equals(found.survivors.take(pa.array(order)))


@pytest.mark.parametrize("of_tables", [True, False], ids=["rows of tables", "survivors"])
def test_damaged_pieces_are_made_again(done: Done, execute: Execute, of_tables: bool) -> None:
    run = Path(done[1].run)
    before = tables(done[1])
    pieces = [p for p in sorted((run / "rescored").iterdir()) if (".rows." in p.name) == of_tables]
    assert pieces
    bodies = [path.read_bytes() for path in pieces]
    for path, body in zip(pieces, bodies, strict=True):
        damaged = bytearray(body)
        damaged[len(body) // 3] ^= 0xFF
        path.write_bytes(damaged)
    for path in (run / "results").glob("*/manifest.json"):
        path.unlink()
    execute(done[1])
    assert [path.read_bytes() for path in pieces] == bodies
    assert all(table.equals(before[name]) for name, table in tables(done[1]).items())
