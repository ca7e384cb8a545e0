"""A long run that is killed: two actors and the driver, in the middle of a scan on a local Ray.

    python tests/benchmarks/soak.py [--tokens 100_000_000] [--folder FOLDER]

A GPT-2 of 0.1M parameters, fitted on 20,000 documents of 64 tokens. A fifth and two fifths into the
scan the actor that scores is killed, at three fifths the driver, and the command is given again.
Afterwards a tenth of the partials is thrown away and made again inline, undisturbed: the bytes have
to be the same, and so have those of the results. Prints what was seen, and the memory of driver and
actors over the scan.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from job import Size, make, said, tokens_of, write

_TOKENS, _FILES, _POLL_SECONDS = 64, 10, 1.0
#: Shares of the scan at which a process is killed.
_ACTOR, _DRIVER = (0.2, 0.4), 0.6
_MIB = 1 << 20


@dataclass
class Memory:
    """Resident MiB of the driver and of all scoring actors, with the share of the scan done."""

    driver: list[tuple[float, float]] = field(default_factory=list)
    actors: list[tuple[float, float]] = field(default_factory=list)

    def line(self, name: str) -> str:
        """Medians of five parts of the scan."""
        seen = getattr(self, name)
        parts = [[mib for done, mib in seen if 5 * done // 1 == part] for part in range(5)]
        medians = [f"{statistics.median(part):,.0f}" if part else "-" for part in parts]
        return f"| {name} | {' | '.join(medians)} |"


class Soak:
    """One run directory, and the commands that work on it."""

    def __init__(self, folder: Path, n_tokens: int) -> None:
        self.folder = folder.resolve()
        self.size = Size(8, n_tokens // _TOKENS // _FILES, _TOKENS, 32, 2)
        self.memory = Memory()

    def write_inputs(self) -> None:
        """Ten files of documents, of different words each."""
        make(self.folder, self.size)
        (self.folder / "documents").mkdir()
        (self.folder / "documents.jsonl").unlink()
        for number in range(_FILES):
            documents, _ = tokens_of(self.size, seed=number)
            lines = [{"text": said(tokens)} for tokens in documents]
            write(self.folder / "documents" / f"{number}.jsonl", lines)
        for runner in ("ray", "inline"):
            config = {
                "run": str(self.folder / "run"),
                "model": str(self.folder / "model"),
                "queries": str(self.folder / "queries.jsonl"),
                "corpus": {"documents": [str(self.folder / "documents")]},
                "fit": {"sequences": 20_000},
                "scan": {"methods": ["ekfac", "gradient_product"]},
                "runner": {"name": runner},
            }
            (self.folder / f"{runner}.yaml").write_text(yaml.safe_dump(config))

    def start(self, runner: str) -> psutil.Popen:
        """Give the command, on one thread."""
        command = [sys.executable, "-m", "rayinfluence", "run", str(self.folder / f"{runner}.yaml")]
        with (self.folder / "log").open("a") as log:
            return psutil.Popen(
                command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
            )

    def partials(self) -> list[Path]:
        """Committed, by name."""
        return sorted((self.folder / "run" / "scan").glob("*/partials/*.safetensors"))

    def tables(self) -> list[Path]:
        """Of the results."""
        return sorted((self.folder / "run" / "results").rglob("*.parquet"))

    def watched(self, driver: psutil.Popen, n_partials: int) -> Iterator[float]:
        """The share of the scan that is done, as long as the driver lives."""
        while driver.poll() is None:
            done = len(self.partials()) / n_partials
            with contextlib.suppress(psutil.Error):
                if 0 < done < 1:
                    self.memory.driver.append((done, driver.memory_info().rss / _MIB))
                    self.memory.actors += [
                        (done, one.memory_info().rss / _MIB) for one in scorers(driver)
                    ]
            yield done
            time.sleep(_POLL_SECONDS)


def scorers(driver: psutil.Popen) -> list[psutil.Process]:
    """The actors that score for a driver."""
    found = []
    for one in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(one.cmdline())
            if title.startswith("ray::") and "Scorer" in title:
                found.append(one)
    return found


def kill_driver(driver: psutil.Popen) -> None:
    """Kill a driver, and what of its Ray does not go with it."""
    below = driver.children(recursive=True)
    driver.kill()
    driver.wait()
    _, left = psutil.wait_procs(below, timeout=60)
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()


def main() -> int:
    """Run, kill, go on, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return soak(Soak(folder, options.tokens), options.tokens)


def soak(run: Soak, n_tokens: int) -> int:
    """The whole of it; 1 if bytes differ."""
    run.write_inputs()
    n_partials = 2 * -(-n_tokens // 2**17)  # of two methods
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - started:8,.0f} s  {what}", flush=True)

    to_kill = list(_ACTOR)
    driver = run.start("ray")
    for done in run.watched(driver, n_partials):
        if to_kill and done >= to_kill[0] and (actors := scorers(driver)):
            actors[0].kill()
            tell(f"{done:.0%} of the scan: an actor is killed")
            to_kill.pop(0)
        if done >= _DRIVER:
            kill_driver(driver)
            tell(f"{done:.0%} of the scan: the driver is killed")
            break
    assert not to_kill, "the run ended before two actors were killed"
    driver = run.start("ray")
    for _ in run.watched(driver, n_partials):
        pass
    assert driver.returncode in (0, 3), f"the run ended with {driver.returncode}"
    tell(f"the run has ended, with exit code {driver.returncode}")
    files = [*run.partials()[::10], *run.tables()]
    before = {path: path.read_bytes() for path in files}
    shutil.rmtree(run.folder / "run" / "results")
    for path in run.partials()[::10]:
        path.unlink()
    assert run.start("inline").wait() == driver.returncode
    differ = [str(path) for path, body in before.items() if path.read_bytes() != body]
    tell(f"of {len(files)} partials and tables made again inline {len(differ)} differ")
    print("\n| resident MiB | 1st fifth | 2nd | 3rd | 4th | 5th |\n|---|---|---|---|---|---|")
    print(run.memory.line("driver"))
    print(run.memory.line("actors"))
    print("\n".join(differ))
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())
