"""Run contenders side by side and print a table of ratios to one plain training step.

    python tests/benchmarks/bench.py --shape gpt2-d256 --contenders ours kronfluence

Each contender is a process of its own with one thread; one runs at a time. Within a repeat a plain
forward and backward pass (weight gradients included) is timed next to each stage, and a ratio is
that of two neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS
from flops import peak
from shapes import SHAPES, Shape

_PACKAGES = ("torch", "transformers", "kronfluence", "bergson", "dattri-llm")
_HERE = Path(__file__).parent
PEERS = [name for name in CONTENDERS if name != "plain"]


class Process:
    """A contender's process."""

    def __init__(self, name: str, shape: str, n_sequences: int, log: Path) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # rayinfluence asks torch for large pages by itself; here everyone gets them.
            "THP_MEM_ALLOC_ENABLE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "worker.py"), name, shape, str(n_sequences)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"the process ended with {self._process.wait()}"}
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-d256")
    parser.add_argument("--all", action="store_true", help="every shape that this machine can run")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[*PEERS])
    parser.add_argument("--stages", nargs="+", help="only these")
    parser.add_argument("--repeats", type=int, help="instead of the shape's")
    parser.add_argument("--sequences", type=int, help="instead of the shape's")
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder for raw figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for shape in SHAPES.values():
        if shape.device == device if options.all else shape.name == options.shape:
            bench(shape, options)


def bench(shape: Shape, options: argparse.Namespace) -> None:
    """Measure one shape and print its table."""
    n_sequences = options.sequences or shape.n_sequences
    n_tokens = n_sequences * shape.n_tokens

    processes = {
        name: Process(name, shape.name, n_sequences, options.out / f"{shape.name}-{name}.log")
        for name in ("plain", *options.contenders)
    }
    stages: dict[str, list[str]] = {}
    for name in options.contenders:
        answer = processes[name].ask("stages")
        if "error" in answer:
            print(f"{name}: {answer['error']}", file=sys.stderr)
        for stage in answer.get("stages", []):
            if options.stages is None or stage in options.stages:
                stages.setdefault(stage, []).append(name)
    rate = peak(shape.device, shape.dtype)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for repeat in range(options.repeats or shape.repeats):
        for stage, names in stages.items():
            plain = processes["plain"].ask("run plain")
            runs["plain", "plain"].append({**plain, "ratio": 1.0})
            for name in names:
                answer = processes[name].ask(f"run {stage}")
                if "error" in answer:
                    print(f"{name} {stage}: {answer['error']}", file=sys.stderr)
                    continue
                answer["ratio"] = answer["seconds"] / plain["seconds"]
                runs[name, stage].append(answer)
                print(f"{repeat} {name} {stage} {answer}", file=sys.stderr, flush=True)
    # Last, for counting keeps tensors alive.
    counts = {"plain": ["plain"], "ours": [s for s in stages if "ours" in stages[s]]}
    flops = {
        (name, stage): int(process.ask(f"count {stage}").get("flops", 0))
        for name, process in processes.items()
        for stage in counts.get(name, [])
    }
    for process in processes.values():
        process.close()
    raw = {f"{name} {stage}": found for (name, stage), found in runs.items()}
    (options.out / f"{shape.name}.json").write_text(json.dumps(raw, indent=1))
    report(shape.name, n_tokens, rate, flops, runs)


def report(
    name: str,
    n_tokens: int,
    rate: float,
    flops: dict[tuple[str, str], int],
    runs: dict[tuple[str, str], list[dict[str, Any]]],
) -> None:
    """Print the table as Markdown."""
    plain_flops = flops["plain", "plain"]
    print(f"\n### {name}\n")
    print(f"{n_tokens:,} tokens; {machine()}; {rate / 1e9:.0f} GFLOP/s in a matrix product\n")
    print(
        "| contender | stage | ratio: median (range) | tokens/s | counted FLOPs, ratio | of peak "
        "| peak memory, MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (who, stage), found in runs.items():
        ratios = [one["ratio"] for one in found]
        seconds = statistics.median(one["seconds"] for one in found)
        cost = flops.get((who, stage), 0)
        counted = f"{cost / plain_flops:.2f}" if cost and plain_flops else ""
        share = f"{cost / seconds / rate:.0%}" if cost else ""
        peak_mib = max(one["peak_mib"] for one in found)
        print(
            f"| {who} | {stage} | {statistics.median(ratios):.2f} ({min(ratios):.2f} - "
            f"{max(ratios):.2f}) | {n_tokens / seconds:,.0f} | {counted} | {share} "
            f"| {peak_mib:,.0f} |"
        )


def machine() -> str:
    """What this ran on."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else platform.processor()
    return f"{processor}, one thread; " + ", ".join(versions)


if __name__ == "__main__":
    main()
