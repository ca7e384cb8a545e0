"""Which sequences go into one forward pass: a pure function of their lengths."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.model.batches import plan_batches

LENGTHS = st.lists(st.integers(1, 600), max_size=60)


def padded(batch: list[int], lengths: list[int]) -> int:
    return max(lengths[i] for i in batch) * len(batch)


def padding(batch: list[int], lengths: list[int]) -> int:
    return padded(batch, lengths) - sum(lengths[i] for i in batch)


@given(LENGTHS, st.integers(1, 1024))
def test_each_sequence_is_in_one_batch_and_a_batch_ends_for_a_reason(
    lengths: list[int], batch_tokens: int
) -> None:
    batches = plan_batches(lengths, batch_tokens)
    order = [index for batch in batches for index in batch]
    assert order == sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))

    def allowed(batch: list[int]) -> bool:
        return (
            padded(batch, lengths) <= batch_tokens and padding(batch, lengths) <= batch_tokens / 16
        )

    assert all(allowed(batch) for batch in batches if len(batch) > 1)
    assert not any(allowed([*batch, after[0]]) for batch, after in pairwise(batches))


def test_a_few_documents_of_all_lengths_are_hardly_padded() -> None:
    lengths = np.random.default_rng(0).integers(5, 513, 16).tolist()
    batches = plan_batches(lengths, 2048)
    assert sum(padded(batch, lengths) for batch in batches) < 1.15 * sum(lengths)


def test_documents_of_one_length_fill_their_batches() -> None:
    assert [len(batch) for batch in plan_batches([256] * 20, 2048)] == [8, 8, 4]
