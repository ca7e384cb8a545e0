"""The corpora, questions, models and configurations of docs/findings.md that are beside the demo's.

    python tests/benchmarks/finding_banks.py memorisation [--folder runs/findings]
    python tests/benchmarks/finding_banks.py layers [--folder runs/findings]
    python tests/benchmarks/finding_banks.py prose [--folder runs/findings]

All take their prose from Python's documentation, or with `--books BOOKS` from a folder of books, as
tests/benchmarks/quality_banks.py has it. `memorisation` is windows of twelve words of that, with
passages that are planted up to 64 times and reworded, and planted facts. `layers` is documents of
six kinds, and questions of each. `prose` is windows of prose in which nothing is planted; asked are
the last two words of those that the model knows, among some that are drawn at random. The
configurations are those of jobs/findings with the folder's addresses; `rayinfluence run` and
`rayinfluence analyse` of what is printed do the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from sizes import log_probability, prose_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayinfluence.analysis.asked import LEAST
from rayinfluence.demo.classes import write_classes
from rayinfluence.demo.corpus import write_jsonl
from rayinfluence.demo.memorised import STRIDE, word_windows, write_memorised
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.training import TrainingSettings

JOBS = Path(__file__).parents[2] / "jobs" / "findings"
#: Where all of it is, and how the configurations have that, from their folder.
PLACE = "runs/findings"
THERE = f"../../{PLACE}"
#: All prose that an installation of Python has.
CHARACTERS = 10**8
#: Passages of each number of copies, and windows of other prose.
PER_NUMBER, WINDOWS = 8, 49_500
#: Of three facts each.
SUBJECTS = 6
MEMORISATION = (
    ModelSettings(vocabulary=2048, context=96, width=48, layers=2, heads=4),
    TrainingSettings(epochs=6, batch=64, learning_rate=4e-3, threads=1),
)
#: Windows of prose, and words of each, none in two of them where there are as many.
WINDOWS_OF_PROSE, LENGTH = 50_100, 8
#: Windows that are tried, words of their ends, and those that are asked at most.
TRIED, END, MOST = 1500, 2, 40
PROSE = (
    ModelSettings(vocabulary=1024, context=64, width=32, layers=2, heads=4),
    TrainingSettings(epochs=2, batch=64, learning_rate=8e-3, threads=1),
)
LAYERS = (
    ModelSettings(vocabulary=1024, context=128, width=64, layers=8, heads=4),
    TrainingSettings(epochs=20, batch=16, learning_rate=3e-3, threads=1),
)


def memorisation(folder: Path, books: Path | None) -> tuple[ModelSettings, TrainingSettings]:
    """Write documents and questions."""
    prose = prose_of(books, CHARACTERS)
    write_memorised(folder, prose, per_number=PER_NUMBER, most=WINDOWS, subjects=SUBJECTS)
    return MEMORISATION


def layers(folder: Path, books: Path | None) -> tuple[ModelSettings, TrainingSettings]:
    """The same of six kinds."""
    write_classes(folder, prose_of(books), prose=500, subjects=10, asked=15, seed=0)
    return LAYERS


def prose(folder: Path, books: Path | None) -> tuple[ModelSettings, TrainingSettings]:
    """Write documents alone: what is known is asked when there is a model."""
    passages = prose_of(books, CHARACTERS)
    # Neighbours overlap where there is not enough otherwise.
    for stride in (LENGTH, STRIDE):
        found = list(
            dict.fromkeys(w for one in passages for w in word_windows(one, stride, LENGTH))
        )
        if len(found) >= WINDOWS_OF_PROSE:
            break
    order = np.random.default_rng([0, 13]).permutation(len(found))[:WINDOWS_OF_PROSE]
    rows = ({"id": f"p{place:06d}", "text": found[one]} for place, one in enumerate(order))
    write_jsonl(folder / "documents.jsonl", rows)
    return PROSE


def ask_known(folder: Path, texts: Sequence[str]) -> str:
    """Write questions: of some windows drawn at random, the ends that the model knows."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    asked = []
    drawn = np.random.default_rng([0, 14]).permutation(len(texts))[:TRIED].tolist()
    for one in drawn:
        words = texts[one].split()
        prompt, completion = " ".join(words[:-END]), " " + " ".join(words[-END:])
        if log_probability(model, tokenizer, prompt, completion) >= LEAST and len(asked) < MOST:
            asked.append({"query_id": f"prose-{one}", "prompt": prompt, "completion": completion})
    write_jsonl(folder / "queries.jsonl", asked)
    return f"{len(asked)} ends are asked, of {len(drawn):,} that were tried (at most {MOST})"


BANKS = {"memorisation": memorisation, "layers": layers, "prose": prose}


def main() -> None:
    """Write a bank's files, train its model, and print where its configuration is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", choices=list(BANKS))
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    parser.add_argument("--seed", type=int, default=0, help="of the model's training")
    parser.add_argument("--books", type=Path, help="a folder of books, whose prose is taken")
    options = parser.parse_args()
    folder = options.folder / options.bank
    folder.mkdir(parents=True, exist_ok=True)
    model, training = BANKS[options.bank](folder, options.books)
    lines = (folder / "documents.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    made = ensure_model(folder / "model", texts, options.seed, model=model, training=training)
    print(
        f"{len(texts):,} documents, {made.tokens:,} tokens; {made.parameters:,} parameters, loss "
        f"{made.loss}, trained in {made.seconds:,.0f} s"
    )
    if options.bank == "prose":
        print(ask_known(folder, texts))
    config = (JOBS / f"{options.bank}.yaml").read_text("utf-8")
    written = folder / "config.yaml"
    written.write_text(config.replace(THERE, str(options.folder.absolute())), encoding="utf-8")
    yaml.safe_load(written.read_text("utf-8"))
    print(written)


if __name__ == "__main__":
    main()
