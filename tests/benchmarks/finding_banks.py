"""The corpora, questions, models and configurations of docs/findings.md that are beside the demo's.

    python tests/benchmarks/finding_banks.py memorisation [--folder runs/findings]
    python tests/benchmarks/finding_banks.py layers [--folder runs/findings]

`memorisation` is windows of twelve words of the demo's prose, with passages that are planted up to
64 times and reworded, and planted facts. `layers` is documents of six kinds, and questions of
each. The configurations are those of jobs/findings with the folder's addresses; `rayinfluence run`
and `rayinfluence analyse` of what is printed do the rest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from rayinfluence.demo.classes import write_classes
from rayinfluence.demo.memorised import write_memorised
from rayinfluence.demo.prose import read_prose
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
LAYERS = (
    ModelSettings(vocabulary=1024, context=128, width=64, layers=8, heads=4),
    TrainingSettings(epochs=20, batch=16, learning_rate=3e-3, threads=1),
)


def memorisation(folder: Path) -> tuple[ModelSettings, TrainingSettings]:
    """Write documents and questions."""
    prose = read_prose(characters=CHARACTERS)
    write_memorised(folder, prose, per_number=PER_NUMBER, most=WINDOWS, subjects=SUBJECTS)
    return MEMORISATION


def layers(folder: Path) -> tuple[ModelSettings, TrainingSettings]:
    """The same of six kinds."""
    write_classes(folder, read_prose(), prose=500, subjects=10, asked=15, seed=0)
    return LAYERS


BANKS = {"memorisation": memorisation, "layers": layers}


def main() -> None:
    """Write a bank's files, train its model, and print where its configuration is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", choices=list(BANKS))
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    parser.add_argument("--seed", type=int, default=0, help="of the model's training")
    options = parser.parse_args()
    folder = options.folder / options.bank
    folder.mkdir(parents=True, exist_ok=True)
    model, training = BANKS[options.bank](folder)
    lines = (folder / "documents.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    made = ensure_model(folder / "model", texts, options.seed, model=model, training=training)
    print(
        f"{len(texts):,} documents, {made.tokens:,} tokens; {made.parameters:,} parameters, loss "
        f"{made.loss}, trained in {made.seconds:,.0f} s"
    )
    config = (JOBS / f"{options.bank}.yaml").read_text("utf-8")
    written = folder / "config.yaml"
    written.write_text(config.replace(THERE, str(options.folder.absolute())), encoding="utf-8")
    yaml.safe_load(written.read_text("utf-8"))
    print(written)


if __name__ == "__main__":
    main()
