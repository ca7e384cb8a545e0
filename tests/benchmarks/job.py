"""A whole job beside kronfluence's: from a model's folder and tokens to results on the disk.

    python tests/benchmarks/job.py [--jobs small large] [--contenders ours ray kronfluence]
                                   [--repeats 3]

Each contender is a process of its own on one thread, and its time is from its start to its end.
Ours is at its defaults (rank 32, top 100, token scores of the first 20 of each direction and layer
scores of all survivors included), inline or on a local Ray with one actor; kronfluence's `Analyzer`
has EK-FAC at its defaults, and scores all pairs. They take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_VOCABULARY = 2048
_FIRST_WORD = 2


@dataclass(frozen=True)
class Size:
    """Of a job: queries, sequences, tokens of each; of its GPT-2: width and layers."""

    queries: int
    sequences: int
    tokens: int
    width: int
    layers: int


JOBS = {
    "toy": Size(3, 24, 16, 16, 2),
    "small": Size(48, 1536, 64, 64, 3),
    "large": Size(256, 2000, 128, 128, 4),
}
#: Tokens of a prompt, and of a completion.
_PROMPT, _COMPLETION = 8, 8


def main() -> int:
    """Make each job's inputs, run the contenders in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=["small", "large"])
    parser.add_argument("--contenders", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        told = RUNS[options.run](options.folder, JOBS[options.jobs[0]])
        print(json.dumps(told | {"peak_mib": peak_mib()}))
        return 0
    for job in options.jobs:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.contenders}
        for _ in range(options.repeats):
            for name in options.contenders:
                with tempfile.TemporaryDirectory() as folder:
                    make(Path(folder), JOBS[job])
                    found[name].append(measured(name, job, Path(folder)))
                    print(job, name, json.dumps(found[name][-1]), file=sys.stderr, flush=True)
        table(job, found)
    return 0


def measured(name: str, job: str, folder: Path) -> dict[str, Any]:
    """Run a contender in a process of its own."""
    command = [sys.executable, __file__, "--run", name, "--jobs", job, "--folder", str(folder)]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    started = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = round(time.monotonic() - started, 1)
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def table(job: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians and ranges, and ratios of neighbours to kronfluence."""
    print(f"\n{job}: {JOBS[job]}\n")
    print("| contender | seconds: median (range) | ratio | peak memory, MiB |")
    print("| --- | --- | --- | --- |")
    for name, runs in found.items():
        seconds = sorted(run["seconds"] for run in runs)
        peer = found.get("kronfluence", runs)
        ratios = sorted(a["seconds"] / b["seconds"] for a, b in zip(runs, peer, strict=True))
        print(
            f"| {name} | {statistics.median(seconds)} ({seconds[0]} - {seconds[-1]}) "
            f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) "
            f"| {max(run['peak_mib'] for run in runs):,} |"
        )


def make(folder: Path, size: Size) -> None:
    """A model with random weights, its tokenizer, documents and queries."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "<unk>": 1}
    vocabulary |= {f"w{i}": i for i in range(_FIRST_WORD, _VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=_VOCABULARY,
        n_positions=size.tokens,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    documents, queries = tokens_of(size)
    write(folder / "documents.jsonl", [{"text": said(tokens)} for tokens in documents])
    asked = [(said(q[:_PROMPT]), " " + said(q[_PROMPT:])) for q in queries]
    lines = [
        {"query_id": f"q{i}", "prompt": prompt, "completion": completion}
        for i, (prompt, completion) in enumerate(asked)
    ]
    write(folder / "queries.jsonl", lines)


def tokens_of(size: Size, seed: int = 0) -> tuple[Any, Any]:
    """Documents [N, T] and queries [Q, prompt + completion]."""
    generator = np.random.default_rng(seed)
    shapes = (size.sequences, size.tokens), (size.queries, _PROMPT + _COMPLETION)
    documents, queries = (generator.integers(_FIRST_WORD, _VOCABULARY, shape) for shape in shapes)
    return documents, queries


def said(tokens: Any) -> str:
    """Tokens as words."""
    return " ".join(f"w{token}" for token in tokens)


def write(path: Path, lines: list[dict[str, str]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def ours(folder: Path, size: Size, runner: str = "inline") -> dict[str, Any]:
    """`rayinfluence run` at its defaults."""
    import rayinfluence
    from rayinfluence.config import RunConfig
    from rayinfluence.storage.store import Store, read_json

    config = RunConfig.parse(
        {
            "run": str(folder / "run"),
            "model": str(folder / "model"),
            "queries": str(folder / "queries.jsonl"),
            "corpus": {"documents": [str(folder / "documents.jsonl")]},
            "runner": {"name": runner},
        }
    )
    results = rayinfluence.run(config)
    assert results.manifest["n_sequences"] == size.sequences
    timings = read_json(Store(config.run), "stages.json")
    return {"stages": {name: round(one["seconds"], 1) for name, one in timings.items()}}


def on_ray(folder: Path, size: Size) -> dict[str, Any]:
    """The same on a local Ray with one actor."""
    return ours(folder, size, "ray")


def kronfluence(folder: Path, size: Size) -> dict[str, Any]:
    """Its `Analyzer`: all factors, then the scores of all pairs."""
    import torch
    from kronfluence.analyzer import Analyzer, prepare_model
    from peer_kronfluence import Language
    from transformers import GPT2LMHeadModel

    from rayinfluence.testing.models import linear_for_conv1d

    torch.set_num_threads(1)
    model = linear_for_conv1d(GPT2LMHeadModel.from_pretrained(folder / "model"))
    task = Language(_PROMPT, model)
    documents, queries = (torch.from_numpy(tokens) for tokens in tokens_of(size))
    analyzer = Analyzer(
        "job", prepare_model(model, task), task, cpu=True, output_dir=str(folder), disable_tqdm=True
    )
    batch = max(1, 2048 // size.tokens)
    seconds = {}
    started = time.monotonic()
    analyzer.fit_all_factors("factors", Rows(documents), per_device_batch_size=batch)
    seconds["fit"] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    analyzer.compute_pairwise_scores(
        "scores",
        "factors",
        Rows(queries),
        Rows(documents),
        per_device_query_batch_size=16,
        per_device_train_batch_size=batch,
    )
    seconds["scores"] = round(time.monotonic() - started, 1)
    return {"stages": seconds}


class Rows:
    """Sequences as a dataset."""

    def __init__(self, tokens: Any) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> Any:
        return self._tokens[index]


def peak_mib() -> int:
    """The most memory of this process and, where they were more, of one of its children."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) // 1024


RUNS = {"ours": ours, "ray": on_ray, "kronfluence": kronfluence}

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    sys.exit(main())
