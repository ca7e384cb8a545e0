"""Representer points of a split: what the last layer sees of it, and values of its sequences.

No gradients: a forward pass, and products with what queries keep.

N target, B sequence in batch, Q query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.scored import Scored, finite_scores
from rayinfluence.influence.representers import Points, RepresenterBank
from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import Targets


def target_bytes(replica: Replica) -> int:
    """Of what the last layer sees of a target, which is in float32 or wider."""
    width: int = replica.last_layer.weight_VD.shape[1]
    return width * accumulation_dtype(replica.numerics.torch_dtype).itemsize


def points_of(
    replica: Replica,
    table: pa.Table,
    quarantine: Quarantine,
    advance: Callable[[int], None],
) -> Iterator[tuple[Batch, Targets, Points]]:
    """What the last layer sees of the rows of a split, batch by batch.

    Sequences of which that is not finite are quarantined; in their batch they have no targets.
    """
    for batch in replica.batches(table, quarantine):
        targets = replica.trained_on.targets(batch)
        features_ND = replica.last_layer.features(replica.model, batch, targets)
        advance(batch.n_tokens)
        bad_N = ~torch.isfinite(features_ND).all(dim=1)
        for row in torch.unique(targets.sequences_N[bad_N.to(targets.sequences_N.device)]).tolist():
            quarantine[int(batch.sequence_ids[row])] = "what its last layer sees is not finite"
        there = features_ND.device
        weights_N = None if targets.weights_N is None else targets.weights_N.to(there)
        yield batch, targets, Points(features_ND, targets.labels_N.to(there), weights_N)


def score_representers(
    replica: Replica,
    bank: RepresenterBank,
    table: pa.Table,
    advance: Callable[[int], None],
) -> Scored:
    """The values of all rows of a split that the model takes: sums over their targets."""
    quarantine: Quarantine = {}
    found = [
        (batch, by_sequence(targets, bank.values(points)).numpy())
        for batch, targets, points in points_of(replica, table, quarantine, advance)
    ]
    return finite_scores(found, len(bank), quarantine)


def by_sequence(targets: Targets, values_NQ: Tensor) -> Tensor:
    """Sums over the targets of each sequence [B, Q]."""
    totals_BQ = values_NQ.new_zeros(len(targets.counts_B), values_NQ.shape[1])
    return totals_BQ.index_add_(0, targets.sequences_N.cpu(), values_NQ)
