"""What a corpus of many files or row groups costs before anything is read: appending, opening.

    python tests/benchmarks/corpora.py --files 50000 --groups 6
    python tests/benchmarks/corpora.py --files 4800 --groups 64

Prints seconds of the clock, and of the processor in brackets. The shards are not there.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import FileReport, Fragment, ShardRecord, write_fragment
from rayinfluence.corpus.ordinals import Making, Ordinals
from rayinfluence.corpus.rolled import read_logbook, roll_up
from rayinfluence.corpus.shards import Bounds, RowGroup
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.storage.store import Store

T = TypeVar("T")

MAKING = Making("", TokenizeSettings("text", "id", 2048, 2**16, 2**26))
_FILES_PER_ENTRY = 100


def made_up_fragment(number: int, n_groups: int) -> Fragment:
    """The fragment of a file in one shard, of row groups of the default size."""
    groups = [RowGroup(32, 2**16, _hex(f"{number}-{group}")) for group in range(n_groups)]
    bounds = [Bounds(0, 50_256 - group, 100, 2048) for group in range(n_groups)]
    report = FileReport(
        f"/documents/{number:06d}.jsonl", 2**20, number / 7, None, _hex(f"{number}")
    )
    report.documents, report.metadata_keys = 32 * n_groups, {"source": 32 * n_groups}
    key = f"shards/{_hex(f'shard {number}')}.parquet"
    return Fragment.of(report, [ShardRecord(key, 2**22, groups, bounds)])


def write_corpus(store: Store, n_files: int, n_groups: int) -> None:
    """A corpus without its shards, not rolled up."""
    logged = [
        write_fragment(store, MAKING.digest, made_up_fragment(number, n_groups))
        for number in range(n_files)
    ]
    ordinals = Ordinals(store, MAKING, (), {})
    for start in range(0, n_files, _FILES_PER_ENTRY):
        ordinals.append(logged[start : start + _FILES_PER_ENTRY])


def measure(n_files: int, n_groups: int) -> None:
    """Open a corpus from its fragments, roll it up, open it again, and append files to it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        timed("written", lambda: write_corpus(store, n_files, n_groups))
        timed("opened from its fragments", lambda: Corpus.open(store))
        timed("rolled up", lambda: roll_up(store))
        corpus = timed("opened rolled up", lambda: Corpus.open(store))
        timed("its fingerprint", lambda: corpus.fingerprint)
        suits = [b.suit for shard in corpus.manifest.shards for b in shard.bounds]
        timed("its bounds looked at", lambda: all(suit(50_257, 2048) for suit in suits))
        ordinals = Ordinals(store, MAKING, read_logbook(store).entries, {})
        seconds = []
        for number in range(n_files, n_files + 50):
            started = time.monotonic()
            fragment = made_up_fragment(number, n_groups)
            ordinals.append([write_fragment(store, MAKING.digest, fragment)])
            seconds.append(time.monotonic() - started)
        print(f"a file appended: {1000 * statistics.median(seconds):.1f} ms in the median of 50")


def timed(what: str, work: Callable[[], T]) -> T:
    """Say how long something takes."""
    started, processor = time.monotonic(), time.process_time()
    done = work()
    seconds = time.monotonic() - started
    print(f"{what}: {seconds:.2f} s ({time.process_time() - processor:.2f})", flush=True)
    return done


def _hex(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def main() -> None:
    """Measure one corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--groups", type=int, default=6)
    options = parser.parse_args()
    measure(options.files, options.groups)


if __name__ == "__main__":
    main()
