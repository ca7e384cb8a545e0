"""The counting stage: how many sequences have each term of the queries, for methods of texts.

Shards that are added are counted alone; other queries have other terms, and so another folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.partial import FAN_IN
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.jobs.counts import CountTerms, MergeCounts
from rayinfluence.dataflow.layout import COUNTS, counts_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.damaged import Discarded
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

#: Raised whenever the same terms of the same split would be counted otherwise.
_VERSION = 1
#: Tokens that are counted sooner than a process that does it starts.
_FEW_TOKENS = 1 << 22


def count_terms(
    runner: Runner,
    corpus: Store,
    root: Store,
    splits: Sequence[Split],
    queries: Sequence[EncodedQuery],
    progress: ProgressLog,
) -> TermCounts:
    """Count the terms of all queries in every split that has not been counted, and add all up.

    Args:
        runner: where it runs; no model is needed.
        corpus: of the splits.
        root: the run directory.
        splits: of the corpus.
        queries: whose terms count.
        progress: told of it.

    Raises:
        CorpusError: a shard cannot be read.
        StorageError: counts that were made again are damaged again.
    """
    terms_V = np.unique([term for query in queries for term in query.terms]).astype(np.int64)
    store = root / COUNTS / digest({"version": _VERSION, "terms": terms_V.tolist()})
    small = sum(split.n_tokens for split in splits) <= _FEW_TOKENS
    count, merge = CountTerms(corpus, store, terms_V), MergeCounts(store, terms_V)

    def work(lacking: Sequence[Lacking[Split]], told: StageProgress) -> Iterator[Split]:
        for split in runner.tasks(count, [one.item for one in lacking], small):
            told.advance(split.n_tokens)
            yield split

    stage = Stage(
        stage_names.COUNTS,
        splits,
        lambda split: [Place(store, counts_key(split.digest))],
        work,
        n_tokens=lambda split: split.n_tokens,
    )
    digests = [split.digest for split in splits]
    leaves = [digests[start : start + FAN_IN] for start in range(0, len(digests), FAN_IN)]
    discarded = Discarded()
    while True:
        ensure(stage, progress)
        total = TermCounts.none(terms_V)
        damaged: list[str] = []
        for counts, bad in runner.tasks(merge, leaves, small):
            total = total.merge(counts)
            damaged += bad
        if not damaged:
            return total
        for key in damaged:
            discarded.discard(store, key)
