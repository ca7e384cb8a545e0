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


def completion_log_probability(replica: Replica, query: EncodedQuery) -> float:
    """The log of p(completion | prompt) of a plain query, in nats, by a forward pass alone."""
    [answer] = query.answers
    tokens = torch.tensor([answer.tokens], device=replica.device)
    with torch.no_grad():
        logits = forward_logits(replica.model, unpadded(tokens))[0, answer.first_target - 1 : -1]
    return float(log_probabilities(logits.double(), tokens[0, answer.first_target :]).sum())
