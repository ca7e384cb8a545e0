"""A query's completion, cut into parts that follow each other; and the gradient of each.

What is asked for is a sum over the completion's tokens, f = sum_c f_c, and so is its gradient. The
parts are rows of one batch, each of the same tokens: a backward pass gives the gradients of all.

C part, T token of the query, N token of the completion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.dataflow.compute.objectives import MEASUREMENTS
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import copies
from rayinfluence.model.batches import Batch
from rayinfluence.model.capture import backward
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.rows import Rows
from rayinfluence.model.targets import Targets

#: Parts of a completion, at most.
MOST_PARTS = 32
#: A batch has this share of the tokens of others: logits of all of its places exist at once.
_SHARE = 8
#: Given a module's name and, for some parts that follow each other, what it saw of each.
Consume = Callable[[str, range, Rows], None]


def part_ends(query: EncodedQuery, most: int) -> tuple[int, ...] | None:
    """Where the parts of a completion end, counted in its tokens from 0; the last at its end.

    Each has about as many tokens that count; those that do not are in the part of the next that
    does, and after all of them in the last. Of a contrast it is the first completion's parts.

    Args:
        query: the query.
        most: parts, at most.

    Returns:
        None where f is no sum over the tokens of one completion (a set, a class, a function of
        one's own, the sequences themselves), and where one token counts and nothing else does,
        of which the part would be all.
    """
    if query.function is not None or not query.answers or query.query.kind == "set":
        return None
    first, least = query.answers[0], 1 if query.query.kind == "contrast" else 2
    counted = np.flatnonzero(first.counted)
    n_parts = min(most, len(counted))
    if first.label is not None or n_parts < least:
        return None
    lasts = counted[np.arange(1, n_parts) * len(counted) // n_parts - 1]
    return (*(lasts + 1).tolist(), first.n_targets)


def part_gradients(
    replica: Replica, query: EncodedQuery, ends: tuple[int, ...], consume: Consume
) -> None:
    """The gradient of each f_c, in every tracked weight, as rows.

    Args:
        replica: the model.
        query: that has parts.
        ends: of them.
        consume: called once per module that some parts reach, and not with any others.
    """
    answer = query.answers[0]
    weights_CN = _weights(answer, ends)
    at_once = max(1, replica.numerics.batch_tokens // _SHARE // len(answer.tokens))
    for start in range(0, len(ends), at_once):
        some = range(start, min(start + at_once, len(ends)))
        batch, whole = copies(replica, answer, len(some))
        targets = _with_weights(whole, weights_CN[some.start : some.stop])

        objective = partial(_value, replica, answer, targets, targets.given(batch))

        def see(name: str, rows: Rows, some: range = some) -> None:
            consume(name, some, rows)

        backward(replica.modules, batch.shape, objective, see, sides_of(replica.model, batch))


def _value(replica: Replica, answer: EncodedAnswer, targets: Targets, given: Batch) -> Tensor:
    """The sum of some f_c, each of a row of its own."""
    logits = target_logits(forward_logits(replica.model, given), targets)
    measured_N = MEASUREMENTS[answer.measurement](logits, targets.labels_N)
    return targets.by_sequence(measured_N).sum()


def _weights(answer: EncodedAnswer, ends: tuple[int, ...]) -> NDArray[np.float64]:
    """How much of what is measured of each token is in each f_c [C, N]."""
    shares_N = np.ones(answer.n_targets) if answer.shares is None else np.array(answer.shares)
    part_N = np.searchsorted(ends, np.arange(answer.n_targets), side="right")
    ours_CN = part_N == np.arange(len(ends))[:, None]
    weights_CN: NDArray[np.float64] = ours_CN * shares_N * answer.weight
    return weights_CN


def _with_weights(targets: Targets, weights_BN: NDArray[np.float64]) -> Targets:
    """The targets that have a weight, with it; what no part needs of a row is not computed."""
    kept = np.flatnonzero(weights_BN)
    device = targets.places_N.device
    kept_N = torch.from_numpy(kept).to(device)
    return replace(
        targets,
        places_N=targets.places_N[kept_N],
        labels_N=targets.labels_N[kept_N],
        sequences_N=targets.sequences_N[kept_N],
        counts_B=(weights_BN != 0).sum(axis=1),
        weights_N=torch.from_numpy(weights_BN.flatten()[kept]).to(device),
    )
