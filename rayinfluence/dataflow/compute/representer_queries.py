"""Representer points of queries, and of what survived for them.

N target, D feature, K asked target, B sequence in batch, P pair of row and query, T token.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.objectives import of_measurements
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.representing import by_sequence, points_of
from rayinfluence.dataflow.compute.rescoring import Rescored
from rayinfluence.dataflow.compute.scoring import copies
from rayinfluence.errors import NumericsError
from rayinfluence.influence.representers import RepresenterBank
from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import Targets
from rayinfluence.objective_kinds import CLASSIFICATION, OF_ROWS


def query_points(replica: Replica, query: EncodedQuery) -> dict[str, Tensor]:
    """What a bank has of a query: ``features``, ``labels`` and ``coefficients`` of its targets.

    A coefficient is what the query multiplies the token's measurement with.

    Raises:
        NumericsError: what the last layer sees of it is not finite.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for answer in query.answers:
        batch, targets = copies(replica, answer, 1)
        features_KD = replica.last_layer.features(replica.model, batch, targets)
        ones_K = torch.ones(len(features_KD), dtype=torch.float64, requires_grad=True)
        (coefficients_K,) = torch.autograd.grad(of_measurements(answer, ones_K), ones_K)
        parts.append((features_KD.cpu(), targets.labels_N.cpu(), coefficients_K))
    features_KD, labels_K, coefficients_K = (torch.cat(part) for part in zip(*parts, strict=True))
    if not bool(torch.isfinite(features_KD).all()):
        raise NumericsError(
            f"query {query.query.query_id!r}: what the last layer sees of it is not finite; try "
            "`dtype: float32`, or another query."
        )
    return {"features": features_KD, "labels": labels_K, "coefficients": coefficients_K}


def logits_of(
    replica: Replica, points: Mapping[str, Tensor], fitted: Mapping[str, Tensor]
) -> dict[str, float]:
    """What a query asks for, of logits that are less their mean over the classes.

    Args:
        replica: the model.
        points: of the query, as :func:`query_points` made them.
        fitted: the last layer: ``weight`` and ``residual``.

    Returns:
        ``model``: by the model's own layer. ``fitted``: by the one that was fitted again.
        ``represented``: the sum of all values, which is that but for what is left of a gradient.
    """
    own_VD = replica.last_layer.weight_VD.double().cpu()
    features_KD, labels_K = points["features"].double(), points["labels"]

    def asked(weight_KD: Tensor) -> float:
        return float((weight_KD * features_KD).sum(dim=1) @ points["coefficients"])

    found = asked(fitted["weight"][labels_K])
    return {
        "model": asked(own_VD[labels_K] - own_VD.mean(dim=0)),
        "fitted": found,
        "represented": found - asked(fitted["residual"][labels_K]),
    }


def rescore_representers(
    replica: Replica,
    bank: RepresenterBank,
    table: pa.Table,
    rows_P: NDArray[np.int64],
    queries_P: NDArray[np.int64],
    by_token_P: NDArray[np.bool_],
) -> Rescored:
    """Score pairs of rows and queries; nothing of a query was cut, so both scores are one.

    Args:
        replica: the model.
        bank: of the queries.
        table: of the rows, in the order of their ids.
        rows_P: of the pairs, in the order of rows and then queries.
        queries_P: of the pairs.
        by_token_P: which of them by token, too.
    """
    wanted = np.unique(rows_P)
    rows = table.take(pa.array(wanted))
    ids, lengths = rows["sequence_id"].to_numpy(), rows["n_tokens"].to_numpy()
    asked_P, rows_P = rows_P, np.searchsorted(wanted, rows_P)
    scores_NQ = np.zeros((len(wanted), len(bank)))
    by_token: dict[int, NDArray[np.float64]] = {}
    for batch, targets, points in points_of(replica, rows, {}, lambda tokens: None):
        values_NQ = bank.values(points)
        places_B = np.searchsorted(ids, batch.sequence_ids)
        scores_NQ[places_B] = by_sequence(targets, values_NQ).numpy()
        sequences_N = places_B[targets.sequences_N.cpu().numpy()]
        tokens_N = _tokens(replica, batch, targets)
        for place in np.flatnonzero(by_token_P & np.isin(rows_P, places_B)).tolist():
            ours_N = sequences_N == rows_P[place]
            scores_T = np.zeros(int(lengths[rows_P[place]]))
            scores_T[tokens_N[ours_N]] = values_NQ.numpy()[ours_N, queries_P[place]]
            by_token[place] = scores_T
    scores_P = scores_NQ[rows_P, queries_P]
    return Rescored(asked_P, queries_P, scores_P.reshape(-1, 1), scores_P.copy(), by_token)


def _tokens(replica: Replica, batch: Batch, targets: Targets) -> NDArray[np.int64]:
    """At which token of its sequence each target is predicted; a class at the last."""
    if replica.numerics.objective in (CLASSIFICATION, *OF_ROWS):
        last_N: NDArray[np.int64] = batch.lengths_B[targets.sequences_N.cpu().numpy()] - 1
        return last_N
    places_N: NDArray[np.int64] = targets.places_N.cpu().numpy() % batch.shape[1]
    return places_N
