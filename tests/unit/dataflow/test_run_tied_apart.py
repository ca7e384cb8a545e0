"""Runs that track two uses of one weight as two modules: as of a model that has two weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from rayinfluence import load_results
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.model.identity import model_digest, model_identity
from rayinfluence.model.load import assemble, disassemble, freeze
from rayinfluence.model.tied import has_copy, take_apart
from rayinfluence.testing import tiny_gpt2, tiny_run

pytestmark = pytest.mark.runs

BOTH = ["transformer.wte", "lm_head"]


def untied() -> GPT2LMHeadModel:
    """What computes the same with a weight for each use."""
    tied: Any = tiny_gpt2(dtype=torch.float32, attention="sdpa")
    config = tied.config.__class__.from_dict(
        {**tied.config.to_dict(), "tie_word_embeddings": False}
    )
    model = GPT2LMHeadModel(config)
    model.load_state_dict(tied.state_dict())
    return model.eval()


def test_a_copy_is_made_where_both_are_named_and_is_the_same_model(tmp_path: Path) -> None:
    tokens = torch.arange(12)[None]
    for named in ([], ["lm_head"], ["transformer.wte"], ["*wte", "lm_head"]):
        model: Any = freeze(tiny_gpt2())
        take_apart(model, named)
        assert model.lm_head.weight is model.transformer.wte.weight
    before, digest = model(tokens).logits, model_digest(model_identity(model))
    take_apart(model, ["*.mlp.*", *BOTH])
    assert [has_copy(one) for one in (model.lm_head, model.transformer.wte)] == [True, False]
    assert not any(weight.requires_grad for weight in model.parameters())
    assert torch.equal(model(tokens).logits, before)
    assert model_digest(model_identity(model)) == digest
    again: Any = assemble(*disassemble(model))  # as workers get it
    assert again.lm_head.weight is not again.transformer.wte.weight
    assert model_digest(model_identity(again)) == digest


@pytest.mark.parametrize("solver", [None, {"name": "pcg", "sequences": 20, "steps": 3}])
def test_scores_are_those_of_a_model_with_two_weights(
    tmp_path: Path, quiet: ProgressLog, solver: dict[str, Any] | None
) -> None:
    scan = {"methods": ["ekfac", "gradient_product"], "token_influences": 1, "solver": solver}
    found = []
    for name, pretrained in (("tied", None), ("untied", untied())):
        folder = tmp_path / name
        folder.mkdir()
        config = tiny_run(folder, 12, pretrained=pretrained, modules=BOTH, scan=scan)
        with Run(config, quiet) as run:
            run.all()
        found.append(
            [
                (hit.sequence_id, hit.score, hit.layer_scores, hit.token_scores)
                for method in ("ekfac", "gradient_product")
                for query in ("q0", "q1", "q2")
                for hit in load_results(config.run, method).proponents(query)
            ]
        )
    ours, theirs = found
    assert ours == theirs
    assert set(ours[0][2]) == set(BOTH)
