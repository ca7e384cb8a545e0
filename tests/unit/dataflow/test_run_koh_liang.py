"""Runs by influence functions as Koh & Liang 2017 have them, beside EK-FAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import Execute, survivors

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.refine import in_section
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.report import render_page
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

METHOD = "koh_liang"
SOLVE: dict[str, Any] = {"sequences": 80, "tolerance": 1e-10, "steps": 600}


def configured(folder: Path, **scan: Any) -> RunConfig:
    """588 weights in float64; a lambda that makes up for negative curvature."""
    return tiny_run(
        folder,
        12,
        dtype="float64",
        modules=["transformer.h.1.mlp.c_proj"],
        scan={"methods": ["ekfac", METHOD], "damping": 60.0, "rank": "dense", "top": 80, **scan},
    )


def test_it_is_the_dense_solve_with_the_hessian(tmp_path: Path, execute: Execute) -> None:
    """Of all sequences, by autograd; and ekfac beside it is not solved for."""
    config = configured(tmp_path, koh_liang=SOLVE, scores="dense")
    results = execute(config)[METHOD]
    told = results.manifest["methods"][METHOD]["solver"]
    assert (told["name"], told["curvature"]) == ("cg", "hessian")
    assert all(one["converged"] for one in told["queries"].values())
    assert "solver" not in results.manifest["methods"]["ekfac"]
    with Run(config) as run:
        model, queries = run.replica.model, run.queries
        tables = [run.corpus.read(s) for s in run.corpus.plan(run.numerics.split_tokens)]
    name = "transformer.h.1.mlp.c_proj"
    module = model.get_submodule(name)
    # [I, O] and the bias: the order of the weights plays no part in inner products.
    theta = torch.cat([module.weight.flatten(), module.bias]).detach()
    rest = {n: p.detach() for n, p in model.named_parameters() if not n.startswith(name)}

    def log_p(theta: torch.Tensor, tokens: list[int], first: int) -> torch.Tensor:
        n_weights = module.weight.numel()
        ours = {
            f"{name}.weight": theta[:n_weights].view_as(module.weight),
            f"{name}.bias": theta[n_weights:],
        }
        ids = torch.tensor([tokens])
        logits = torch.func.functional_call(model, {**rest, **ours}, (ids,)).logits[0]
        found = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[first - 1 :]
        return found.sum()

    sequences = {
        i: tokens
        for table in tables
        for i, tokens in zip(
            table["sequence_id"].to_pylist(), table["tokens"].to_pylist(), strict=True
        )
    }
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.zeros(len(theta), len(theta), dtype=torch.float64)
        for tokens in sequences.values():
            hessian -= torch.autograd.functional.hessian(
                lambda t, tokens=tokens: log_p(t, tokens, 1), theta
            )
        gradient = torch.func.grad(log_p)
        of_sequences = torch.stack([gradient(theta, one, 1) for one in sequences.values()])
        (answer,) = queries[0].answers
        of_query = gradient(theta, list(answer.tokens), answer.first_target)
    damped = hessian / len(sequences) + 60.0 * torch.eye(len(theta), dtype=torch.float64)
    expected = of_sequences @ torch.linalg.solve(damped, of_query)
    table = results.scores(queries[0].query.query_id)
    found = dict(zip(table["sequence_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    ours = torch.tensor([found[i] for i in sequences], dtype=torch.float64)
    assert float((ours - expected).norm() / expected.norm()) < 1e-5


def test_each_of_its_solvers_gives_the_same(tmp_path: Path, execute: Execute) -> None:
    found = [
        survivors(execute(configured(tmp_path / settings["name"], koh_liang=settings))[METHOD])
        for settings in (
            {"name": "explicit", "sequences": 80, "tolerance": 1e-10},
            {**SOLVE, "name": "cg"},
            {**SOLVE, "name": "lissa", "steps": 300, "tolerance": 1e-6},
        )
    ]
    for others in found[1:]:
        assert others == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_a_report_has_both_and_says_how_queries_were_solved_for(
    tmp_path: Path, execute: Execute
) -> None:
    results = execute(configured(tmp_path, koh_liang={"curvature": "gauss_newton"}))
    page = render_page(results)
    assert "queries by koh_liang were solved by cg, with the Gauss-Newton matrix of" in page
    assert "as Koh &amp; Liang 2017 have them" in page
    assert "refined" not in str(results["ekfac"].meaning.description)


def test_negative_curvature_is_refused_with_keys_and_what_they_say_does(
    tmp_path: Path, execute: Execute
) -> None:
    """In the same run directory, without more: nothing of the other settings was begun."""
    brief = {**SOLVE, "steps": 30}
    positive = {**brief, "curvature": "gauss_newton"}
    refused = {"damping": 1e-3, "koh_liang": brief}
    keys = r"^scan\.koh_liang: .* `scan\.koh_liang\.curvature: gauss_newton`.*`scan\.damping`"
    for name, changes in (("curvature", {"koh_liang": positive}), ("damping", {"damping": 60.0})):
        with pytest.raises(NumericsError, match=keys):
            execute(configured(tmp_path / name, **refused))
        results = execute(configured(tmp_path / name, **{**refused, **changes}))
        assert results[METHOD].survivors.num_rows > 0, name
    # What was scanned is another matter, and its key is one that can be set.
    other = configured(tmp_path / "curvature", damping=1e-3, koh_liang={**positive, "steps": 7})
    with pytest.raises(ConfigError, match=r"scan\.koh_liang\.steps: 7, was 30.*--new-run"):
        execute(other)


def test_a_solver_names_its_settings_where_they_are() -> None:
    said = "solver: lissa diverges. Raise `scale`, or set `scale: 2`; or `scan.damping_scale`."
    assert in_section(said, "koh_liang") == (
        "scan.koh_liang: lissa diverges. Raise `scan.koh_liang.scale`, or set "
        "`scan.koh_liang.scale: 2`; or `scan.damping_scale`."
    )
    assert in_section("a fault of others: `scale`", "solver") == "a fault of others: `scale`"


def test_solvers_that_begin_from_ekfac_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be explicit, cg, lissa.*not 'pcg'"):
        configured(tmp_path, koh_liang="pcg")
