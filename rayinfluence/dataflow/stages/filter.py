"""A filter before the scan: candidates, and what a random sample says that they miss.

What is cheap says which sequences are scored by the methods. The candidates of all queries are
scanned together, and each query against all of them, since one pass serves all queries. What is
missed is estimated by a pass over a random sample, candidates or not, whose scores are all kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.stages.scanned import Ids, Scanned, union
from rayinfluence.dataflow.stages.select import narrowed, sampled
from rayinfluence.errors import CorpusError
from rayinfluence.influence.recall import CONFIDENCE, Recall, certified_top, recall
from rayinfluence.methods.registry import METHODS, TEXT_METHODS
from rayinfluence.storage.results import SCORES, Results, scores_key
from rayinfluence.storage.store import read_table

#: A pass over some splits with a configuration of its own, for a use that its banks are named by.
Pass = Callable[[ScanConfig, Sequence[Split], str], list[Scanned]]
#: The uses: to find candidates, and to say what they miss.
FILTER, RECALL = "filter", "recall"

_OVERLAP = (
    "candidates by {method} share tokens with a query: a sequence that matters to it without a "
    "token in common, such as a paraphrase or a translation, is not among them."
)


@dataclass(frozen=True)
class Filtered:
    """Splits with their candidates alone, and what is known of the others.

    Attributes:
        splits: those that have a candidate.
        method: that the candidates are by.
        run: whose survivors they are, if another run's.
        top: of each query.
        n_sequences: that there were.
        n_candidates: that are left.
        n_sampled: of the random sample.
        n_top: what recall is of.
        recall: by method, query and direction.
        warning: what such a filter is blind to, if it is.
    """

    splits: Sequence[Split]
    method: str
    run: str | None
    top: int
    n_sequences: int
    n_candidates: int
    n_sampled: int
    n_top: int
    recall: Mapping[str, Mapping[str, Mapping[str, Recall]]] = field(default_factory=dict)
    warning: str | None = None

    def report(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "method": self.method,
            "run": self.run,
            "top": self.top,
            "sequences": self.n_sequences,
            "candidates": self.n_candidates,
            "filtered_out": self.n_sequences - self.n_candidates,
            "sampled": self.n_sampled,
            "confidence": CONFIDENCE,
            "top_sequences": self.n_top,
            "recall": {
                method: {
                    query: {side: asdict(known) for side, known in sides.items()}
                    for query, sides in queries.items()
                }
                for method, queries in self.recall.items()
            },
        }

    @property
    def line(self) -> str:
        """What the progress says of it."""
        known = [of["proponent"] for queries in self.recall.values() for of in queries.values()]
        worst = min(one.at_least for one in known)
        return (
            f"candidates   {self.n_candidates:,} of {self.n_sequences:,} sequences; of each "
            f"query's first {self.n_top:,} at least {worst:.0%} are among them (each with "
            f"{CONFIDENCE:.0%}, by {self.n_sampled:,} at random)"
        )


def cheap_pass(config: ScanConfig) -> ScanConfig | None:
    """The pass that finds candidates; None where there is none."""
    wanted = config.candidates
    if wanted is None or wanted.run is not None:
        return None
    assert wanted.method is not None  # as the configuration has been told
    return plain(config, [wanted.method], wanted.top, "survivors")


def plain(
    config: ScanConfig, methods: Sequence[str], top: int, scores: Literal["survivors", "dense"]
) -> ScanConfig:
    """A configuration whose passes make no tables."""
    changed = {"methods": list(methods), "top": top, "scores": scores}
    return config.model_copy(update={**changed, "group_by": [], "candidates": None})


def filter_splits(
    config: ScanConfig,
    splits: Sequence[Split],
    queries: Sequence[EncodedQuery],
    scan: Pass,
    earlier: Results | None,
    seed: int,
) -> Filtered:
    """Find the candidates, and score a random sample to say what they miss.

    Args:
        config: of the scan, and of how candidates are found.
        splits: with the sequences to choose from.
        queries: that are asked.
        scan: makes passes.
        earlier: results of another run, where the candidates are its survivors.
        seed: of the sample.

    Raises:
        CorpusError: nothing is a candidate.
    """
    wanted, cheap = config.candidates, cheap_pass(config)
    method: str
    assert wanted is not None
    if cheap is not None:
        method, ids = cheap.methods[0], _best(scan(cheap, splits, FILTER), queries)
    else:
        assert earlier is not None
        method, ids = earlier.method, _survivors(earlier, wanted.top)
    n_sequences = sum(split.n_rows for split in splits)
    left = narrowed(splits, ids)
    if not left:
        raise CorpusError(
            f"scan.candidates: none of the {n_sequences:,} sequences is a candidate by {method} "
            "for any query. Choose another method, or leave scan.candidates out."
        )
    sample = sampled(splits, wanted.sample, seed)
    n_top = certified_top(n_sequences, len(sample))
    in_sample = narrowed(splits, sample)
    scanned = scan(plain(config, config.exact, 1, "dense"), in_sample, RECALL)
    is_candidate_N = np.isin(sample, ids, assume_unique=True)
    found = {
        one.name: {
            query.query.query_id: {
                side: recall(is_candidate_N[order], n_sequences, n_top)
                for side, order in _orders(one, query, in_sample, sample).items()
            }
            for query in one.asked(queries)
        }
        for one in scanned
    }
    return Filtered(
        left,
        method,
        wanted.run,
        wanted.top,
        n_sequences,
        sum(split.n_rows for split in left),
        len(sample),
        n_top,
        found,
        _OVERLAP.format(method=method) if method in TEXT_METHODS else None,
    )


def _best(scanned: Sequence[Scanned], queries: Sequence[EncodedQuery]) -> Ids:
    """The first of each query, of both directions where scores have one."""
    found = []
    for one in scanned:
        for query in one.asked(queries):
            proponents, opponents = one.sides(query.digest)
            found.append(proponents.ids_K)
            if METHODS[one.method].meaning.directed:
                found.append(opponents.ids_K)
    return union(found)


def _survivors(earlier: Results, top: int) -> Ids:
    """The first of each query of another run, of both directions."""
    table = earlier.survivors
    ids = table.filter(pc.less_equal(table["rank"], top))["sequence_id"].to_numpy()
    return union([ids])


def _orders(
    scanned: Scanned, query: EncodedQuery, splits: Sequence[Split], sample: Ids
) -> dict[str, NDArray[np.int64]]:
    """By direction, the places in the sample from the strongest for a query to the weakest."""
    scores_N = np.full(len(sample), np.nan)
    (plan,) = [bank.plan for bank, _ in scanned.banks if query.digest in bank.plan.query_digests]
    there = plan.store.list(SCORES)
    for key in [key for split in splits if (key := scores_key(split.digest)) in there]:
        table = read_table(plan.store, key, ["sequence_id", query.digest])
        places = np.searchsorted(sample, table["sequence_id"].to_numpy())
        scores_N[places] = table[query.digest].to_numpy()
    sides = {"proponent": scores_N, "opponent": -scores_N}
    if not METHODS[scanned.method].meaning.directed:
        del sides["opponent"]
    # What has no score is nobody's best. Ties go by ids, as they do among survivors.
    return {
        side: np.lexsort((sample, -np.nan_to_num(of_side_N, nan=-np.inf)))
        for side, of_side_N in sides.items()
    }
