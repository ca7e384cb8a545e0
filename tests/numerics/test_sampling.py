"""Sampled labels: a pure function of (seed, sequence id, position), with the right distribution."""

from __future__ import annotations

import math

import pytest
import torch
from cases import Case, token_sequences
from harness import make_replica, table
from torch import Tensor

from rayinfluence.dataflow.compute.folding import fitting_labels
from rayinfluence.model.losses import sample_labels, uniforms

IDS = [5, 0, 2**32 + 3, 17]
LENGTHS = [4, 9, 2, 6]


def test_uniforms_depend_on_seed_id_and_position_alone() -> None:
    together = uniforms(7, IDS, LENGTHS).split(LENGTHS)
    backwards = uniforms(7, IDS[::-1], LENGTHS[::-1]).split(LENGTHS[::-1])
    for sequence_id, length, ours, theirs in zip(
        IDS, LENGTHS, together, backwards[::-1], strict=True
    ):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, uniforms(7, [sequence_id], [length]))
        # The same position of a longer sequence draws the same number.
        assert torch.equal(ours, uniforms(7, [sequence_id], [length + 5])[:length])


def test_streams_differ_by_seed_and_by_id() -> None:
    streams = [uniforms(seed, [i], [50]) for seed in (0, 1, 2) for i in (0, 1, 2, 2**32)]
    assert len({tuple(stream.tolist()) for stream in streams}) == len(streams)
    # No value comes twice, so no stream is a shifted copy of another.
    values = torch.cat(streams)
    assert len(values.unique()) == len(values)
    assert 0.0 <= float(values.min()) < float(values.max()) < 1.0
    assert abs(float(values.mean()) - 0.5) < 5 / math.sqrt(12 * len(values))


@pytest.mark.parametrize("batch_tokens", [1, 15, 1000])
def test_labels_do_not_depend_on_the_batch(case: Case, batch_tokens: int) -> None:
    """Nor on the order of rows."""
    sequences, n = token_sequences(), len(token_sequences())

    def drawn(batch_tokens: int, order: list[int]) -> dict[int, list[int]]:
        replica = make_replica(case, batch_tokens)
        sampled, found = fitting_labels("sampled", 5), {}

        def note(batch, targets):
            choose = sampled(batch, targets)
            rows = batch.sequence_ids[targets.sequences_N.cpu().numpy()]

            def noted(logits: Tensor, part: slice) -> Tensor:
                labels = choose(logits, part)
                for sequence_id, label in zip(rows[part], labels.tolist(), strict=True):
                    found.setdefault(int(sequence_id), []).append(label)
                return labels

            return noted

        rows = table([sequences[index] for index in order], order)
        for batch in replica.batches(rows, {}):
            replica.run(batch, note, lambda *_: None, {})
        return found

    expected = drawn(40, list(range(n)))
    assert sorted(expected) == list(range(n))
    assert drawn(batch_tokens, [4, 1, 6, 0, 3, 5, 2]) == expected


def test_labels_have_the_softmax_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 12, generator=generator, dtype=torch.float64)
    n_draws = 20_000
    for index, row in enumerate(logits):
        # One draw per sequence and many per sequence must do alike.
        ids, length = (range(n_draws), 1) if index else (range(20), n_draws // 20)
        draws = uniforms(index, ids, [length] * len(ids))
        counts = torch.bincount(sample_labels(row.expand(n_draws, -1), draws), minlength=12)
        expected = n_draws * torch.softmax(row, dim=0)
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 11 + 4 * math.sqrt(2 * 11), f"row {index}: {chi_square:.1f}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_logits_give_possible_labels(dtype: torch.dtype) -> None:
    n_labels = 50_000
    flat = torch.zeros(n_labels)
    first, last = torch.full((2, n_labels), -1e4)
    first[0] = last[-1] = 1e4
    masked = torch.full((n_labels,), -torch.inf)
    masked[[7, 40_000]] = 0.0
    steep = -torch.arange(n_labels, dtype=torch.float64)
    for logits in (flat, first, last, masked, steep):
        logits = logits.to(dtype)
        probabilities = torch.softmax(logits, dim=0)
        for draw in (0.0, 1e-300, 0.25, 0.5, 0.75, 1 - 2**-53):
            draws = torch.full((3,), draw, dtype=torch.float64)
            labels = sample_labels(logits.expand(3, -1), draws)
            assert 0 <= int(labels.min()) <= int(labels.max()) < n_labels
            assert bool((probabilities[labels] > 0).all()), f"{draw}: {labels.tolist()}"


def test_rows_are_sampled_one_by_one_whatever_the_chunk() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2500, 5, generator=generator, dtype=torch.float64)
    draws = uniforms(0, [0], [2500])
    cumulative = torch.softmax(logits, dim=1).cumsum(dim=1)
    expected = (cumulative <= draws[:, None]).sum(dim=1)
    assert torch.equal(sample_labels(logits, draws), expected)
