"""Groups: which keys there are, which values are one group, and which group comes first."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.corpus.metadata import as_text, canonical, plain, shown
from rayinfluence.dataflow.compute.grouping import group_digest, group_table
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.errors import ConfigError
from rayinfluence.influence import groups
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]


def table(partial: Partial, best: Sequence[dict[str, Any]]) -> pa.Table:
    digests = [group_digest(metadata, "source") for metadata in best]
    of_query = {"source": pa.chunked_array([digests], pa.string())}
    return pa.concat_tables(group_table({"q": (partial, 0)}, {"q": of_query}))


def documents(folder: Path, values: Sequence[Any], key: str = "license") -> None:
    rows = [{"text": f"w{i % 40} w{i % 7} w3", key: value} for i, value in enumerate(values)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def counts(results: Results, column: str) -> dict[tuple[str, str], int]:
    return {
        (row["value"], row["value_type"]): row["n_sequences"]
        for row in results.groups.to_pylist()
        if (row["query_id"], row["column"]) == ("q0", column)
    }


# Keys.


def test_a_key_that_no_document_has_is_refused_before_the_fit(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, scan={"group_by": ["source", "yaer"]})
    with pytest.raises(
        ConfigError,
        match=r"scan\.group_by: none of the documents .* has the key 'yaer'; did you mean 'year'\? "
        r"the keys there are 'source', 'year'\.",
    ):
        execute(config)
    assert not (tmp_path / "run" / "factors").exists()


@pytest.mark.parametrize("row", [{"note": None}, {}], ids=["all null", "no metadata"])
def test_a_key_that_is_null_in_all_documents_is_one_that_none_has(
    tmp_path: Path, execute: Execute, row: dict[str, Any]
) -> None:
    config = tiny_run(tmp_path, scan={"group_by": ["note"]}, corpus={"bad_rows": 1})
    rows = [{"text": f"w{i} w2 w3", **row} for i in range(9)] + [{"text": "", "note": "x"}]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(ConfigError, match="'note'; there are no metadata"):
        execute(config)


def test_a_key_of_added_documents_is_known(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    config = tiny_run(tmp_path, 12)
    execute(config)
    (tmp_path / "more.jsonl").write_text('{"text": "w1 w2 w3", "license": "MIT"}\n')
    both = [*config.corpus.documents, str(tmp_path / "more.jsonl")]
    config = change(config, corpus={"documents": both}, scan={"group_by": ["license"]})
    found = counts(execute(config, new_run=True)["ekfac"], "license")
    assert found[("MIT", "string")] == 1
    assert found[("", "missing")] > 1


def test_documents_without_a_source_need_no_group_by(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 1)
    documents(tmp_path, ["MIT"] * 9)
    assert counts(execute(config)["ekfac"], "source") == {("", "missing"): 9}


# Values.


def test_values_of_other_types_are_other_groups(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 1, scan={"group_by": ["license"]})
    values = [1, "1", 1.0, True, "true", "True", None, "", ["a", "b"], ["b", "a"], '["a","b"]']
    documents(tmp_path, [*values, {"b": 1, "a": 2}, {"a": 2, "b": 1}, 1.5, False, 0])
    assert counts(execute(config)["ekfac"], "license") == {
        ("1", "number"): 2,
        ("1", "string"): 1,
        ("true", "boolean"): 1,
        ("true", "string"): 1,
        ("True", "string"): 1,
        ("", "missing"): 1,
        ("", "string"): 1,
        ('["a","b"]', "list"): 1,
        ('["b","a"]', "list"): 1,
        ('["a","b"]', "string"): 1,
        ('{"a":2,"b":1}', "object"): 2,
        ("1.5", "number"): 1,
        ("false", "boolean"): 1,
        ("0", "number"): 1,
    }


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        ("web", "web", "string"),
        ("other", "other", "string"),
        (2, "2", "number"),
        (2.0, "2", "number"),
        (-0.0, "0", "number"),
        (0.1, "0.1", "number"),
        (1e300, "1e+300", "number"),
        (10**20, "100000000000000000000", "number"),
        (1e20, "100000000000000000000", "number"),
        (1e21, "1e+21", "number"),
        (10**21, "1000000000000000000000", "number"),
        (2**53 + 1, "9007199254740993", "number"),
        (2**53 + 2, "9007199254740994", "number"),
        (-(2**60), "-1152921504606846976", "number"),
        ({"id": [2**62]}, '{"id":[4611686018427387904]}', "object"),
        (10**400, str(10**400), "number"),
        ([1.0, {"é": None}], '[1,{"é":null}]', "list"),
    ],
)
def test_a_value_is_shown_as_json_and_a_string_as_itself(value: Any, text: str, kind: str) -> None:
    assert as_text(value) == text
    assert shown(canonical(value)) == (text, kind)


def test_what_json_cannot_hold_says_what_it_is() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    found = plain({"a": math.nan, "b": [math.inf, (1, 2)], "c": np.datetime64("2020-01-01")})
    # As no text that somebody may have written.
    nan, infinity, octets = {"float": "nan"}, {"float": "inf"}, {"bytes": "ff00"}
    assert found == {"a": nan, "b": [infinity, [1, 2]], "c": "2020-01-01"}
    assert plain([b"caf\xc3\xa9", b"\xff\x00"]) == ["café", octets]
    assert plain(deep) == "nested too deeply"


def test_lists_are_json_in_the_results_too(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 1, scan={"group_by": ["license"]})
    documents(tmp_path, [["a", "b"], True, 1.5])
    hits = execute(config)["ekfac"].table["metadata.license"].to_pylist()
    assert set(hits) <= {'["a","b"]', "true", "1.5"}
    assert hits


def test_values_beyond_the_bound_are_counted_as_one_group_and_said(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "MOST_VALUES", 5)
    config = tiny_run(tmp_path, 1, scan={"group_by": ["url"]})
    documents(tmp_path, [f"u{i}" for i in range(40)], key="url")
    results = execute(config)["ekfac"]
    found = counts(results, "url")
    assert len(found) == 6
    assert found[("", "other")] == 35
    warning, _ = results.manifest["warnings"]
    assert "scan.group_by: 'url' has more than" in warning
    assert "35 sequences with another value" in warning


# Order.


def planted() -> tuple[Partial, list[dict[str, Any]]]:
    """10,000 sequences: 9,900 of one source with noise, 100 of another that raise; the top 20."""
    generator = np.random.default_rng(0)
    scores = generator.standard_normal(10_000) * 100
    sources = ["docstrings"] * 9900 + ["planted"] * 100
    scores[9900:] += 250
    scores_NQ, ids = scores[:, None], np.arange(10_000)
    texts = [canonical(source) for source in sources]
    partial = Partial(
        TopK.of(scores_NQ, ids, 20),
        TopK.of(-scores_NQ, ids, 20),
        GroupSums.of(scores_NQ, {"source": texts}),
        Tails.of(scores_NQ),
        n_sequences=10_000,
    )
    return partial, [{"source": sources[i]} for i in partial.proponents.of_query(0)[1]]


def test_a_small_planted_group_comes_before_a_large_one() -> None:
    partial, best = planted()
    first, second = table(partial, best).to_pylist()
    assert (first["value"], second["value"]) == ("planted", "docstrings")
    # By its sums the large group is first by far.
    sizes = [row["positive_sum"] - row["negative_sum"] for row in (first, second)]
    assert sizes[1] > 20 * sizes[0]
    assert first["share_of_corpus"] == 0.01
    assert first["top"] == second["top"] == 20
    assert first["in_top"] + second["in_top"] == 20
    assert first["lift"] == first["in_top"] / 20 / 0.01
    assert 1 < first["lift_low"] < first["lift"] < first["lift_high"] <= 100
    assert second["lift_high"] < 1
    assert first["mean_score"] == pytest.approx(250, abs=3 * first["mean_score_error"])
    assert abs(second["mean_score"]) < 3 * second["mean_score_error"]
    assert first["mean_score_error"] == pytest.approx(10, rel=0.3)


def test_the_top_is_one_percent_and_ten_at_least() -> None:
    partial, _ = planted()
    best = [{"source": "planted"}] * 500
    assert set(table(partial, best)["top"].to_pylist()) == {100}
    few = Partial(
        partial.proponents,
        partial.opponents,
        GroupSums.of(np.ones((50, 1)), {"source": [canonical("planted")] * 50}),
        partial.tails,
        n_sequences=50,
    )
    assert table(few, best)["top"].to_pylist() == [10]


def test_equal_lifts_are_in_the_order_of_counts_and_none_is_null() -> None:
    scores = -np.ones((6, 1))
    values = [canonical(value) for value in ("b", "a", "c", "c", "a", "c")]
    partial = Partial(
        TopK.of(scores, np.arange(6), 3),
        TopK.of(-scores, np.arange(6), 3),
        GroupSums.of(scores, {"source": values}),
        Tails.of(scores),
        n_sequences=6,
    )
    rows = table(partial, []).to_pylist()
    assert [row["value"] for row in rows] == ["c", "a", "b"]
    for row in rows:
        assert (row["top"], row["in_top"]) == (0, 0)
        assert row["lift"] is row["lift_low"] is row["lift_high"] is None
        assert row["mean_score"] == -1
    assert [row["mean_score_error"] for row in rows] == [0, 0, None]


def test_partials_of_an_earlier_version_are_neither_read_nor_in_the_way(
    done: tuple[Path, RunConfig], execute: Execute
) -> None:
    _, config = done
    before = rayinfluence.load_results(config.run)
    [bank] = Path(config.run, "scan").iterdir()
    manifest = json.loads((bank / "manifest.json").read_text())
    del manifest["base"]["format"], manifest["seal"]
    old = bank.with_name("0" * 32)
    bank.rename(old)
    (old / "manifest.json").write_text(json.dumps(manifest))
    for path in (old / "partials").iterdir():
        path.write_bytes(b"of another format")
    Path(config.run, "results", "manifest.json").unlink()
    after = execute(config)["ekfac"]
    assert after.table.equals(before.table)
    assert after.groups.equals(before.groups)
    assert old.exists()
