"""What results cost the driver's memory: few queries and many, over the same corpus, on Ray.

    python tests/benchmarks/driver_memory.py
    python tests/benchmarks/driver_memory.py --queries 10 100 500 --sequences 8000 --tokens 256

A GPT-2 of width 16 on a local Ray with one actor: the second pass, the tables, their reader and the
report are a run's own. The scan is made up: each query's proponents and opponents are drawn from
the corpus at random, so that nearly all sequences survive. The driver is a process of its own for
each number of queries; its peak is what the system says, from the end of the made-up scan on, and
includes pages of Ray's object store that it has looked at. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow import run as run_module
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.jobs.banks import BankOperands
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.report import render_page
from rayinfluence.testing.models import VOCABULARY, tiny_tokenizer

_MIB = 1 << 20
_SAMPLE = 1000
#: What the growth from few queries to many may be.
_BOUND = 150


def main() -> None:
    """Measure each number of queries in a process of its own, over one corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, nargs="+", default=[10, 500])
    parser.add_argument("--sequences", type=int, default=8000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--runner", default="ray")
    parser.add_argument("--driver", type=Path, help="measure one, whose inputs are in this folder")
    arguments = parser.parse_args()
    if arguments.driver:
        measure(arguments.driver, arguments)
        return
    heads = "queries | pairs | sequences | tables, MiB | seconds | before | results | report | page"
    print(f"| {heads} |\n|{' --- |' * len(heads.split(' | '))}")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments.sequences, arguments.tokens)
        for n in arguments.queries:
            write_queries(Path(folder), n)
            command = [sys.executable, __file__, "--driver", folder, "--queries", str(n)]
            for name in ("sequences", "tokens", "top", "runner"):
                command += [f"--{name}", str(getattr(arguments, name))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            peaks.append(found["results"])
            print("|", " | ".join(f"{value:,.0f}" for value in found.values()), "|", flush=True)
    growth = peaks[-1] - peaks[0]
    print(f"\nThe driver's peak grows by {growth:,.0f} MiB (at most {_BOUND} are allowed).")
    if growth > _BOUND:
        raise SystemExit(1)


def write_inputs(folder: Path, n_sequences: int, n_tokens: int) -> None:
    """A model whose context is a sequence, and documents of as many tokens."""
    torch.manual_seed(0)
    shape = {"n_positions": n_tokens, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    with (folder / "documents.jsonl").open("w") as file:
        for index in range(n_sequences):
            words = generator.integers(0, VOCABULARY - 1, n_tokens)
            row = {
                "id": f"document-{index}",
                "text": " ".join(f"w{word}" for word in words),
                "source": f"source-{index % 7}",
                "url": f"https://example.org/{index:08d}/a-page-with-a-name-of-some-length.html",
                "year": 1990 + index % 30,
            }
            file.write(json.dumps(row) + "\n")


def write_queries(folder: Path, n: int) -> None:
    """Queries of a few words."""
    generator = np.random.default_rng(1)
    with (folder / "queries.jsonl").open("w") as file:
        for index in range(n):
            prompt, completion = (
                " ".join(f"w{word}" for word in generator.integers(0, VOCABULARY - 1, size))
                for size in (6, 3)
            )
            row = {"query_id": f"q{index}", "prompt": prompt, "completion": f" {completion}"}
            file.write(json.dumps(row) + "\n")


def configuration(folder: Path, arguments: argparse.Namespace) -> RunConfig:
    """The run; all numbers of queries share the corpus."""
    return RunConfig.parse(
        {
            "run": str(folder / f"run-{arguments.queries[0]}"),
            "model": str(folder / "model"),
            "queries": str(folder / "queries.jsonl"),
            "corpus": {
                "documents": [str(folder / "documents.jsonl")],
                "path": str(folder / "corpus"),
            },
            "fit": {"sequences": 64, "lanes": 1, "error_bound": None},
            "scan": {"top": arguments.top, "rank": 4},
            "runner": {"name": arguments.runner},
        }
    )


def made_up(n_queries: int, n_sequences: int, top: int) -> Partial:
    """What a scan could have found: survivors drawn at random, and sums of a few scores."""
    generator = np.random.default_rng(2)
    drawn = np.stack(
        [generator.choice(n_sequences, 2 * top, replace=False) for _ in range(n_queries)]
    )
    sizes = -np.sort(-generator.exponential(size=(2, n_queries, top)), axis=2)
    sample = generator.normal(size=(_SAMPLE, n_queries))
    sources = [f'"source-{place % 7}"' for place in range(_SAMPLE)]
    return Partial(
        TopK(sizes[0], drawn[:, :top].astype(np.int64)),
        TopK(sizes[1], drawn[:, top:].astype(np.int64)),
        GroupSums.of(sample, {"source": sources}),
        Tails.of(sample),
        n_sequences,
        n_sequences,
    )


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Run with a made-up scan, and print what the driver's memory was."""
    config = configuration(folder, arguments)
    n_queries = arguments.queries[0]
    before: dict[str, float] = {}

    def scan(runner: Any, corpus: Corpus, splits: Any, banks: Any, *_: Any) -> Any:
        found = made_up(n_queries, corpus.n_sequences, arguments.top)
        pairs = [(BankOperands.load(bank), found) for bank in banks]
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        before["MiB"], before["at"] = peak(), time.monotonic()
        return pairs, []

    run_module.scan = scan  # type: ignore[assignment]
    with run_module.Run(config) as run:
        results = run.all()
        seconds, after = time.monotonic() - before["at"], peak()
    size = len(render_page(results))
    with_report = peak()  # before whole tables are read, to count their rows
    tables = [path.stat().st_size for path in Path(config.run, "results").rglob("*.parquet")]
    found = results["ekfac"]
    print(
        json.dumps(
            {
                "queries": n_queries,
                "pairs": len(found.survivors.select(["rank"])),
                "sequences": len(found.sequences.select(["row"])),
                "tables": sum(tables) / _MIB,
                "seconds": seconds,
                "before": before["MiB"],
                "results": after,
                "report": with_report,
                "page": size / _MIB,
            }
        )
    )


def peak() -> float:
    """The most that this process has had in memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
