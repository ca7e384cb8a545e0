"""Distances of hidden states at all places of the corpus from those where a query is answered.

One pass over the corpus, split by split; values by nearest neighbours need all distances of a token
of a completion together, so that they are kept, a number for each place and such token, and put
together token by token.

Picklable; no Ray.

P place that predicts a token, A token of a completion, D width of hidden states, N sequence,
Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.scoring import copies
from rayinfluence.dataflow.jobs.watch import Watch
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.baselines import body_of
from rayinfluence.evaluation.passes import pass_over
from rayinfluence.evaluation.shapley.neighbours import neighbour_values
from rayinfluence.model.batches import Batch
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.targets import Targets
from rayinfluence.objective_kinds import CAUSAL, KINDS
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors

#: Raised whenever the same texts would have other distances.
NEIGHBOURS_VERSION = 1
#: By differences: by products, distances of equal states differ by more than is cut off.
_EXACT = "donot_use_mm_for_euclid_dist"
#: Bytes of distances that are kept of a corpus.
_MOST_BYTES = 1 << 35
_KEY = "evaluation.shapley.neighbours"


@dataclass
class NeighbourJob:
    """Keeps the distances of a split's places.

    Attributes:
        corpus: where the splits are.
        store: for the distances.
        queries: that are asked.
    """

    corpus: Store
    store: Store
    queries: Sequence[EncodedQuery]
    stage: ClassVar[str] = stage_names.HIDDEN
    _model: LanguageModel | None = None
    _asked_AD: Tensor | None = None

    def prepare(self, replica: Replica) -> None:
        """Have the model's body, and hidden states where completions are predicted."""
        self._model = body_of(replica)
        found = []
        with torch.no_grad():
            for one in answers_of(self.queries):
                batch, targets = copies(replica, one, 1)
                found.append(_states(self._model, batch, targets))
        self._asked_AD = torch.cat(found)

    def run(self, replica: Replica, split: Split, watch: Watch) -> Split:
        """Measure one split, and commit."""
        assert self._model is not None
        assert self._asked_AD is not None
        table, quarantine = read_split(self.corpus, split), Quarantine()
        ids, tokens = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        distances = [torch.zeros(len(self._asked_AD), 0)]
        for batch in replica.batches(table, quarantine):
            targets = replica.trained_on.targets(batch)
            with torch.no_grad():
                states_PD = _states(self._model, batch, targets)
                near_AP = torch.cdist(self._asked_AD, states_PD, compute_mode=_EXACT)
                # The same beginnings have the same states up to rounding, which is cut off here:
                # they are equally near, whatever batches they were in.
                distances.append(near_AP.float().cpu())
            tokens.append(targets.labels_N.cpu())
            ids.append(torch.from_numpy(batch.sequence_ids)[targets.sequences_N.cpu()])
            watch.advance(batch.n_tokens)
        # In the order of the corpus, by which the earlier of equally near places is the nearer.
        ids_P = torch.cat(ids)
        order_P = ids_P.argsort(stable=True)
        found = {
            "ids": ids_P[order_P],
            "tokens": torch.cat(tokens)[order_P],
            "distances": torch.cat(distances, dim=1)[:, order_P],
        }
        write_tensors(self.store, layout.neighbours_key(split.digest), found, {})
        return split


def answers_of(queries: Sequence[EncodedQuery]) -> list[EncodedAnswer]:
    """All answers of all queries, in their order."""
    return [answer for query in queries for answer in query.answers]


def neighbour_scores(
    run: Run, queries: Sequence[EncodedQuery], ids_N: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Values of sequences [N, Q], in shares of the vote of k neighbours.

    Of a query it is the mean over the tokens of its completion that count; of one of several
    answers the sum of theirs with its weights.

    Args:
        run: with its model and its corpus.
        queries: that are asked.
        ids_N: of the sequences that are wanted, ascending.
        k: how many places vote.

    Raises:
        ConfigError: the model predicts no next tokens, has no hidden states apart from its head,
            or there are more distances than are kept.
    """
    if run.inputs.kind != CAUSAL:
        raise ConfigError(
            f"{_KEY}: neighbours vote on the next token, and the model is a "
            f"{KINDS[run.inputs.kind].model}. Leave the key out."
        )
    answers = answers_of(queries)
    splits = run.corpus.plan(run.numerics.split_tokens)
    n_asked = sum(answer.n_targets for answer in answers)
    n_bytes = 4 * n_asked * sum(split.n_tokens for split in splits)
    if n_bytes > _MOST_BYTES:
        raise ConfigError(
            f"{_KEY}: distances of {n_asked:,} tokens of completions from all tokens of the corpus "
            f"would take {n_bytes / 2**30:,.0f} GiB, and {_MOST_BYTES >> 30} are kept at most. Ask "
            "fewer queries, or a part of the corpus (`corpus.sample`)."
        )
    job = _measured(run, queries)
    scores_NQ, n_places = _merged(job, splits, queries, ids_N, k)
    if said := who_votes(k, n_places):
        run.progress.warn(said)
    return scores_NQ


def who_votes(k: int, n_places: int) -> str | None:
    """What to say where no place is too far to vote; None where some are.

    Values are defined there (each is 1 / K where the place has the right token, and else 0), and
    say how often the corpus has the token, whatever is near.

    Args:
        k: how many vote.
        n_places: that there are.
    """
    if k < n_places:
        return None
    return (
        f"{_KEY}: {k:,} vote, and the corpus has {n_places:,} places: all of them do, however far, "
        "so that values count how often the corpus has a completion's tokens, and nothing else. "
        "10 is a usual number."
    )


def _measured(run: Run, queries: Sequence[EncodedQuery]) -> NeighbourJob:
    """Distances of all splits, as far as they are not there; where they are."""
    made_of = {
        "neighbours": NEIGHBOURS_VERSION,
        "model": run.model_digest,
        "queries": [query.digest for query in queries],
        "numerics": asdict(run.numerics),
    }
    store = run.store / layout.EVALUATION / digest(made_of)
    job = NeighbourJob(run.corpus_store, store, queries)
    pass_over(run, job, store, layout.neighbours_key)
    return job


def _merged(
    job: NeighbourJob,
    splits: Sequence[Split],
    queries: Sequence[EncodedQuery],
    ids_N: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.float64], int]:
    """Values by token of a completion, added up to sequences and queries; of how many places."""
    found = [read_tensors(job.store, layout.neighbours_key(split.digest))[0] for split in splits]
    ids_P, tokens_P = (
        np.concatenate([one[name].numpy() for one in found]) for name in ("ids", "tokens")
    )
    wanted_P = np.isin(ids_P, ids_N)
    rows_P = np.searchsorted(ids_N, ids_P[wanted_P])
    scores_NQ = np.zeros((len(ids_N), len(queries)))
    asked = 0
    for place, query in enumerate(queries):
        for answer in query.answers:
            counted = [bool(one) for one in answer.counted]
            for token, counts in zip(answer.completion, counted, strict=True):
                if counts:
                    near_P = np.concatenate([one["distances"][asked].numpy() for one in found])
                    right_P = tokens_P[wanted_P] == token
                    values_P = neighbour_values(near_P[wanted_P], right_P, k)
                    share = answer.weight / sum(counted)
                    scores_NQ[:, place] += share * np.bincount(rows_P, values_P, len(ids_N))
                asked += 1
    return scores_NQ, int(wanted_P.sum())


def _states(model: LanguageModel, batch: Batch, targets: Targets) -> Tensor:
    """Hidden states where targets are predicted [P, D], in float64."""
    hidden_BTD = model.hidden(targets.given(batch))
    return hidden_BTD.flatten(0, 1).index_select(0, targets.places_N).double()
