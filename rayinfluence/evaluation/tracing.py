"""Fact tracing: are the documents that state a fact among the first that an attribution names?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.model.batches import unpadded
from rayinfluence.model.head import forward_logits
from rayinfluence.model.losses import log_probabilities


def recall_at(ranked: Sequence[str], relevant: Collection[str], k: int = 10) -> float:
    """Hits among the first k over the most hits that there can be: hits / min(k, relevant).

    Args:
        ranked: document ids, best first; a document that comes again counts once.
        relevant: the documents that are right.
        k: how many are looked at.
    """
    if not relevant:
        raise ValueError("recall needs at least one relevant document")
    hits = len(set(ranked[:k]) & set(relevant))
    return hits / min(k, len(relevant))


def mean_recall(
    ranked: Mapping[str, Sequence[str]], relevant: Mapping[str, Collection[str]], k: int = 10
) -> float:
    """The mean of recall@k over queries, by query id."""
    return sum(recall_at(ranked[query], relevant[query], k) for query in ranked) / len(ranked)


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str]) -> float:
    """1 over the rank of the first document that is right; 0 where none is among the ranked.

    Args:
        ranked: document ids, best first; a document that comes again counts once.
        relevant: the documents that are right.
    """
    if not relevant:
        raise ValueError("a reciprocal rank needs at least one relevant document")
    found = (rank for rank, one in enumerate(dict.fromkeys(ranked), start=1) if one in relevant)
    rank = next(found, None)
    return 0.0 if rank is None else 1.0 / rank


def completion_log_probability(replica: Replica, query: EncodedQuery) -> float:
    """The log of p(completion | prompt) of a plain query, in nats, by a forward pass alone."""
    [answer] = query.answers
    tokens = torch.tensor([answer.tokens], device=replica.device)
    with torch.no_grad():
        logits = forward_logits(replica.model, unpadded(tokens))[0, answer.first_target - 1 : -1]
    return float(log_probabilities(logits.double(), tokens[0, answer.first_target :]).sum())
