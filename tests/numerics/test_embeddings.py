"""Embeddings, of which one factor is diagonal: exactly, or by decision."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import TIED, Case, llama, token_sequences
from compare import assert_same
from harness import (
    SEED,
    all_scores,
    bases_of,
    encoded,
    fit_factors,
    make_bank,
    make_replica,
    operator_of,
    table,
)
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM

from rayinfluence.dataflow.compute.replica import own_labels
from rayinfluence.dataflow.compute.scoring import score_split, seen_widths
from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.modules import track
from rayinfluence.model.rows import Rows
from rayinfluence.testing import tiny_gpt2, tiny_llama
from rayinfluence.testing.models import VOCABULARY


def adapted() -> nn.Module:
    """With LoRA on the head."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    settings = peft.LoraConfig(r=3, target_modules=["lm_head"], init_lora_weights=False)
    model: nn.Module = peft.inject_adapter_in_model(settings, llama())
    return model.requires_grad_(False)


def gemma(tied: bool) -> nn.Module:
    """Gemma's shape, whose embedding multiplies what it looks up."""
    torch.manual_seed(4)
    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=16,
        eos_token_id=1,
        tie_word_embeddings=tied,
    )
    model: nn.Module = GemmaForCausalLM(config).double().eval()
    return model.requires_grad_(False)


BOTH = Case("both", llama, ("model.embed_tokens", "*.down_proj", "lm_head"))
ADAPTED = Case("adapted", adapted, ("*.lora_A.*", "*.lora_B.*"))
SCALED = Case("scaled", partial(gemma, tied=False), ("model.embed_tokens", "lm_head"))
SCALED_TIED = Case("scaled and tied", partial(gemma, tied=True), ("*.down_proj", "lm_head"))


@pytest.mark.parametrize(
    ("case", "head", "width"), [(BOTH, "lm_head", 16), (ADAPTED, "lm_head.lora_B.default", 3)]
)
def test_the_output_embedding_has_the_diagonal_of_s(
    case: Case, head: str, width: int, tmp_path: Path
) -> None:
    """In which Lambda is exact, and so is the solve; A is whole. So is it of an adapter's B."""
    replica, sequences = make_replica(case), token_sequences()
    assert replica.shapes[head].widths == {"inputs": width}
    factors = fit_factors(replica, sequences, tmp_path)
    operator = operator_of(factors)
    drawn = naive.sampled_labels(replica.model, sequences, range(len(sequences)), SEED)
    A, S = naive.covariances(replica.model, [head], sequences, drawn)[head]
    module = operator[head].factors
    Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
    assert_same(Q_A @ torch.diag(module.inputs_eigenvalues) @ Q_A.T, A, "A")
    assert_same(Q_S, torch.eye(VOCABULARY, dtype=torch.float64), "Q_S")
    assert_same(module.outputs_eigenvalues, S.diagonal(), "the diagonal of S")
    per_sequence = naive.sequence_gradients(replica.model, [head], sequences, drawn)
    bases = {head: bases_of(operator)[head]}
    assert_same(module.moments, naive.moments(per_sequence, bases)[head], "Lambda")
    dense = naive.dense_operator(*bases[head], module.moments, operator[head].damping)
    V = per_sequence[0][head]
    assert_same(operator[head].inverse() @ V, naive.solve(dense, V), "solve", 1e-9)


@pytest.mark.parametrize(
    "case", [BOTH, TIED, ADAPTED, SCALED, SCALED_TIED], ids=lambda case: case.name
)
@pytest.mark.parametrize("rank", [None, VOCABULARY])
def test_scores_are_inner_products_of_autograd_s_gradients(
    case: Case, rank: int | None, tmp_path: Path
) -> None:
    """Over all three kinds of modules at once."""
    replica, sequences = make_replica(case), token_sequences()
    names = list(replica.modules)
    factors = fit_factors(replica, sequences, tmp_path)
    queries = [encoded(tokens, 2) for tokens in token_sequences(1, (6, 4))]
    bank = make_bank(replica, factors, queries, tmp_path, rank=rank)
    own = [tokens[1:] for tokens in sequences]
    D = naive.sequence_gradients(replica.model, names, sequences, own)
    expected = torch.zeros(len(sequences), len(queries), dtype=torch.float64)
    for place, query in enumerate(queries):
        twin = naive.trainable(replica.model)
        f = naive.log_probability(
            twin, query.answers[0].tokens, first=query.answers[0].first_target
        )
        for name, gradient in naive.gradients(twin, names, f).items():
            P = operator_of(factors)[name].inverse() @ gradient
            expected[:, place] += torch.stack([(P * of[name]).sum() for of in D])
    assert_same(all_scores(replica, bank, sequences), expected, tolerance=1e-9)


def test_a_token_that_nobody_shares_moves_nothing_by_the_input_s_embedding(tmp_path: Path) -> None:
    """Its rows are the tokens': sequences of other tokens score zero, exactly."""
    replica = make_replica(Case("input", llama, ("model.embed_tokens",)))
    half = VOCABULARY // 2
    low = [np.arange(2, 9), np.arange(3, 8)]
    high = [tokens + half for tokens in low]
    factors = fit_factors(replica, [*low, *high], tmp_path)
    bank = make_bank(replica, factors, [encoded(low[0])], tmp_path)
    (scored,) = score_split(replica, [bank], table([*low, *high]))
    scores = dict(zip(scored.ids_N.tolist(), scored.scores_NQ[:, 0].tolist(), strict=True))
    assert [scores[place] == 0.0 for place in range(4)] == [False, False, True, True]


def test_embeddings_are_tracked_where_they_are_named_in_full() -> None:
    """Alone; where the two share their weight, that of outputs for both."""
    embedding = "model.embed_tokens"
    assert embedding not in track(tiny_llama(), ["*"])
    assert list(track(tiny_llama(), [embedding, "lm_head"])) == [embedding, "lm_head"]
    with pytest.raises(ModelError, match=rf"named in full, .* vocabulary: write {embedding}\."):
        track(tiny_llama(), ["*embed*"])
    assert list(track(tiny_gpt2(), ["lm_head"])) == ["lm_head"]
    with pytest.raises(ModelError, match=r"transformer\.wte shares its weight .* write lm_head,"):
        track(tiny_gpt2(), ["transformer.wte"])


@pytest.mark.parametrize("case", [TIED, SCALED_TIED, BOTH], ids=lambda case: case.name)
def test_windows_count_all_that_modules_see_of_a_token(case: Case) -> None:
    """Of a tied embedding, what it gets as the output and what it looks up."""
    replica, (tokens, *_) = make_replica(case), token_sequences()
    batch = make_batch([tokens], [0], replica.device)
    seen: list[int] = []
    held: dict[int, int] = {}

    def count(_batch: Batch, name: str, rows: Rows) -> None:
        held[rows.inputs_BRI.data_ptr()] = rows.inputs_BRI.numel()
        seen.append(rows.grads_BRO.numel())

    replica.run(batch, own_labels, count, {})
    assert sum(seen) + sum(held.values()) == seen_widths(replica) * len(tokens)
