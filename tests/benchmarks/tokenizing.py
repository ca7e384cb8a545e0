"""What tokenising costs beside the tokenizer, and whether its memory depends on its input.

    python tests/benchmarks/tokenizing.py
    python tests/benchmarks/tokenizing.py --megabytes 8 --small 100 --large 2000 --document 400

Texts are Python's own library, in documents of 4,000 characters, and the tokenizer is a byte-level
BPE of 16,384 tokens that was trained on some of it. Speed: rounds in which `tokenizers` encodes the
texts of a file in batches, on one thread, and the tokenize job reads the file, encodes it and
writes its shards, one after the other; by processor time, as other processes may be on the
machine. Memory: the peak of a process that tokenises a file, for a small and a large file, each in
parts, and for one document of one line; words there are drawn from 4,096 of 24 letters, each a
token, as two gigabytes of a library would take the better part of an hour. Prints tables as
Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# One core: before the library is imported, which reads it once.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.storage.store import Store

_CHARACTERS = 4000
_BATCH = 64
_MIB = 2**20


def main() -> None:
    """Measure speed here, and memory in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=4, help="of the file of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", type=int, default=100, help="megabytes")
    parser.add_argument("--large", type=int, default=2000, help="megabytes")
    parser.add_argument("--document", type=int, default=400, help="megabytes")
    parser.add_argument("--peak", type=Path, help="measure this file, in a process of its own")
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(arguments.peak)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
        speed(folder, arguments.megabytes, arguments.rounds)
        if arguments.large:
            memory(folder, arguments.small, arguments.large, arguments.document)


def texts() -> Iterator[str]:
    """Documents of Python's library, again and again."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    while True:
        for file in files:
            text = file.read_text("utf-8", errors="replace")
            for start in range(0, len(text), _CHARACTERS):
                yield text[start : start + _CHARACTERS]


def words() -> list[str]:
    """Those of texts whose memory is looked at."""
    return [hashlib.sha256(b"%d" % number).hexdigest()[:24] for number in range(4096)]


def texts_of_words() -> Iterator[str]:
    """Documents of such words, in random order."""
    rng, named = np.random.default_rng(0), words()
    while True:
        yield " ".join(named[place] for place in rng.integers(len(named), size=_CHARACTERS // 25))


def tokenizer_of_words() -> Tokenizer:
    """Each word is a token."""
    known = {word: place for place, word in enumerate(["[UNK]", *words()])}
    backend = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    some = [text for text, _ in zip(texts(), range(500), strict=False)]
    trainer = trainers.BpeTrainer(vocab_size=16384, show_progress=False)
    backend.train_from_iterator(some, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The same in another process."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json"))
    )


def write(
    path: Path, megabytes: float, one: bool = False, source: Iterator[str] | None = None
) -> list[str]:
    """A file of JSON lines, or of a single one; its texts, where they are few."""
    size, kept = 0, []
    with path.open("w", encoding="utf-8") as file:
        if one:
            file.write('{"text": "')
        for text in source or texts():
            line = json.dumps(text, ensure_ascii=False)[1:-1]
            file.write(line + " " if one else f'{{"text": "{line}"}}\n')
            size += len(line)
            if megabytes < 50:
                kept.append(text)
            if size >= megabytes * 10**6:
                break
        if one:
            file.write('"}\n')
    return kept


def no_model() -> Replica:
    """Tokenising needs none."""
    raise AssertionError


def tokenise(path: Path, store: Store, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of a file that the stage puts into a corpus."""
    tokenize_files(
        lambda: InlineRunner(no_model),
        find_files([str(path)], lambda url: {}),
        store,
        tokenizer,
        TokenizeSettings("text", "id", 2048, 2**16, 2**26),
        ProgressLog(Console(file=io.StringIO())),
        lambda *_: None,
    )
    return Corpus.open(store).n_tokens


def speed(folder: Path, megabytes: float, rounds: int) -> None:
    """Rounds of one and the other."""
    tokenizer = read_tokenizer(folder)
    documents = write(folder / "speed.jsonl", megabytes)
    print("| round | tokenizers, tokens/s | the job, tokens/s | ratio |\n| --- | --- | --- | --- |")
    ratios = []
    # Once before: it imports what it needs.
    tokenise(folder / "speed.jsonl", Store(str(folder / "first")), tokenizer)
    for number in range(rounds):
        started = time.process_time()
        alone = 0
        for start in range(0, len(documents), _BATCH):
            batch = tokenizer.backend_tokenizer.encode_batch(documents[start : start + _BATCH])
            alone += sum(len(one.ids) for one in batch)
        alone_seconds = time.process_time() - started
        started = time.process_time()
        ours = tokenise(folder / "speed.jsonl", Store(str(folder / f"corpus-{number}")), tokenizer)
        seconds = time.process_time() - started
        ratios.append(ours / seconds * alone_seconds / alone)
        print(
            f"| {number + 1} | {alone / alone_seconds:,.0f} | {ours / seconds:,.0f} | "
            f"{ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"\nmedian of the ratios: {statistics.median(ratios):.2f}\n")


def memory(folder: Path, small: int, large: int, document: int) -> None:
    """The peaks of processes that tokenise files."""
    tokenizer_of_words().save(str(folder / "tokenizer.json"))
    print("| input | MiB before | MiB at the peak | tokens |\n| --- | --- | --- | --- |")
    for name, megabytes in (("small", small), ("document", document), ("large", large)):
        path = folder / f"{name}.jsonl"
        write(path, megabytes, name == "document", texts_of_words())
        command = [sys.executable, __file__, "--peak", str(path)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        print(
            f"| {name}, {megabytes:,} MB | {found['before'] / _MIB:,.0f} | "
            f"{found['peak'] / _MIB:,.0f} | {found['tokens']:,} |",
            flush=True,
        )
        path.unlink()


def peak(path: Path) -> dict[str, int]:
    """What this process takes at most, in bytes, before and while it tokenises a file."""
    tokenizer = read_tokenizer(path.parent)
    before = _peak()
    tokens = tokenise(path, Store(str(path.with_suffix(".corpus"))), tokenizer)
    return {"before": before, "peak": _peak(), "tokens": tokens}


def _peak() -> int:
    # What getrusage says begins with the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
