"""Tail patches of all contenders: which sequences steps are made on, and what became of f.

Q query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import masks_of, sequences_of
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.select import narrowed
from rayinfluence.evaluation.claims import Claims
from rayinfluence.evaluation.tail_patch import Patch, PatchJob

#: Token ids of a sequence, and which of them the loss counts, where the corpus says so.
_Sequence = tuple[tuple[int, ...], NDArray[np.bool_] | None]


def patched(
    run: Run, queries: Sequence[EncodedQuery], said: Sequence[Claims]
) -> list[NDArray[np.float64]]:
    """The change of f of each query [Q] by a step on the first sequences of each contender.

    A step that several of them ask for is made once.

    Args:
        run: with its model.
        queries: that are asked.
        said: by the contenders.
    """
    wanted = {(query, ids): None for one in said for query, ids in enumerate(one.patched) if ids}
    sequences = _read(run, sorted({one for _, ids in wanted for one in ids}))
    items = []
    for number, (query, ids) in enumerate(wanted):
        tokens, masks = zip(*(sequences[one] for one in ids), strict=True)
        items.append(Patch(number, query, tokens, masks if _masked(run) else None))
    n_tokens = sum(len(tokens) for item in items for tokens in item.sequences)
    changes = np.full(len(items), np.nan)
    with run.progress.stage(stage_names.PATCH, n_tokens) as told:
        for number, change in run.runner.replicas(PatchJob(queries), items, told.advance):
            changes[number] = change
    numbers = {key: number for number, key in enumerate(wanted)}
    return [
        np.array([changes[numbers[query, ids]] for query, ids in enumerate(one.patched)])
        if all(one.patched)
        else np.full(len(queries), np.nan)
        for one in said
    ]


def _masked(run: Run) -> bool:
    return run.config.objective.loss != "all"


def _read(run: Run, ids: Sequence[int]) -> Mapping[int, _Sequence]:
    """Some sequences of the corpus, by their ids."""
    found: dict[int, _Sequence] = {}
    splits = run.corpus.plan(run.numerics.split_tokens)
    for split in narrowed(splits, np.array(ids, dtype=np.int64)):
        table = read_split(run.corpus_store, split)
        masks = masks_of(table)
        for row, tokens in enumerate(sequences_of(table)):
            mask = masks[row] if masks else None
            found[table["sequence_id"][row].as_py()] = tuple(tokens.tolist()), mask
    return found
