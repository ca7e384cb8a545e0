"""All scores of a split, where a run keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Folder of the run directory with one for each bank, and what says there which queries it has.
BANKS, BANK_MANIFEST = "scan", "manifest.json"
#: Folder of a bank.
SCORES = "scores"


def scores_key(split_digest: str) -> str:
    """Where a bank keeps all scores of a split, when it keeps them."""
    return f"{SCORES}/{split_digest}.parquet"


def error_column(query_digest: str) -> str:
    """Of means over seeds, the column of standard errors beside that of a query's means."""
    return f"{query_digest}-se"


def dense_table(
    query_digests: Sequence[str], ids_N: NDArray[np.int64], scores_NQ: NDArray[np.float64]
) -> pa.Table:
    """All scores of a split as float32, a row per sequence in the order of ids; null for NaN.

    Columns are ``sequence_id`` and one per query, named by its digest, so that a query can be read
    without the others.
    """
    order = np.argsort(ids_N)
    scores_QN = scores_NQ[order].T.astype(np.float32)
    arrays = [
        pa.array(scores_N, mask=nan_N if (nan_N := np.isnan(scores_N)).any() else None)
        for scores_N in scores_QN
    ]
    columns = dict(zip(query_digests, arrays, strict=True))
    return pa.table({"sequence_id": pa.array(ids_N[order]), **columns})
