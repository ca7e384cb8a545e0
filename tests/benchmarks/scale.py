"""What the dataflow costs beside the arithmetic: scheduling, merging, memory, a second actor.

    python tests/benchmarks/scale.py splits 5000 20000 50000
    python tests/benchmarks/scale.py memory
    python tests/benchmarks/scale.py actors
    python tests/benchmarks/scale.py forecast

Each prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from corpora import MAKING, made_up_fragment
from turns import Contestant

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import write_fragment
from rayinfluence.corpus.ordinals import Ordinals
from rayinfluence.corpus.rolled import roll_up
from rayinfluence.corpus.shards import RowGroup
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.jobs.partials import write_partial
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob, Settled
from rayinfluence.dataflow.layout import partial_key
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages import scan as scan_stage
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.scan import merge, scan
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

#: A split of the default size on a GPU, 2^21 tokens, has this many row groups of the default size.
_ROW_GROUPS = 32
#: Splits that are committed before a scan is measured: beside the first Ray starts what it needs.
_WARM_UP = 4
#: Turns that a rate is taken over, and turns after the last of them, so that the splits which were
#: under way then are committed and their done part counts.
_TURNS, _AFTER = 8, 3


class NullJob(ScanJob):
    """Commits the same small partial for every split, and reads nothing."""

    def run(self, replica: Any, bundle: Sequence[Pending], watch: Any) -> Iterator[Settled]:
        """Settle the splits."""
        for item in bundle:
            if watch.begin(item.split.digest) == 1:
                for index in item.banks:
                    plan = self.operands[index].plan
                    empty = Partial.empty(len(plan.query_digests), self.top)
                    write_partial(empty, plan.store, partial_key(item.split.digest))
            watch.advance(item.split.n_tokens)
            yield Settled(item.split, None)


def splits(counts: list[int]) -> None:
    """Plan, schedule, list and merge splits that cost nothing."""
    print("| splits | manifest and plan | schedule | splits/s | list | merge | driver, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    scan_stage.ScanJob = NullJob  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_run(Path(folder), 20, runner={"name": "ray", "actors": 2})
        with Run(config) as run:
            run.tokenize()
            banks = _banks(run)
            for count in counts:
                started = time.monotonic()
                corpus = _corpus(count, Path(folder))
                planned = corpus.plan(2**21)
                assert len(planned) == count
                ready = time.monotonic()
                bank = replace(banks[0], store=Store(f"{folder}/scan-{count}"))
                log = ProgressLog()
                _, aside = scan(run.runner, corpus, planned, [bank], config.scan, log)
                assert not aside
                done = time.monotonic()
                there = bank.store.list("partials")
                listed = time.monotonic() - done
                assert len(there) == count
                schedule = log.timings["scan"].seconds
                print(
                    f"| {count:,} | {ready - started:.1f} s | {schedule:.1f} s "
                    f"| {count / schedule:.0f} | {listed:.1f} s "
                    f"| {log.timings['merge'].seconds:.1f} s | {_rss():.0f} |",
                    flush=True,
                )


def memory() -> None:
    """Scan 1,000,000 short sequences, and merge 100,000 partials, while memory is sampled."""
    print("| what | after 20 % | at the end | peak, MiB |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "million.jsonl")
        with path.open("w") as file:
            for index in range(1_000_000):
                file.write(json.dumps({"id": str(index), "text": f"w{index % 40} w3 w7 w1"}) + "\n")
        config = tiny_run(
            Path(folder),
            corpus={"documents": [str(path)], "row_group_tokens": 2**14},
            fit={"sequences": 2000},
            scan={"split_tokens": 2**16},
            batch_tokens=4096,
        )
        (Path(folder) / "run.yaml").write_text(config.model_dump_json())
        worker = subprocess.Popen(
            [sys.executable, "-m", "rayinfluence", "scan", str(Path(folder) / "run.yaml")],
            stderr=subprocess.DEVNULL,
        )
        samples = []
        while worker.poll() is None:
            n_done = sum(1 for _ in Path(folder).glob("run/scan/*/partials/*"))
            if n_done:
                samples.append((n_done, psutil.Process(worker.pid).memory_info().rss / 2**20))
            time.sleep(1)
        assert worker.returncode == 0
        last = max(n for n, _ in samples)
        early = [rss for n, rss in samples if n <= last / 5]
        print(
            f"| scan of 1,000,000 sequences, {last} splits, one process "
            f"| {early[-1]:.0f} | {samples[-1][1]:.0f} | {max(r for _, r in samples):.0f} |"
        )
        Path(folder, "merge").mkdir()
        config = tiny_run(Path(folder) / "merge", 20)
        with Run(config) as run:
            run.tokenize()
            bank = replace(_banks(run)[0], store=Store(f"{folder}/partials"))
            planned = [_split(index, 1) for index in range(100_000)]
            empty = Partial.empty(len(bank.query_digests), 100)
            for split in planned:
                write_partial(empty, bank.store, partial_key(split.digest))
            samples_of: list[float] = []
            stop = threading.Event()
            sampler = threading.Thread(target=_sample, args=(samples_of, stop))
            sampler.start()
            _, damaged = merge(run.runner, bank, planned, set(), 100)
            stop.set()
            sampler.join()
            assert not damaged
            fifth = samples_of[len(samples_of) // 5]
            print(
                f"| merge of 100,000 partials, one process | {fifth:.0f} | {samples_of[-1]:.0f} "
                f"| {max(samples_of):.0f} |"
            )


def actors(blocks: int) -> None:
    """Tokens per second of one process, of Ray with one actor and with two, and of two processes.

    In turns, in the middle of a scan, when everything has started. Two processes that know nothing
    of each other show what the machine has for a second one.
    """
    kinds: dict[str, list[dict[str, Any]]] = {
        "inline": [{"name": "inline"}],
        "Ray, 1 actor": [{"name": "ray", "actors": 1}],
        "Ray, 2 actors": [{"name": "ray", "actors": 2}],
        "inline, twice at once": [{"name": "inline"}] * 2,
    }
    n_tokens = 5 * 2**12
    contestants: dict[str, Contestant] = {}
    marks: dict[str, list[float]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        config = _real_run(Path(folder, "first"), 20 + 20 * blocks, n_tokens, 48)
        with Run(config) as run:
            run.tokenize()
            run.fit()
        try:
            for name, runners in kinds.items():
                files = [
                    _copy(config, Path(folder, f"{name} {index}"), runner)
                    for index, runner in enumerate(runners)
                ]
                contestants[name] = Contestant(files, [file.parent / "run" for file in files])
                contestants[name].warm_up(_WARM_UP)
                print(name, "is warm", file=sys.stderr, flush=True)
            for number in range(blocks * _TURNS + 1 + _AFTER):
                print("turn", number, file=sys.stderr, flush=True)
                for name, contestant in contestants.items():
                    contestant.turn()
                    if number % _TURNS == 0 and number <= blocks * _TURNS:
                        marks[name].append(contestant.clock)
        finally:
            for contestant in contestants.values():
                contestant.end()
    rates = {
        name: np.diff(contestants[name].splits_at(clocks)) * n_tokens / np.diff(clocks)
        for name, clocks in marks.items()
    }
    print("| runner | tokens/s: median (range) | ratio to inline | ratio to one actor |")
    print("| --- | --- | --- | --- |")
    for name, found in rates.items():
        columns = [(found, ",.0f")]
        columns += [(found / rates[base], ".2f") for base in ("inline", "Ray, 1 actor")]
        cells = (
            f"{statistics.median(some):{form}} ({min(some):{form}} - {max(some):{form}})"
            for some, form in columns
        )
        print(f"| {name} | " + " | ".join(cells) + " |")


def _copy(config: RunConfig, folder: Path, runner: dict[str, Any]) -> Path:
    """A run of its own that goes on after the fit; returns its configuration's file."""
    shutil.copytree(config.run, folder / "run")
    values = config.model_dump()
    values |= {"run": str(folder / "run"), "runner": {**values["runner"], **runner}}
    path = folder / "run.yaml"
    path.write_text(json.dumps(values))
    return path


def forecast() -> None:
    """Forecast a scan of twenty times the splits that it is calibrated on, and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        config = _real_run(Path(folder), 100, 2**12, 200)
        with Run(config) as run:
            planned = run.plan(actors=1)
            run.scan()
            measured = run.progress.timings
        n_calibrated = len(planned.rates.splits)
        print(f"calibrated on {n_calibrated} of {planned.work.splits} splits\n")
        print("| stage | forecast | measured | ratio |")
        print("| --- | --- | --- | --- |")
        for name, seconds in planned.forecast.seconds.items():
            real = measured[name].seconds
            print(f"| {name} | {seconds:.1f} s | {real:.1f} s | {seconds / real:.2f} |")


def _real_run(folder: Path, n_splits: int, split_tokens: int, fitted: int) -> RunConfig:
    """A run whose arithmetic takes its time: a GPT-2 of width 256 and splits of some seconds."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = tiny_run(folder)
    shape = GPT2Config(
        vocab_size=48, n_positions=256, n_embd=256, n_layer=4, n_head=4, bos_token_id=0
    )
    GPT2LMHeadModel(shape).save_pretrained(folder / "model")
    import random

    generator = random.Random(0)
    with (folder / "documents.jsonl").open("w") as file:
        for index in range(n_splits * split_tokens // 256):
            words = " ".join(f"w{generator.randrange(40)}" for _ in range(255))
            file.write(json.dumps({"id": str(index), "text": words, "source": "a"}) + "\n")
    values = config.model_dump()
    values["corpus"] |= {"row_group_tokens": split_tokens // 4}
    values["fit"] |= {"sequences": fitted, "error_bound": None}
    values["scan"] |= {"split_tokens": split_tokens, "rank": 32, "top": 20}
    values["batch_tokens"] = None
    return RunConfig.parse(values)


def _banks(run: Run) -> list[Any]:
    from rayinfluence.dataflow.stages.queries import (
        method_operands,
        plan_banks,
        plan_methods,
        precondition,
    )

    factors = run.fit()
    config, numerics = run.config.scan, run.numerics
    modules = list(run.replica.modules)
    corpus = run.corpus.fingerprint
    by_kind = {"ekfac": factors}
    methods = plan_methods(run.store, run.model_digest, modules, by_kind, config, numerics, corpus)
    banks = plan_banks(run.store, methods, [q.digest for q in run.queries], config, numerics)
    operands = partial(method_operands, run.runner, factors=by_kind)
    precondition(run.runner, methods, operands, run.queries, config, run.progress)
    return banks


def _corpus(n_splits: int, folder: Path) -> Corpus:
    """A corpus of splits of the default size, written and read again; it has no shards."""
    store = Store(str(folder / f"corpus-{n_splits}"))
    per_shard = 32
    ordinals = Ordinals(store, MAKING, (), {})
    for shard in range(-(-n_splits // per_shard)):
        n_groups = _ROW_GROUPS * min(per_shard, n_splits - shard * per_shard)
        fragment = made_up_fragment(shard, n_groups)
        ordinals.append([write_fragment(store, MAKING.digest, fragment)])
    roll_up(store)
    return Corpus.open(store)


def _split(index: int, n_groups: int) -> Split:
    groups = tuple(RowGroup(1, 1, "") for _ in range(n_groups))
    return Split(index, "shard", index << 32, 0, groups, f"{index:032x}")


def _rss() -> float:
    return psutil.Process(os.getpid()).memory_info().rss / 2**20


def _sample(samples: list[float], stop: threading.Event) -> None:
    while not stop.is_set():
        samples.append(_rss())
        time.sleep(0.2)


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("splits").add_argument("counts", type=int, nargs="+")
    verbs.add_parser("memory")
    verbs.add_parser("actors").add_argument("--blocks", type=int, default=5)
    verbs.add_parser("forecast")
    options = parser.parse_args()
    if options.verb == "splits":
        splits(options.counts)
    elif options.verb == "memory":
        memory()
    elif options.verb == "actors":
        actors(options.blocks)
    else:
        forecast()


if __name__ == "__main__":
    main()
