"""Influence patterns of tiny models that have learnt agreement, and what patterns alone still say.

    .venv/bin/python tests/benchmarks/patterns.py FOLDER [--seeds 3] [--questions 40] [--points 20]

For each seed a GPT-2 and a BERT are trained on sentences of agreement.py, one well and one for a
short time, and kept in FOLDER. Of each kind of sentence as many questions are asked, with nouns
that are in no sentence of training together. Figures are printed as they come, and stand in
FOLDER/figures.jsonl: how much of all influence patterns carry, the share of skip connections, how
much patterns differ over questions beside how many are right, and the compression test. Their
intervals are at the end: means over seeds with the least and the largest, and for the compression
test differences with 95 % intervals by a bootstrap over kinds and seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from agreement import KINDS, Sizes, question_of, sentences, tokenizer_of, trained
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from rayinfluence.model.load import freeze
from rayinfluence.patterns.anatomy import anatomy_of
from rayinfluence.patterns.asked import Asking
from rayinfluence.patterns.baseline import baseline_of
from rayinfluence.patterns.explain import explain
from rayinfluence.patterns.found import Found

FAMILIES = {"BERT": True, "GPT-2": False}
#: Epochs of the two trainings.
STAGES = {"late": 6, "early": 2}
_DRAWS, _SEED = 10_000, 0


def model_of(folder: Path, family: str, stage: str, seed: int) -> nn.Module:
    """A trained model, of an earlier call where there was one."""
    masked, place = FAMILIES[family], folder / f"{family}-{stage}-{seed}"
    if not (place / "config.json").is_file():
        trained(masked, seed, Sizes(epochs=STAGES[stage])).save_pretrained(place)
    loader = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    return freeze(loader.from_pretrained(place, attn_implementation="eager"))


def figures_of(found: Found, **about: Any) -> dict[str, Any]:
    """What is said of one kind of sentences by one model."""
    (group,) = found.groups
    flowing = found.flowing
    shares = np.array([one.skip_shares for one in flowing], dtype=float)
    taken = np.array(
        [[[way == -1 for way in p.ways] for p in one.patterns] for one in flowing], dtype=float
    )
    return {
        **about,
        "questions": len(flowing),
        "accuracy": group.accuracy,
        "entropy": group.entropy,
        "entropy_of_tokens": group.entropy_of_tokens,
        "concentration": _median(one.concentration() for one in flowing),
        "concentration_of_tokens": _median(one.concentration(True) for one in flowing),
        "skip_shares": shares.mean(0).tolist(),
        "patterns_that_skip": taken.mean((0, 1)).tolist(),
        "gap": max(abs(one.gap) / abs(one.value - one.value_at_baseline) for one in flowing),
        "compressed": [vars(one) for one in group.compressed],
    }


def _median(values: Iterator[float | None]) -> float:
    return float(np.median([one for one in values if one is not None]))


def rows(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Figures of every model and kind."""
    for seed in range(arguments.seeds):
        for family, masked in FAMILIES.items():
            for stage in STAGES:
                model = model_of(folder, family, stage, seed)
                tokenizer = tokenizer_of(masked)
                kind_of = "masked" if masked else "causal"
                asking = Asking(tokenizer, kind_of, 16, len(tokenizer))
                for kind in KINDS:
                    asked = sentences(kind, arguments.questions, 1000 + seed, True)
                    questions = [
                        asking.question(question_of(one, number, masked))
                        for number, one in enumerate(asked)
                    ]
                    started = time.monotonic()
                    found = explain(
                        model,
                        anatomy_of(model),
                        questions,
                        baseline_of(model, tokenizer, kind_of),
                        arguments.points,
                        not masked,
                        lambda _: None,
                    )
                    seconds = time.monotonic() - started
                    yield figures_of(
                        found, family=family, stage=stage, seed=seed, kind=kind, seconds=seconds
                    )


def over_seeds(found: Sequence[Mapping[str, Any]], key: str) -> str:
    """The mean over kinds, of each seed; then the mean of these, with the least and the largest."""
    by_seed: dict[int, list[Any]] = defaultdict(list)
    for one in found:
        by_seed[one["seed"]].append(one[key])
    means = np.array([np.mean(values, 0) for values in by_seed.values()])
    cells = zip(
        *(np.atleast_1d(edge).tolist() for edge in (means.mean(0), means.min(0), means.max(0))),
        strict=True,
    )
    return ", ".join(f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells)


def say(found: Sequence[Mapping[str, Any]]) -> None:
    """Print what is over seeds."""
    for family in FAMILIES:
        for stage in STAGES:
            some = [one for one in found if (one["family"], one["stage"]) == (family, stage)]
            print(f"\n{family}, {stage}")
            for key in (
                *("accuracy", "concentration", "concentration_of_tokens", "skip_shares"),
                *("patterns_that_skip", "entropy", "entropy_of_tokens", "gap"),
            ):
                print(f"  {key}: {over_seeds(some, key)}")
            _say_compression(some)
    print("\nentropy and accuracy, of kinds and stages and seeds")
    for family in FAMILIES:
        some = [one for one in found if one["family"] == family]
        pairs = np.array([(one["entropy"], one["accuracy"]) for one in some])
        rank = np.argsort(np.argsort(pairs, axis=0, kind="stable"), axis=0, kind="stable")
        print(
            f"  {family}: correlation {np.corrcoef(pairs.T)[0, 1]:.2f}, of ranks "
            f"{np.corrcoef(rank.T)[0, 1]:.2f}, n = {len(pairs)}"
        )


def _say_compression(found: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy of each method, and how much more patterns keep than it, with an interval."""
    table: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in found:
        for cell in one["compressed"]:
            table[cell["level"], cell["stand_in"], cell["method"]].append(cell)
    generator = np.random.default_rng(_SEED)
    for (level, stand_in, method), cells in sorted(table.items()):
        right = np.array([cell["accuracy"] for cell in cells])
        nodes = np.mean([cell["nodes"] for cell in cells])
        best = np.array([cell["accuracy"] for cell in table[level, stand_in, "pattern"]])
        drawn = generator.integers(len(right), size=(_DRAWS, len(right)))
        low, high = np.quantile((best - right)[drawn].mean(1), [0.025, 0.975])
        more = (
            ""
            if method == "pattern"
            else f"; patterns {(best - right).mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        )
        print(f"  {level}, {stand_in}, {method}: {right.mean():.3f} ({nodes:.1f} nodes){more}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--points", type=int, default=20)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = []
    with (arguments.folder / "figures.jsonl").open("w") as file:
        for row in rows(arguments.folder, arguments):
            found.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            keys = ("family", "stage", "seed", "kind", "accuracy", "concentration", "seconds")
            print(*(f"{row[key]:.3g}" if isinstance(row[key], float) else row[key] for key in keys))
    say(found)


if __name__ == "__main__":
    main()
