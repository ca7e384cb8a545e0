"""kronfluence's EK-FAC on the banks of docs/quality.md: LDS beside ours.

    python tests/benchmarks/quality_peers.py runs/quality/demo/config.yaml

Scores are of the model that `rayinfluence evaluate` has trained, by kronfluence 1.0.1 in float32 at
its heuristic damping (0.1 * mean(Lambda) of each module), with labels drawn from the model, for the
modules that the run tracks; sequences one at a time, so that nothing is padded. They are compared
with the same table of trainings, by the same arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
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
    """Token ids, and where what is asked begins."""

    def __init__(self, rows: list[tuple[NDArray[Any], int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens, first = self.rows[index]
        return {
            "tokens": torch.as_tensor(np.asarray(tokens, np.int64)),
            "first": torch.tensor(first),
        }


def theirs(
    model: nn.Module, names: list[str], sequences: list[Any], queries: list[EncodedQuery]
) -> NDArray[np.float64]:
    """Scores [N, Q] by kronfluence."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class LanguageModelling(Task):
        def compute_train_loss(
            self, batch: dict[str, Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            tokens, first = batch["tokens"], int(batch["first"][0])
            logits = (
                model(input_ids=tokens, use_cache=False).logits[:, first - 1 : -1].flatten(0, 1)
            )
            labels = tokens[:, first:].flatten()
            if sample:
                labels = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: dict[str, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.ones_like(batch["tokens"])

    for weight in model.parameters():
        weight.requires_grad_(True)
    task = LanguageModelling()
    torch.manual_seed(0)
    train = _Rows([(tokens, 1) for tokens in sequences])
    asked = _Rows([(one.answers[0].tokens, one.answers[0].first_target) for one in queries])
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
            per_device_query_batch_size=1,
            per_device_train_batch_size=1,
            score_args=ScoreArguments(damping_factor=None, amp_dtype=None),
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"]
    scores_NQ: NDArray[np.float64] = found.T.double().numpy()
    return scores_NQ


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
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Run(RunConfig.load(options.config)) as run:
        farm = Farm(run)
        answers = Answers(farm.asked_for())
        names = list(run.replica.modules)
        model = linear_for_conv1d(run.replica.model)
        scores_NQ = theirs(model, names, list(rows_of(run, farm.ids_N)), farm.queries)
        print("| protocol | kronfluence, EK-FAC |\n| --- | --- |")
        for name, rows in protocols(farm.planned()).items():
            said_SQ = predicted(weights(rows[0], farm.ids_N), scores_NQ)
            lds = mean_interval(linear_scores(said_SQ, answers.by_seed(rows)))
            assert lds is not None
            print(f"| {name} | {lds.mean:.3f} ({lds.low:.3f} to {lds.high:.3f}) |")


if __name__ == "__main__":
    main()
