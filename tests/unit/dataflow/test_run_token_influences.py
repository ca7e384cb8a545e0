"""Token influences in a whole run: who gets them, what a report says of them, and at what price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from whole_runs import Change, Contents, Execute, survivors

from rayinfluence.config import RunConfig
from rayinfluence.config_methods import NO_DERIVATIVES
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.methods.registry import METHODS, has_token_influences
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

COLUMNS = ["output_token_influences", "input_token_influences", "embedding_influences"]
SCAN = {"methods": ["ekfac", "cosine", "gradient_product", "bm25"], "token_influences": 2}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Results]]:
    """A run that asks for those of the first two; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("asked"), scan=SCAN)
    with Run(config) as run:
        return config, run.all()


def test_the_first_of_each_direction_have_them_by_methods_that_are_derivatives(
    asked: tuple[RunConfig, dict[str, Results]],
) -> None:
    for method, results in asked[1].items():
        n = 2 if method in ("ekfac", "gradient_product") else 0
        rows = results.survivors.to_pylist()
        assert {(row["query_id"], row["direction"]) for row in rows if row["rank"] == 1}
        for row in rows:
            assert [row[name] is not None for name in COLUMNS] == [row["rank"] <= n] * 3


def test_output_token_influences_add_up_to_the_score(
    asked: tuple[RunConfig, dict[str, Results]],
) -> None:
    """In a model of float32, with fused attention; each list is as long as the sequence."""
    results = asked[1]["ekfac"]
    for query_id in results.queries:
        largest = max(abs(hit.score) for hit in results.proponents(query_id, 5))
        for hit in [*results.proponents(query_id, 2), *results.opponents(query_id, 2)]:
            assert hit.output_token_influences is not None
            assert hit.input_token_influences is not None
            assert len(hit.output_token_influences) == hit.n_tokens
            assert len(hit.input_token_influences) == hit.n_tokens
            total = sum(hit.output_token_influences)
            assert total == pytest.approx(hit.score, abs=1e-4 * largest)
            assert np.any(hit.input_token_influences)
            assert hit.embedding_influences is not None
            assert len(hit.embedding_influences) == hit.n_tokens
            # No direction brings the score further than the one that it grows in most.
            assert min(hit.embedding_influences) >= 0
            assert max(hit.embedding_influences) > 0
            # Another way to look at them than scores by token.
            assert hit.token_scores is not None
            assert not np.allclose(hit.output_token_influences, hit.token_scores, rtol=0.01)


def test_columns_say_what_they_are(asked: tuple[RunConfig, dict[str, Results]]) -> None:
    schema = asked[1]["ekfac"].survivors.schema
    output, fed, moved = (schema.field(name).metadata for name in COLUMNS)
    assert output[b"unit"] == fed[b"unit"] == schema.field("score").metadata[b"unit"]
    assert b"They add up to the score" in output[b"description"]
    assert b"They do not add up to the score" in fed[b"description"]
    assert moved[b"unit"] == b"that of score, per unit of length of an embedding"


def test_asked_for_later_they_are_added_and_nothing_is_scanned_again(
    tmp_path: Path, execute: Execute, change: Change, contents: Contents
) -> None:
    config = tiny_run(tmp_path)
    before = execute(config)["ekfac"]
    assert before.survivors["output_token_influences"].null_count == len(before.survivors)
    there = contents(tmp_path / "run")
    after = execute(change(config, scan={"token_influences": 1}))["ekfac"]
    for key, body in contents(tmp_path / "run").items():
        # What is added: objects of the second pass, rows of tables, and results.
        assert there.get(key, body) == body or not key.endswith((".safetensors", ".parquet"))
        assert key in there or key.startswith(("rescored/", "results/"))
    assert survivors(before) == survivors(after)
    n_first = sum(row["rank"] == 1 for row in after.survivors.to_pylist())
    assert len(after.survivors) - after.survivors["input_token_influences"].null_count == n_first
    # And again, which makes the results without them the current ones.
    assert execute(config)["ekfac"].survivors.equals(before.survivors)


def test_a_damaged_object_is_made_again(tmp_path: Path, execute: Execute, change: Change) -> None:
    config = tiny_run(tmp_path, scan={"token_influences": 2})
    table = execute(config)["ekfac"].survivors
    folder = tmp_path / "run" / "rescored"
    for file in folder.glob("*.safetensors"):
        body = file.read_bytes()
        file.write_bytes(body[:-8] + bytes(8 * [255]))
    for file in [*folder.glob("*.parquet"), *(tmp_path / "run" / "results").rglob("*.*")]:
        file.unlink()
    assert execute(config)["ekfac"].survivors.equals(table)


def test_where_no_method_has_them_they_are_refused_by_the_configuration(tmp_path: Path) -> None:
    said = r"scan.token_influences: scores by cosine and bm25 are no derivatives .*Add ekfac"
    with pytest.raises(ConfigError, match=said):
        tiny_run(tmp_path, scan={"methods": ["cosine", "bm25"], "token_influences": 1})
    tiny_run(tmp_path, scan={"methods": ["cosine", "bm25"]})
    assert frozenset(method for method in METHODS if not has_token_influences(method)) == (
        NO_DERIVATIVES
    )


def test_a_model_without_them_is_refused_before_a_document_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: ProgressLog
) -> None:
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(GPT2LMHeadModel, "get_input_embeddings", lambda self: None)
    config = tiny_run(tmp_path, scan={"token_influences": 1})
    with (
        pytest.raises(Exception, match="does not say which module embeds"),
        Run(config, quiet) as r,
    ):
        r.all()
    assert not list((tmp_path / "run").rglob("*.parquet"))
