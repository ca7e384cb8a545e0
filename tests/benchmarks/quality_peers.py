"""EK-FAC of others on the banks of docs/quality.md: LDS beside ours.

    python tests/benchmarks/quality_peers.py runs/quality/demo/config.yaml [--peer bergson]

Scores are of the model that `rayinfluence evaluate` has trained, by kronfluence 1.0.1, bergson
2.5.1 or dattri-llm 0.1.0 in float32 at a damping of 0.1 * mean(Lambda) of each module, with labels
drawn from the model, for the modules that the run tracks; but for bergson's, sequences one at a
time, so that nothing is padded. They are compared with the same table of trainings, by the same
arithmetic. Each peer is in an environment of its own, as `make bench` makes it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.config import RunConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.asked import Answers, protocols, weights
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.intervals import mean_interval
from rayinfluence.evaluation.lds import linear_scores, predicted
from rayinfluence.testing.models import linear_for_conv1d


class _Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Token ids, where what is asked begins, and where padding does.

    Queries are padded to one length, as each of their batches is a pass over the corpus.
    """

    def __init__(self, rows: list[tuple[NDArray[Any], int]], is_padded: bool = False) -> None:
        self.rows = rows
        self.n_tokens = max(len(tokens) for tokens, _ in rows) if is_padded else 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens, first = self.rows[index]
        padding = max(self.n_tokens - len(tokens), 0)
        return {
            "tokens": torch.as_tensor(np.pad(np.asarray(tokens, np.int64), (0, padding))),
            "first": torch.tensor(first),
            "end": torch.tensor(len(tokens)),
        }


@dataclass(frozen=True)
class OnBank:
    """A bank as a shape of the other benchmarks, which models are built of and tokens read from."""

    model: nn.Module
    names: list[str]
    documents: list[NDArray[Any]]
    asked: list[EncodedQuery]
    device: str = "cpu"

    @property
    def queries(self) -> tuple[int]:
        """How many."""
        return (len(self.asked),)

    def build(self) -> nn.Module:
        """The model."""
        return self.model

    def sequences(self) -> list[NDArray[Any]]:
        """Of the corpus."""
        return self.documents

    def answers(self) -> list[tuple[NDArray[Any], int]]:
        """Tokens of queries, and where what is asked begins."""
        found = [one.answers[0] for one in self.asked]
        return [(np.asarray(one.tokens, np.int64), one.first_target) for one in found]


def by_bergson(bank: OnBank) -> NDArray[np.float64]:
    """Scores [N, Q] by bergson; it finds layers within the base model alone, so no output's."""
    from peer_bergson import Bergson

    peer = Bergson(bank, bank.names)
    peer.prepare("scan-1")
    peer.run("scan-1")
    return peer.scores.double().numpy()


def by_dattri(bank: OnBank) -> NDArray[np.float64]:
    """Scores [N, Q] by dattri-llm."""
    from peer_dattri import Dattri

    peer = Dattri(bank, bank.names)
    peer.prepare("scan-1")
    peer.run("scan-1")
    return peer.scores.double().numpy()


def by_kronfluence(bank: OnBank) -> NDArray[np.float64]:
    """Scores [N, Q] by kronfluence; of the output embedding, its own use of a tied weight."""
    model, names, sequences = bank.model, bank.names, bank.documents
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class LanguageModelling(Task):
        def compute_train_loss(
            self, batch: dict[str, Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            tokens = batch["tokens"]
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
            labels = tokens[:, 1:].flatten()
            if sample:
                labels = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
            places = torch.arange(1, tokens.shape[1])
            counts = (places >= batch["first"][:, None]) & (places < batch["end"][:, None])
            labels = labels.masked_fill(~counts.flatten(), -100)
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
            places = torch.arange(batch["tokens"].shape[1])
            return (places < batch["end"][:, None]).long()

    for weight in model.parameters():
        weight.requires_grad_(True)
    task = LanguageModelling()
    torch.manual_seed(0)
    train = _Rows([(tokens, 1) for tokens in sequences])
    asked = _Rows(bank.answers(), is_padded=True)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "quality",
            prepare_model(model, task),
            task,
            cpu=True,
            disable_tqdm=True,
            output_dir=folder,
        )
        analyzer.fit_all_factors(
            "ekfac",
            train,
            per_device_batch_size=1,
            factor_args=FactorArguments(strategy="ekfac", amp_dtype=None),
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            query_dataset=asked,
            train_dataset=train,
            per_device_query_batch_size=len(asked),
            per_device_train_batch_size=1,
            score_args=ScoreArguments(damping_factor=None, amp_dtype=None),
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"]
    scores_NQ: NDArray[np.float64] = found.T.double().numpy()
    return scores_NQ


PEERS: dict[str, Callable[[OnBank], NDArray[np.float64]]] = {
    "kronfluence": by_kronfluence,
    "bergson": by_bergson,
    "dattri": by_dattri,
}


def rows_of(run: Run, ids_N: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """Token ids of sequences, by ascending ids."""
    for split in run.corpus.plan(run.numerics.split_tokens):
        table = read_split(run.corpus_store, split)
        ids = split.sequence_ids
        for one, tokens in zip(ids.tolist(), sequences_of(table), strict=True):
            if one in set(ids_N.tolist()):
                yield tokens


def main() -> None:
    """Print LDS by protocol as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--peer", choices=PEERS, default="kronfluence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Run(RunConfig.load(options.config)) as run:
        farm = Farm(run)
        answers = Answers(farm.asked_for())
        names = list(run.replica.modules)
        model = linear_for_conv1d(run.replica.model)
        bank = OnBank(model, names, list(rows_of(run, farm.ids_N)), list(farm.queries))
        scores_NQ = PEERS[options.peer](bank)
        print(f"| protocol | {options.peer}, EK-FAC |\n| --- | --- |")
        for name, rows in protocols(farm.planned()).items():
            said_SQ = predicted(weights(rows[0], farm.ids_N), scores_NQ)
            lds = mean_interval(linear_scores(said_SQ, answers.by_seed(rows)))
            assert lds is not None
            print(f"| {name} | {lds.mean:.3f} ({lds.low:.3f} to {lds.high:.3f}) |")


if __name__ == "__main__":
    main()
