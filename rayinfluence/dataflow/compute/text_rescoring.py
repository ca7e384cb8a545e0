"""The second pass of methods that read texts: the same scores once more, and by token.

P pair of row and query, C part of a completion, T token of a sequence.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.dataflow.compute.rescoring import Rescored
from rayinfluence.dataflow.compute.texts import TextBank


def rescore_texts(
    bank: TextBank,
    table: pa.Table,
    rows_P: NDArray[np.int64],
    queries_P: NDArray[np.int64],
    by_token_P: NDArray[np.bool_],
) -> Rescored:
    """Score pairs of rows and queries; nothing of a query was cut, so both scores are one.

    Args:
        bank: of the queries.
        table: of the rows.
        rows_P: of the pairs, in the order of rows and then queries.
        queries_P: of the pairs.
        by_token_P: which of them by token, too.
    """
    sequences = sequences_of(table)
    rows_n, of_pair_P = np.unique(rows_P, return_inverse=True)
    scores_P = bank.scores([sequences[row] for row in rows_n.tolist()])[of_pair_P, queries_P]
    return Rescored(
        rows_P,
        queries_P,
        scores_P.reshape(-1, 1),
        scores_P.copy(),  # tensors that share memory cannot be written
        {
            place: bank.token_scores(int(queries_P[place]), sequences[int(rows_P[place])])
            for place in np.flatnonzero(by_token_P).tolist()
        },
    )


def text_pair_scores(
    bank: TextBank, query: EncodedQuery, ends: tuple[int, ...], sequence: NDArray[np.int32]
) -> NDArray[np.float64]:
    """A score by part of a completion and by token [C, T]: what the terms of the part add there.

    What a term adds is shared evenly by its occurrences in the query, so that over the parts, and
    the prompt, which is none, these are the scores by token.

    Args:
        bank: of the query alone.
        query: that has parts.
        ends: of those.
        sequence: tokens.
    """
    asked, completion = Counter(query.terms), query.answers[0].completion
    parts = [Counter(completion[start:end]) for start, end in pairwise((0, *ends))]
    tokens = sequence.tolist()
    shares_CT = np.array(
        [[part[t] / asked[t] if part[t] else 0.0 for t in tokens] for part in parts]
    )
    return shares_CT * bank.token_scores(0, sequence)
