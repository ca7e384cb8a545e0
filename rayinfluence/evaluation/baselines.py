"""Baselines that are no methods of a scan: likeness of hidden states, and chance.

The likeness of a sequence z to an answer a is the cosine of their mean last hidden states, what the
output head sees, over all tokens of z, and of a's prompt and completion; a query of several answers
has the sum of theirs with its weights. It knows the model and nothing of training. Source: Hanawa
et al. 2021, who compare hidden states as well as gradients.

Picklable; no Ray.

B sequence in batch, T token, D width of hidden states, N sequence of a split, A answer, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.scoring import copies
from rayinfluence.dataflow.jobs.watch import Watch
from rayinfluence.errors import ConfigError
from rayinfluence.model.batches import Batch
from rayinfluence.model.head import LanguageModel
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import dense_table, scores_key
from rayinfluence.storage.store import Store, write_table

#: How the baselines are called where methods have names.
HIDDEN_STATE, RANDOM = "hidden_state", "random"
#: Raised whenever the same texts would have another likeness.
HIDDEN_VERSION = 1


@dataclass
class HiddenJob:
    """Scores splits by hidden states, and keeps every score as a scan with dense scores does.

    Attributes:
        corpus: where the splits are.
        store: for the scores.
        queries: that are asked.
    """

    corpus: Store
    store: Store
    queries: Sequence[EncodedQuery]
    stage: ClassVar[str] = stage_names.HIDDEN
    _model: LanguageModel | None = None
    _answers_QD: list[Tensor] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Have the model's body, and the hidden states of the queries."""
        self._model = body_of(replica)
        with torch.no_grad():
            self._answers_QD = [
                sum_of_answers(replica, self._model, query) for query in self.queries
            ]

    def run(self, replica: Replica, split: Split, watch: Watch) -> Split:
        """Score one split, and commit."""
        assert self._model is not None
        table, quarantine = read_split(self.corpus, split), Quarantine()
        ids, found = [], []
        for batch in replica.batches(table, quarantine):
            with torch.no_grad():
                unit_BD = _unit(means(self._model, batch))
            found.append((unit_BD @ torch.stack(self._answers_QD, dim=1)).cpu().numpy())
            ids.append(batch.sequence_ids)
            watch.advance(batch.n_tokens)
        ids_N = np.concatenate([np.zeros(0, np.int64), *ids])
        scores_NQ = np.concatenate([np.zeros((0, len(self.queries))), *found])
        digests = [query.digest for query in self.queries]
        write_table(self.store, scores_key(split.digest), dense_table(digests, ids_N, scores_NQ))
        return split


def body_of(replica: Replica) -> LanguageModel:
    """The model as what makes hidden states, and a head.

    Raises:
        ConfigError: its head does not stand apart.
    """
    found = LanguageModel.of(replica.model, ())
    if found.body is None:
        raise ConfigError(
            f"{type(replica.model).__name__} has no output head apart from its body, and so no "
            "last hidden state that could be compared."
        )
    return found


def means(model: LanguageModel, batch: Batch) -> Tensor:
    """The mean last hidden state of each sequence, over its real tokens [B, D], in float64."""
    hidden_BTD = model.hidden(batch).double()
    real_BT1 = batch.real_BT[:, :, None]
    total_BD: Tensor = (hidden_BTD * real_BT1).sum(dim=1)
    return total_BD / real_BT1.sum(dim=1)


def sum_of_answers(replica: Replica, model: LanguageModel, query: EncodedQuery) -> Tensor:
    """What a sequence's state of length 1 is multiplied with: answers of length 1, weighted [D]."""
    states = []
    for answer in query.answers:
        batch, _ = copies(replica, answer, 1)
        states.append(answer.weight * _unit(means(model, batch))[0])
    return torch.stack(states).sum(dim=0)


def _unit(states_BD: Tensor) -> Tensor:
    """States of length 1; NaN, and so without a score, where a state is zero."""
    unit_BD: Tensor = states_BD / states_BD.norm(dim=1, keepdim=True)
    return unit_BD


def random_scores(ids_N: NDArray[np.int64], query_digest: str, seed: int) -> NDArray[np.float64]:
    """Scores by chance: the same for the same sequences, query and seed, whatever else is asked."""
    key = int(digest(["random", seed, query_digest]), 16)
    drawn_N = np.random.Philox(key=key).random_raw(len(ids_N))
    return drawn_N.astype(np.float64) / 2**64
