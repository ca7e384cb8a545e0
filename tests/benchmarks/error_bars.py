"""Whether fits err as little as they say, and what saying it costs.

    .venv/bin/python tests/benchmarks/error_bars.py runs [--seeds 10] [--model mlp]
    .venv/bin/python tests/benchmarks/error_bars.py cost

``runs``: samples of clustered, heavy-tailed corpora (``tests/numerics/clustered.py``), three tiny
models and two kinds of corpus, each fitted until it is sure; the stated upper limit of the error
beside the true one, which is the distance of held-out scores from those by the factors of a sample
twenty times larger. ``cost``: whole fits of all of a sample with a bound that is never met, beside
fits without one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from cases import GPT2, LLAMA, MLP
from clustered import KINDS, fitted, large_sample, loud_replica, rows
from harness import fit_factors
from transformers import GPT2Config, GPT2LMHeadModel

from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.stages import sample as sample_stage
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track

_CASES = GPT2, LLAMA, MLP
_ROWS = 768
_TRUTH = 20 * _ROWS
_BOUND = 1.0
_LANES = 4
#: A dozen rows, mostly of one document.
_ROW_GROUP = 50


def runs(seeds: int, model: str | None) -> int:
    """Print a line for each fit; how many erred more than they said."""
    print("| model | corpus | seed | sequences | rounds | true | stated | stated / true |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for case in _CASES:
        if model not in (None, case.name):
            continue
        replica = loud_replica(case)
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                truth = large_sample(replica, kind, Path(folder) / "truth", _TRUTH)
                for seed in range(seeds):
                    found = fitted(
                        replica,
                        rows(kind, seed, _ROWS),
                        Path(folder) / str(seed),
                        lanes=_LANES,
                        row_group_tokens=_ROW_GROUP,
                        error_bound=_BOUND,
                    )
                    true, stated = found.true_error(replica, truth), found.stated
                    ratios.append(stated / true)
                    n, rounds = found.factors.n_sequences, len(found.factors.manifest["rounds"])
                    line = (case.name, kind.name, seed, n, rounds, f"{true:.1%}", f"{stated:.1%}")
                    print(f"| {' | '.join(map(str, line))} | {ratios[-1]:.1f} |", flush=True)
    held = sum(ratio >= 1 for ratio in ratios)
    print(
        f"\n{held} of {len(ratios)} within what was stated; stated / true: least "
        f"{min(ratios):.1f}, median {statistics.median(ratios):.1f}, most {max(ratios):.1f}"
    )
    return len(ratios) - held


def wide_replica() -> Replica:
    """A GPT-2 of width 128 with two layers, untrained, in float32; its MLPs are tracked."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_positions=128, n_embd=128, n_layer=2, n_head=2)
    model = freeze(GPT2LMHeadModel(config))
    numerics = Numerics("float32", "cpu", 2048, 2**17, "sdpa", 0)
    return Replica(model, track(model, ["*mlp*"]), numerics)


def cost(repeats: int = 3) -> None:
    """Print the processor time of fits with and without a bound, in turns."""
    replica = wide_replica()
    sample = list(np.random.default_rng(0).integers(0, 512, (256, 128)))
    print("| repeat | without a bound, s | with one, s | ratio |\n|---|---|---|---|")
    for repeat in range(repeats):
        seconds = []
        for bound in (None, 1e-9):
            with tempfile.TemporaryDirectory() as folder:
                started = time.process_time()
                fit_factors(
                    replica,
                    sample,
                    Path(folder),
                    lanes=4,
                    row_group_tokens=256,
                    error_bound=bound,
                )
                seconds.append(time.process_time() - started)
        without, tested = seconds
        print(f"| {repeat} | {without:.1f} | {tested:.1f} | {tested / without:.2f} |", flush=True)


def main() -> None:
    """Do what is asked."""
    sample_stage._LOWEST_LIMIT = 0.0  # as the rule is tested at every size
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("runs", "cost"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--model", choices=[case.name for case in _CASES])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "cost":
        cost()
    elif runs(options.seeds, options.model):
        sys.exit(1)


if __name__ == "__main__":
    main()
