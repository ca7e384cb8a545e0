"""Likeness of hidden states and steps on sequences, against their definitions written out."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import GPT2, LLAMA, MLP, Case, token_sequences
from harness import encoded, make_replica, write_corpus

from rayinfluence.dataflow.compute.scoring import query_value
from rayinfluence.dataflow.jobs.watch import LocalWatch
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.baselines import HiddenJob, body_of, random_scores
from rayinfluence.evaluation.tail_patch import LEARNING_RATE, Patch, PatchJob
from rayinfluence.storage.results import scores_key
from rayinfluence.storage.store import Store, read_table

SEQUENCES = token_sequences()
QUERIES = [encoded(tokens, 3) for tokens in token_sequences(1, (6, 8))]


def last_hidden(model: torch.nn.Module, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=torch.tensor([tokens.tolist()]), output_hidden_states=True)
    return found.hidden_states[-1][0].mean(dim=0)


@pytest.mark.parametrize("case", [GPT2, LLAMA], ids=lambda case: case.name)
def test_likeness_is_the_cosine_of_mean_last_hidden_states(case: Case, tmp_path: Path) -> None:
    replica = make_replica(case)
    corpus = write_corpus(tmp_path / "corpus", SEQUENCES)
    job = HiddenJob(corpus.store, Store(str(tmp_path / "scores")), QUERIES)
    job.prepare(replica)
    found = np.full((len(SEQUENCES), len(QUERIES)), np.nan)
    for split in corpus.plan(30):
        job.run(replica, split, LocalWatch(lambda tokens: None))
        columns = ["sequence_id", *(query.digest for query in QUERIES)]
        table = read_table(job.store, scores_key(split.digest), columns)
        for place, query in enumerate(QUERIES):
            found[table["sequence_id"].to_numpy(), place] = table[query.digest].to_numpy()
    rows = torch.stack([last_hidden(replica.model, tokens) for tokens in SEQUENCES])
    asked = torch.stack(
        [last_hidden(replica.model, np.array(query.answers[0].tokens)) for query in QUERIES]
    )
    expected = torch.nn.functional.cosine_similarity(rows[:, None], asked[None], dim=-1)
    assert found == pytest.approx(expected.numpy(), abs=1e-6)  # float32 is what is kept


def test_a_model_without_a_head_apart_has_no_such_states() -> None:
    with pytest.raises(ConfigError, match="no output head apart from its body"):
        body_of(make_replica(MLP))


@pytest.mark.parametrize("case", [GPT2, LLAMA], ids=lambda case: case.name)
def test_a_patch_is_adam_s_first_step_on_the_mean_of_all_tokens(case: Case) -> None:
    replica = make_replica(case)
    before = copy.deepcopy(replica.model.state_dict())
    job = PatchJob(QUERIES)
    job.prepare(replica)
    some = tuple(tuple(tokens.tolist()) for tokens in SEQUENCES[:3])
    number, change = job.run(replica, Patch(5, 1, some), LocalWatch(lambda tokens: None))
    model = copy.deepcopy(replica.model).requires_grad_(True)
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    terms = []
    for tokens in some:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
        terms.append(
            torch.nn.functional.log_softmax(logits, dim=-1)[range(len(tokens) - 1), tokens[1:]]
        )
    (-torch.cat(terms).mean()).backward()
    adam.step()

    def value(of: torch.nn.Module) -> float:
        query = QUERIES[1].answers[0]
        with torch.no_grad():
            logits = of(input_ids=torch.tensor([query.tokens])).logits[0]
        log_ps = torch.nn.functional.log_softmax(logits, dim=-1)
        places = range(query.first_target - 1, len(query.tokens) - 1)
        return float(log_ps[places, list(query.completion)].sum())

    assert number == 5
    assert abs(change) > 1e-4
    assert change == pytest.approx(value(model) - value(replica.model), rel=1e-6)
    after = replica.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_step_on_the_query_s_own_text_raises_it() -> None:
    replica = make_replica(GPT2)
    job = PatchJob(QUERIES)
    job.prepare(replica)
    own = (QUERIES[0].answers[0].tokens,)
    _, change = job.run(replica, Patch(0, 0, own), LocalWatch(lambda tokens: None))
    assert change > 0
    assert query_value(replica, QUERIES[0]) < 0


def test_tokens_that_the_loss_does_not_count_are_not_stepped_on() -> None:
    masked = make_replica(GPT2)
    masked.numerics = masked.numerics.__class__(
        **{**masked.numerics.__dict__, "loss": "completion"}
    )
    job, plain = PatchJob(QUERIES), PatchJob(QUERIES)
    job.prepare(masked)
    plain.prepare(make_replica(GPT2))
    watch = LocalWatch(lambda tokens: None)
    tokens = tuple(SEQUENCES[0].tolist())
    every = np.ones(len(tokens), dtype=np.bool_)
    few = every.copy()
    few[: len(tokens) // 2] = False
    _, whole = plain.run(masked, Patch(0, 0, (tokens,)), watch)
    _, same = job.run(masked, Patch(0, 0, (tokens,), (every,)), watch)
    _, less = job.run(masked, Patch(0, 0, (tokens,), (few,)), watch)
    assert same == pytest.approx(whole, rel=1e-9)
    assert less != pytest.approx(whole, rel=1e-3)


def test_chance_is_the_same_for_a_query_whatever_else_is_asked() -> None:
    ids = np.arange(2000)
    one = random_scores(ids, "a" * 32, 0)
    assert np.array_equal(one, random_scores(ids, "a" * 32, 0))
    assert abs(np.corrcoef(one, random_scores(ids, "b" * 32, 0))[0, 1]) < 0.1
    assert abs(np.corrcoef(one, random_scores(ids, "a" * 32, 1))[0, 1]) < 0.1
    assert one.min() >= 0
    assert one.max() <= 1
