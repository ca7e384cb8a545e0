"""Token influences of the second pass: pairs of a row and a query, a query at a time.

T token; K kind of influence: output, input, embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rayinfluence.corpus.shards import masks_of, sequences_of
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import DenseQueries, QueryBank
from rayinfluence.model.batches import make_batch, plan_batches

#: A batch has this share of the tokens of others: a backward pass that can be differentiated keeps
#: some four times as much as one that cannot, and logits of all targets exist at once.
_SHARE = 8
#: What rounding may do to their sum, as a share of all of them; in bfloat16 it is some per cent.
_APART = 0.25


def pairs_token_influences(
    replica: Replica,
    bank: QueryBank,
    table: pa.Table,
    pairs: Mapping[int, tuple[int, int]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[int, NDArray[np.float64]]:
    """Output-token, input-token and embedding influences [K, T] of some pairs.

    Args:
        replica: the model.
        bank: queries at full rank.
        table: rows; all have been scored before.
        pairs: row and query of each, by any number.
        advance: told of the tokens of each batch.

    Returns:
        By the number of the pair.

    Raises:
        NumericsError: some of them are not finite.
    """
    sequences, masks = sequences_of(table), masks_of(table)
    ids = table["sequence_id"].to_numpy()
    found: dict[int, NDArray[np.float64]] = {}
    for query in sorted({query for _, query in pairs.values()}):
        ours = [number for number, pair in pairs.items() if pair[1] == query]
        directions = {}
        for name, module in bank.modules.items():
            assert isinstance(module, DenseQueries)
            directions[name] = module.matrix_QOJ[query]
        lengths = [len(sequences[pairs[number][0]]) for number in ours]
        for members in plan_batches(lengths, replica.numerics.batch_tokens // _SHARE):
            numbers = [ours[member] for member in members]
            rows = [pairs[number][0] for number in numbers]
            batch = make_batch(
                [sequences[row] for row in rows],
                ids[rows].tolist(),
                replica.device,
                masks and [masks[row] for row in rows],
            )
            one = replica.token_influences(batch, directions)
            kinds = one.output_BT, one.input_BT, one.embedding_BT
            of_batch_BKT = torch.stack(kinds, dim=1).double().cpu().numpy()
            for number, row_KT, length in zip(numbers, of_batch_BKT, batch.lengths_B, strict=True):
                found[number] = row_KT[:, :length].copy()
            advance(batch.n_tokens)
    for number, row_KT in found.items():
        if not np.isfinite(row_KT).all():
            sequence_id = table["sequence_id"][pairs[number][0]].as_py()
            raise NumericsError(
                f"sequence {sequence_id} was scored, and its token influences are not finite: they "
                "are second derivatives, and overflow sooner than scores. Set `dtype: float32`, or "
                "leave `scan.token_influences` out."
            )
    return found


def refuse_other_sums(
    found: Mapping[int, NDArray[np.float64]], scores_P: NDArray[np.float64]
) -> None:
    """Refuse output-token influences that do not add up to their scores.

    The checks at the start ran on the driver, and on another device a model may have other code.

    Args:
        found: influences [K, T] by pair.
        scores_P: at full rank.

    Raises:
        NumericsError: with the sum and the score.
    """
    for place, (output_T, *_) in found.items():
        score, total = float(scores_P[place]), float(output_T.sum())
        if not abs(total - score) <= _APART * (abs(score) + np.abs(output_T).sum()):
            raise NumericsError(
                f"output-token influences of a sequence add up to {total:.4g}, and its score is "
                f"{score:.4g}: on this device a part of the model's backward pass cannot be "
                "differentiated. Leave `scan.token_influences` out."
            )
