"""Whether self-influence finds wrong labels: on BANKING77, beside the loss and the gradient's norm.

    .venv/bin/python tests/benchmarks/mislabel.py FOLDER [--lines 2000] [--seeds 3] [--epochs 14]

FOLDER holds train.csv of BANKING77 (Casanueva et al. 2020, CC BY 4.0; `text,category`, from
github.com/PolyAI-LDN/task-specific-datasets). For each seed some lines are drawn, 5 % of their
labels are changed to another at random, and a tiny GPT-2 is trained on all tokens of "text, mark,
label". All lines are scored, with factors of them all, and the figures say how well a score tells
changed labels from others: the area under the ROC curve, and the share of changed ones among the
5 % with the largest scores. Scores are made twice: of the log-probability of all tokens, which is
what was trained, and of the label's tokens alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pyarrow as pa
import torch
from harness import fit_factors, operands, table
from numpy.typing import NDArray
from rich.console import Console
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from rayinfluence.curvature.solver import Identity
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.demo.tiny_lm import END_OF_TEXT, ensure_model
from rayinfluence.evaluation.mislabel import found_first
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.influence.bank import Itself, QueryBank
from rayinfluence.influence.correlations import area
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track

_CHANGED = 0.05
#: The id of the mark between a text and its label, the tokenizer's first.
_MARK = 0
_SETTINGS = ModelSettings(vocabulary=1024, context=192, width=64, layers=2)


#: What counts of a line: a loss by what it is of.
_LOSSES = {"all tokens": "all", "label": "completion"}


def lines_of(folder: Path) -> list[tuple[str, str]]:
    """Texts with their labels."""
    file = folder / "train.csv"
    if not file.exists():
        sys.exit(
            f"there is no {file}: fetch banking_data/train.csv of "
            "github.com/PolyAI-LDN/task-specific-datasets (CC BY 4.0), and name its folder."
        )
    with file.open(encoding="utf-8", newline="") as rows:
        return [(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(rows)]


def changed_lines(
    lines: list[tuple[str, str]], n: int, seed: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """Some lines as documents, and which of them have another label than theirs."""
    rng = np.random.default_rng(seed)
    labels = sorted({label for _, label in lines})
    chosen = [lines[i] for i in rng.permutation(len(lines))[:n]]
    changed = np.zeros(len(chosen), dtype=np.bool_)
    changed[rng.permutation(len(chosen))[: round(_CHANGED * len(chosen))]] = True
    documents = []
    for (text, label), other in zip(chosen, changed.tolist(), strict=True):
        if other:
            label = str(rng.choice([one for one in labels if one != label]))
        documents.append(f"{text}{END_OF_TEXT}{label}")
    return documents, changed


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the seconds that it takes."""
    started = time.monotonic()
    found = work()
    return found, time.monotonic() - started


def scores_of(replica: Replica, bank: QueryBank, rows: pa.Table) -> NDArray[np.float64]:
    """The scores of all lines, in their order."""
    (scored,) = score_split(replica, [bank], rows)
    in_order: NDArray[np.float64] = scored.scores_NQ[np.argsort(scored.ids_N), 0]
    return in_order


def losses(replica: Replica, rows: pa.Table) -> NDArray[np.float64]:
    """Minus the objective of all lines, in their order."""
    found = np.zeros(len(rows))
    for batch in replica.batches(rows, {}):
        with torch.no_grad():
            found[batch.sequence_ids] = -replica._values(batch, own_labels).numpy()
    return found


def norms(replica: Replica) -> QueryBank:
    """The square of the gradient's length, as a bank."""
    modules = {
        name: Itself(Identity(shape.bias), shape.d_in) for name, shape in replica.shapes.items()
    }
    return QueryBank(["norm"], modules)


def figures_of(
    folder: Path, documents: list[str], changed: NDArray[np.bool_], seed: int, epochs: int
) -> list[dict[str, Any]]:
    """Every score of one seed's lines."""
    training = TrainingSettings(epochs=epochs, threads=1)
    trained = ensure_model(
        folder, documents, seed, model=_SETTINGS, training=training, console=Console(quiet=True)
    )
    model = freeze(GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa"))
    encoded = PreTrainedTokenizerFast.from_pretrained(folder)(documents)["input_ids"]
    sequences = [np.array(tokens, dtype=np.int32) for tokens in encoded]
    # The label's tokens follow the mark.
    masks = [(np.cumsum(tokens == _MARK) - (tokens == _MARK) > 0).tolist() for tokens in sequences]
    rows = table(sequences, masks=masks)
    print(
        f"seed {seed}: {len(documents):,} lines, {sum(map(len, sequences)):,} tokens, "
        f"{trained.parameters:,} parameters, trained in {trained.seconds:.0f} s to a loss of "
        f"{trained.loss:.2f} a token",
        flush=True,
    )
    figures = []
    numerics = Numerics("float32", "cpu", 2048, 2**17, "sdpa", seed)
    for counted, loss in _LOSSES.items():
        replica = Replica(model, track(model, ["*.mlp.*"]), replace(numerics, loss=loss))
        with tempfile.TemporaryDirectory() as place:
            factors, fitting = timed(
                lambda replica=replica, place=place: fit_factors(
                    replica, sequences, Path(place), row_group_tokens=2**14, masks=masks
                )
            )
            bank = operands(factors, Path(place), "self_influence").itself(replica)
        for name, extra, work in (
            ("self-influence", fitting, lambda r=replica, b=bank: scores_of(r, b, rows)),
            ("gradient norm", 0.0, lambda r=replica: scores_of(r, norms(r), rows)),
            ("loss", 0.0, lambda r=replica: losses(r, rows)),
        ):
            scores, seconds = timed(work)
            figures.append(
                {
                    "score": name,
                    "of": counted,
                    "seed": seed,
                    "area": area(scores, changed),
                    "first": found_first(scores, changed),
                    "seconds": seconds,
                    "fit": extra,
                }
            )
            print(json.dumps(figures[-1]), flush=True)
    return figures


def main() -> None:
    """Print the figures of each seed, and a table of their means as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=14)
    options = parser.parse_args()
    lines = lines_of(options.folder)
    torch.set_num_threads(1)
    figures = []
    for seed in range(options.seeds):
        documents, changed = changed_lines(lines, options.lines, seed)
        with tempfile.TemporaryDirectory() as folder:
            figures += figures_of(Path(folder), documents, changed, seed, options.epochs)
    print("\n| score | of | area under the ROC curve | in the first 5 % | seconds | fit |")
    print("|---|---|---|---|---|---|")
    for key in dict.fromkeys((one["score"], one["of"]) for one in figures):
        ours = [one for one in figures if (one["score"], one["of"]) == key]
        areas = [one["area"] for one in ours]
        means = {name: np.mean([one[name] for one in ours]) for name in ("first", "seconds", "fit")}
        print(
            f"| {key[0]} | {key[1]} | {np.mean(areas):.3f} ({min(areas):.3f} to {max(areas):.3f}) "
            f"| {means['first']:.0%} | {means['seconds']:.1f} | {means['fit']:.1f} |"
        )


if __name__ == "__main__":
    main()
