"""Survivors have their scores at full rank and full precision, whatever the scan's rank was."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from cases import token_sequences
from compare import assert_same
from device import DEVICE
from harness import (
    SEED,
    Fitted,
    bank_operands,
    fit_factors,
    make_bank,
    naive_scores,
    operands,
    write_corpus,
)
from naive import rows_seen
from rich.console import Console
from torch import Tensor

from rayinfluence.config_scored import ScoredMethod
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.survivors import Ranked, rescoring
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.jobs.rescore import Asking, RescoreJob
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob
from rayinfluence.dataflow.jobs.watch import Watch
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.gathering import gather
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import MethodQueries
from rayinfluence.dataflow.stages.results import completion, query_rows
from rayinfluence.dataflow.stages.scan import merge
from rayinfluence.dataflow.stages.scanned import Scanned, scanned_by_method
from rayinfluence.dataflow.stages.second_pass import Found, Rescored, SecondPass
from rayinfluence.dataflow.stages.tables import Tables
from rayinfluence.methods.registry import METHODS
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track
from rayinfluence.objective_kinds import CAUSAL
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import read_row_groups
from rayinfluence.storage.tensors import read_tensors
from rayinfluence.testing import tiny_tokenizer

QUIET = ProgressLog(Console(quiet=True))


@dataclass(frozen=True)
class Whole:
    """A scan and a second pass, and what tables are made of."""

    scanned: Scanned
    rescored: Rescored
    tables: Tables

    def table(self) -> pa.Table:
        """As a run writes it."""
        self.tables.of_method(self.scanned, self.rescored.found[0])
        return read_row_groups(self.tables.run, self.tables.key(f"{self.scanned.method}.parquet"))

    def changed(self) -> dict[str, Any]:
        return self.tables.of_method(self.scanned, self.rescored.found[0])[1]

    def found(self, query: EncodedQuery) -> Found:
        return self.rescored.found[0][query.digest]

    def parts(self, query: EncodedQuery, sequence: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores of a survivor by layer and by token, in float64, where they were committed."""
        found = self.found(query)
        (place,) = found.places(np.array([sequence]))
        assert found.ids_S[place] == sequence
        layers = self._read(found.at_S2[place])
        item, pair = found.by_token_S2[place].tolist()
        if item < 0:
            return layers["layer_scores"][found.at_S2[place, 1]], None
        tokens = self._read(found.by_token_S2[place])
        by_pair = np.split(tokens["token_scores"], tokens["token_ends"][:-1])
        at = tokens["token_places"].tolist().index(pair)
        return layers["layer_scores"][found.at_S2[place, 1]], by_pair[at]

    def _read(self, at: np.ndarray) -> dict[str, np.ndarray]:
        tensors, _ = read_tensors(self.tables.pieces, self.rescored.items[int(at[0])])
        return {name.partition("/")[2]: tensor.numpy() for name, tensor in tensors.items()}


def found_by(
    fitted: Fitted,
    folder: Path,
    method: str,
    rank: int | None,
    top: int,
    by_token: int | None = None,
    influences: int = 0,
) -> tuple[Whole, Partial]:
    """Scan, merge and score again as a run does."""
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, folder, method, rank)
    queries = Store(str(folder / f"queries-{method}-{rank}-None"))
    plan = BankPlan(
        method, method, "", tuple(bank.query_digests), queries, Store(str(folder / "bank"))
    )
    corpus = write_corpus(folder / "corpus", fitted.sequences)
    splits = corpus.plan(15)
    assert len(splits) > 2
    runner = InlineRunner(lambda: fitted.replica)
    loaded = bank_operands(plan)
    job = ScanJob(corpus.store, [loaded], top, ())
    list(runner.scan(job, [Pending(split, (0,)) for split in splits], lambda tokens: None))
    merged, damaged = merge(runner, plan, splits, set(), top)
    assert not damaged
    assert merged.n_sequences == len(fitted.sequences)
    scanned = scanned_by_method([ScoredMethod(method, method, 0.1)], [(loaded, merged)])
    pieces = Store(str(folder / "rescored"))
    again = SecondPass(
        runner,
        fitted.replica,
        corpus.store,
        pieces,
        splits,
        [operands(fitted.factors, Path(queries.url), method)],
        scanned,
        fitted.queries,
    )
    tokenizer = tiny_tokenizer()
    sequences = gather(runner, corpus.store, pieces, splits, [], tokenizer, [], 0, again.ids())
    rescored = again.run(sequences, by_token, influences, QUIET)
    rows = query_rows(
        [MethodQueries(method, method, "", {}, queries)], fitted.queries, tokenizer, None
    )
    completions = [
        completion(q, row, tokenizer, CAUSAL) for q, row in zip(fitted.queries, rows, strict=True)
    ]
    n = len(fitted.sequences)
    run = Store(str(folder / "run"))
    made_of = fitted.queries, completions, sequences, rescored, n, None
    tables = Tables(runner, pieces, run, "x", *made_of, [None] * len(fitted.queries))
    return Whole(scanned[0], rescored, tables), merged


def check_rows(fitted: Fitted, scanned: Whole, merged: Partial) -> list[dict]:
    """What holds of every table; gives its rows."""
    rows = scanned.table().to_pylist()
    for place, query in enumerate(fitted.queries):
        for direction, side, sign in (
            ("proponent", merged.proponents, 1),
            ("opponent", merged.opponents, -1),
        ):
            ours = [
                row
                for row in rows
                if (row["query_id"], row["direction"]) == (query.query.query_id, direction)
            ]
            scores, ids = side.of_query(place)
            assert [row["rank"] for row in ours] == list(range(1, len(ids) + 1))
            order = [(-sign * row["score"], row["sequence_id"]) for row in ours]
            assert order == sorted(order)
            in_scan = sorted(ours, key=lambda row: row["scan_rank"])
            assert [row["scan_rank"] for row in in_scan] == list(range(1, len(ids) + 1))
            assert [row["scan_score"] for row in in_scan] == (sign * scores).tolist()
            assert [row["sequence_id"] for row in in_scan] == ids.tolist()
            for row in ours:
                predicted = row["score"] / len(fitted.sequences)
                predicts = METHODS[scanned.scanned.method].meaning.predicts
                assert row["delta_nats"] == (predicted if predicts else None)
    return rows


def compare(fitted: Fitted, rows: list[dict], scanned: Whole, expected: Tensor, tol: float):
    """Scores, their parts by token and by layer."""
    places = {query.query.query_id: index for index, query in enumerate(fitted.queries)}
    for row in rows:
        place, sequence = places[row["query_id"]], row["sequence_id"]
        scale = float(expected[:, place].abs().max())
        assert_same(row["score"], expected[sequence, place], "score", tol, scale)
        layers, tokens = scanned.parts(fitted.queries[place], sequence)
        assert tokens.shape == fitted.sequences[sequence].shape
        # Layers and tokens are summed apart, in the dtype of the model's sums.
        rounding = 1e-12 if tol < 1e-8 else 1e-6
        assert_same(tokens.sum(), row["score"], "tokens", rounding, scale)
        assert layers.sum() == row["score"]


@pytest.mark.parametrize("rank", [1, 3, None], ids=["rank 1", "rank 3", "dense"])
@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product", "cosine"])
def test_scores_are_the_exact_ones_whatever_the_rank_of_the_scan(
    fitted: Fitted, method: str, rank: int | None, tmp_path: Path
) -> None:
    scanned, merged = found_by(fitted, tmp_path, method, rank, 5)
    rows = check_rows(fitted, scanned, merged)
    assert len(rows) >= len(fitted.queries) * 5
    if method == "kfac":
        # K-FAC's Lambda, with which the rest is EK-FAC.
        n_rows = rows_seen(fitted.replica.model, fitted.names, fitted.sequences)
        modules = {
            name: replace(
                module,
                moments=n_rows[name]
                / fitted.factors.n_sequences
                * torch.outer(module.outputs_eigenvalues, module.inputs_eigenvalues),
            )
            for name, module in fitted.factors.by_module().items()
        }
        naive = naive_scores(
            replace(fitted, operator={name: EKFAC(of, name) for name, of in modules.items()}),
            "ekfac",
        )
    else:
        naive = naive_scores(fitted, method)
    expected = torch.stack(list(naive.values())).sum(dim=0)
    compare(fitted, rows, scanned, expected, 1e-10)
    if rank is None:
        for row in rows:
            assert row["scan_score"] == pytest.approx(row["score"], rel=1e-8)
    if rank == 1:
        assert any(abs(row["scan_score"] / row["score"] - 1) > 1e-3 for row in rows)


@pytest.mark.parametrize("rank", [1, None], ids=["rank 1", "dense"])
def test_scores_in_float32_are_the_exact_ones_of_its_factors(
    fitted: Fitted, rank: int | None, tmp_path: Path
) -> None:
    model = freeze(copy.deepcopy(fitted.replica.model).float())
    numerics = Numerics("float32", DEVICE.type, 20, 2**17, "eager", SEED)
    narrow = Replica(model, track(model, fitted.case.patterns), numerics)
    factors = fit_factors(narrow, token_sequences(), tmp_path / "fit")
    single = replace(fitted, replica=narrow, factors=factors)
    scanned, merged = found_by(single, tmp_path, "ekfac", rank, 5)
    rows = check_rows(single, scanned, merged)
    # The same weights and factors, in float64.
    wide_model = freeze(copy.deepcopy(model).double())
    wide_numerics = replace(numerics, dtype="float64")
    wide = Replica(wide_model, track(wide_model, fitted.case.patterns), wide_numerics)
    modules = {
        name: replace(
            module,
            inputs_basis=module.inputs_basis.to(dtype=torch.float64, device=wide.device),
            outputs_basis=module.outputs_basis.to(dtype=torch.float64, device=wide.device),
        )
        for name, module in factors.by_module().items()
    }
    exact = replace(
        single, replica=wide, operator={name: EKFAC(of, name) for name, of in modules.items()}
    )
    expected = torch.stack(list(naive_scores(exact, "ekfac").values())).sum(dim=0)
    compare(single, rows, scanned, expected, 1e-5)


def test_the_report_of_what_changed_is_that_of_the_table(fitted: Fitted, tmp_path: Path) -> None:
    scanned, _ = found_by(fitted, tmp_path, "ekfac", 1, 5)
    table, report = scanned.table(), scanned.changed()
    assert list(report) == [query.query.query_id for query in fitted.queries]
    for query_id, ours in report.items():
        rows = [row for row in table.to_pylist() if row["query_id"] == query_id]
        relative = [abs(row["score"] / row["scan_score"] - 1) for row in rows]
        assert ours["largest_relative_difference"] == pytest.approx(max(relative))
        assert ours["compared_ranks"] == len(rows)
        assert ours["changed_ranks"] == sum(row["rank"] != row["scan_rank"] for row in rows)
        signs = [np.sign(row["score"]) != np.sign(row["scan_score"]) for row in rows]
        assert ours["changed_signs"] == sum(signs)
    assert rescoring(Ranked.joined([]), []) == {}


@pytest.mark.parametrize("rank", [1, None])
def test_only_a_score_that_does_not_come_out_again_is_suspect(
    fitted: Fitted, tmp_path: Path, rank: int | None
) -> None:
    """At any rank: the second pass has what the scan had, in batches of other shapes."""
    scanned, merged = found_by(fitted, tmp_path, "ekfac", rank, 5)
    rows = check_rows(fitted, scanned, merged)
    assert not any(row["suspect"] for row in rows)
    by_id = {query.query.query_id: query for query in fitted.queries}
    for row in rows:
        found = scanned.found(by_id[row["query_id"]])
        again = found.scanned_S[found.places(np.array([row["sequence_id"]]))[0]]
        assert again == pytest.approx(row["scan_score"], rel=1e-2)
        if rank is not None:
            assert again != pytest.approx(row["score"], rel=1e-6)
    # As if the scan had seen another number, which a neighbour in the batch could do.
    moved = replace(
        merged.proponents, scores_QK=merged.proponents.scores_QK * np.array([1.2, 1, 1, 1, 1])
    )
    [(bank, _)] = scanned.scanned.banks
    other = replace(scanned.scanned, banks=[(bank, replace(merged, proponents=moved))])
    table = replace(scanned, scanned=other).table().to_pylist()
    for row in table:
        first = (row["direction"], row["scan_rank"]) == ("proponent", 1)
        assert row["suspect"] is first


def test_a_sequence_that_changes_sign_stays_in_its_direction(
    fitted: Fitted, tmp_path: Path
) -> None:
    scanned, merged = found_by(fitted, tmp_path, "ekfac", None, 5)
    found = scanned.found(fitted.queries[0])
    first, second = merged.proponents.of_query(0)[1][:2].tolist()
    for sequence, score in ((first, -1.0), (second, 0.0)):
        found.scores_S[found.places(np.array([sequence]))] = score
    rows = check_rows(fitted, scanned, merged)
    ours = [
        (row["sequence_id"], row["score"])
        for row in rows
        if row["query_id"] == fitted.queries[0].query.query_id and row["direction"] == "proponent"
    ]
    assert ours[-2:] == [(second, 0.0), (first, -1.0)]
    changes = scanned.changed()[fitted.queries[0].query.query_id]
    assert changes["changed_signs"] == 2
    assert changes["largest_relative_difference"] > 1


def test_equal_scores_are_in_the_order_of_ids(fitted: Fitted, tmp_path: Path) -> None:
    scanned, merged = found_by(fitted, tmp_path, "ekfac", None, 5)
    for found in scanned.rescored.found[0].values():
        found.scores_S[:] = 2.0
    for query in {row["query_id"] for row in check_rows(fitted, scanned, merged)}:
        for direction in ("proponent", "opponent"):
            table = scanned.table().to_pylist()
            ids = [
                row["sequence_id"]
                for row in table
                if (row["query_id"], row["direction"]) == (query, direction)
            ]
            assert ids == sorted(ids)


def test_a_query_of_a_block_has_what_it_has_alone(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = found_by(fitted, tmp_path / "together", "ekfac", 2, 5)
    assert len(together.rescored.items) == 1
    monkeypatch.setattr("rayinfluence.dataflow.compute.rescoring._WHOLE_BYTES", {DEVICE.type: 1})
    alone, _ = found_by(fitted, tmp_path / "alone", "ekfac", 2, 5)
    assert len(alone.rescored.items) == len(fitted.queries)
    for query in fitted.queries:
        ours, theirs = together.found(query), alone.found(query)
        assert ours.ids_S.tolist() == theirs.ids_S.tolist()
        scale = np.abs(theirs.scores_S).max()
        assert_same(ours.scanned_S, theirs.scanned_S, "scanned", 1e-10, scale)
        for sequence in theirs.ids_S.tolist():
            pairs = zip(together.parts(query, sequence), alone.parts(query, sequence), strict=True)
            for mine, other in pairs:
                assert_same(mine, other, "layers and tokens", 1e-10, scale)


def test_small_items_find_what_a_large_one_finds(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = found_by(fitted, tmp_path / "whole", "ekfac", 2, 5)
    monkeypatch.setattr("rayinfluence.dataflow.stages.second_pass._BATCHES", 1)
    cut, _ = found_by(fitted, tmp_path / "cut", "ekfac", 2, 5)
    assert len(cut.rescored.items) > 1
    for query in fitted.queries:
        ours, theirs = cut.found(query), whole.found(query)
        assert ours.ids_S.tolist() == theirs.ids_S.tolist()
        scale = np.abs(theirs.scores_S).max()
        assert_same(ours.scores_S, theirs.scores_S, "scores", 1e-10, scale)
        for sequence in theirs.ids_S.tolist():
            pairs = zip(cut.parts(query, sequence), whole.parts(query, sequence), strict=True)
            for mine, other in pairs:
                assert_same(mine, other, "layers and tokens", 1e-10, scale)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_first_of_each_direction_have_token_scores(
    fitted: Fitted, tmp_path: Path, n: int
) -> None:
    """By their ranks at full rank, which those of a scan at rank 1 are not."""
    scanned, merged = found_by(fitted, tmp_path, "ekfac", 1, 5, n)
    rows = check_rows(fitted, scanned, merged)
    for row in rows:
        assert row["rank"] > n or row["token_scores"] is not None
        if row["token_scores"] is None:
            assert row["concentration"] is row["carried_by"] is row["carrier_in_completion"] is None
        else:
            total = pytest.approx(row["score"], rel=1e-4, abs=1e-4)
            assert sum(row["token_scores"]) == total
    without = sum(row["token_scores"] is None for row in rows)
    assert without > 0
    assert without == len(rows) or n > 0
    if n == 1 and fitted.case.name not in ("opt", "lora"):  # of which rank 1 finds the first
        assert any(row["scan_rank"] > 1 for row in rows if row["rank"] == 1)


def test_what_is_there_is_found_again_and_what_is_damaged_is_made_again(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by(fitted, tmp_path, "ekfac", 1, 5)
    (item,) = (p for p in (tmp_path / "rescored").iterdir() if ".rows." not in p.name)
    body = item.read_bytes()
    made: list[str] = []
    run = RescoreJob.run

    def counted(self: RescoreJob, replica: Replica, item: Asking, watch: Watch) -> str:
        made.append(item.key)
        return run(self, replica, item, watch)

    monkeypatch.setattr(RescoreJob, "run", counted)
    found_by(fitted, tmp_path, "ekfac", 1, 5)
    assert made == []
    item.write_bytes(body[:-8])
    found_by(fitted, tmp_path, "ekfac", 1, 5)
    assert made == [item.name]
    assert item.read_bytes() == body
