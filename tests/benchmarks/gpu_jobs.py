"""Part b: whole EK-FAC jobs on Qwen2.5's shapes, from loaded model to scores, stage by stage.

Everything stays in memory: what is measured is arithmetic, and no object is written. Eigenbases are
made on the device. Where they would take too long some of each width are, and stand for the rest.
"""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
from contenders import RANK, TOP
from flops import counted
from gpu_device import DEVICE, TOY, Clock, Step, peak_gib, timed
from gpu_shapes import BATCH, DTYPES, device_peak, qwen_shape
from harness import encoded, table
from ours import second_pass
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow.compute.folding import (
    Bases,
    Fold,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.scoring import query_gradient, score_split
from rayinfluence.dataflow.jobs.calibrate import random_bank, trivial_bases
from rayinfluence.dataflow.jobs.eigen import decomposed
from rayinfluence.influence.bank import QueryBank, stack_queries
from rayinfluence.influence.lowrank import low_rank
from rayinfluence.model.modules import track

PATTERNS = {"MLP": ("*.mlp.*",), "all linear": ("*.mlp.*", "*.self_attn.*")}

#: After 0.5B, MLP, float32: the most telling first.
_MORE = (
    ("0.5B", "all linear", "bfloat16"),
    ("0.5B", "MLP", "bfloat16"),
    ("1.5B", "MLP", "float32"),
    ("1.5B", "MLP", "bfloat16"),
    ("3B", "MLP", "bfloat16"),
    ("3B", "MLP", "float32"),
    ("0.5B", "all linear", "float32"),
)


def steps(clock: Clock) -> Iterator[tuple[str, Step]]:
    """0.5B whole, kronfluence beside it, then what time allows."""
    yield "0.5B, MLP, float32", lambda: job("0.5B", "MLP", "float32", clock, 0.4)
    yield "0.5B, MLP, float32, kronfluence", lambda: kronfluence("0.5B")
    for size, modules, dtype in _MORE[: 1 if TOY else None]:
        yield f"{size}, {modules}, {dtype}", lambda a=(size, modules, dtype): job(*a, clock, 0.1)


class Stages:
    """Seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def run(self, name: str, work: Callable[[], Any], n_tokens: int = 0) -> Any:
        """Do a stage and note it."""
        peak_gib()
        seconds, outcome = timed(work)
        self.found[name] = {"seconds": round(seconds, 3), "peak_gib": peak_gib()}
        if n_tokens:
            self.found[name]["tokens_per_s"] = round(n_tokens / seconds)
        # A job that is stopped leaves what it had done in the log.
        print(json.dumps({name: self.found[name]}), file=sys.stderr, flush=True)
        return outcome


def job(size: str, modules: str, dtype: str, clock: Clock, share: float) -> dict[str, Any]:
    """One job, with as many eigendecompositions as fit into a share of the time that is left."""
    free()
    shape = qwen_shape(size, dtype)
    model = shape.build()
    numerics = Numerics(dtype, DEVICE, BATCH, 2**21, "sdpa", 0)
    replica = Replica(model, track(model, PATTERNS[modules]), numerics)
    rows = table(shape.sequences())
    n_tokens = shape.n_sequences * shape.n_tokens
    lane = LaneRows(lambda start: [rows], fitting_labels("sampled", 0))
    stages = Stages()
    warm_up(replica, rows.slice(0, 1))

    fold = stages.run("covariance", lambda: fold_covariance(replica, lane, 1), n_tokens)
    most = share * clock()
    tensors, eigen = stages.run("eigen", lambda fold=fold: decompose(replica, fold, most))
    stages.found["eigen"] |= eigen
    bases = Bases.on(replica, tensors)
    moments = stages.run("lambda", lambda: fold_moments(replica, lane, bases), n_tokens)
    factors = {
        name: ModuleFactors(
            Basis((tensors[f"{of.source}/inputs_basis.0"],)),
            Basis((tensors[f"{name}/outputs_basis.0"],)),
            tensors[f"{of.source}/inputs_eigenvalues"],
            tensors[f"{name}/outputs_eigenvalues"],
            moments.tensors[name].double() / shape.n_sequences,
        )
        for name, of in replica.shapes.items()
    }
    del moments
    operators = {name: EKFAC(of, name) for name, of in factors.items()}
    cut = functools.partial(low_rank, rank=RANK, seed=0)
    narrow = operand_dtype(numerics.torch_dtype, replica.device)
    for n in shape.queries:
        asked = [encoded(tokens) for tokens in shape.query_sequences(n)]

        def ask(asked: list[Any] = asked) -> QueryBank:
            solved = []
            for query in asked:
                found = query_gradient(replica, query).tokens
                parts: dict[str, Tensor] = {}
                for name, (inputs, grads) in found.items():
                    of_module = operators[name].inverse().of_tokens(inputs, grads, cut)
                    parts |= {f"{name}/{part}": t.to(narrow) for part, t in of_module.items()}
                solved.append(parts)
            widths = {name: of.d_in for name, of in replica.shapes.items()}
            return QueryBank.from_tensors([q.digest for q in asked], stack_queries(solved), widths)

        bank = stages.run(f"queries-{n}", ask)
        (scored,) = stages.run(
            f"scan-{n}", lambda bank=bank: score_split(replica, [bank], rows), n_tokens
        )
        partial = scored.partial(SplitGroups(rows), TOP)

        stages.run(
            f"second pass-{n}",
            lambda a=asked, p=partial: second_pass(replica, operators.__getitem__, a, p, rows),
        )
        stages.found[f"scan-{n}"]["kept"] = len(partial.survivors(0))
    shares = flops(replica, rows, bases, bank, stages, dtype)
    return {"n_tokens": n_tokens, "modules": len(replica.modules), **stages.found, **shares}


def free() -> None:
    """Give back what an earlier job held."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def warm_up(replica: Replica, rows: pa.Table) -> None:
    """Kernels and libraries are loaded when they are first used."""
    lane = LaneRows(lambda start: [rows], fitting_labels("sampled", 0))
    fold_covariance(replica, lane, 1)
    fold_moments(replica, lane, trivial_bases(replica, 1))
    score_split(replica, [random_bank(replica, 1, RANK)], rows)
    eigenbasis(torch.eye(64, device=replica.device), "warm-up")


def decompose(
    replica: Replica, fold: Fold, seconds: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Eigenbases on the device, at least one of each width and the rest while there is time.

    Frees the sums as it goes.
    """
    tensors: dict[str, Tensor] = {}
    done: dict[int, list[float]] = defaultdict(list)
    wanted: dict[int, int] = defaultdict(int)
    made: dict[int, dict[str, Tensor]] = {}
    sums = fold.tensors
    sides = [("inputs", s, s.columns) for s in replica.shapes.values() if s.source == s.name]
    sides += [("outputs", s, s.d_out) for s in replica.shapes.values()]
    for side, shape, width in sorted(sides, key=lambda one: one[2]):
        wanted[width] += 1
        spent = sum(map(sum, done.values()))
        if width not in done or spent + max(done[width]) < seconds:
            part = {k: t.double() for k, t in sums.items() if k.startswith(f"{side}/{shape.name}/")}
            took, (found, _) = timed(
                lambda p=part, s=side, of=shape: decomposed(p, s, of, fold.n_tokens, torch.float32)
            )
            done[width].append(took)
            made[width] = {part.partition("_")[2]: tensor for part, tensor in found.items()}
        else:
            found = {f"{side}_{part}": tensor.clone() for part, tensor in made[width].items()}
        for key in [key for key in sums if key.startswith(f"{side}/{shape.name}/")]:
            del sums[key]
        tensors |= {f"{shape.name}/{part}": tensor for part, tensor in found.items()}
    whole = sum(sum(done[w]) / len(done[w]) * n for w, n in wanted.items())
    counts = {str(w): [len(done[w]), n] for w, n in wanted.items()}
    return tensors, {"done_of": counts, "seconds_of_all": round(whole, 2)}


def flops(
    replica: Replica, rows: pa.Table, bases: Bases, bank: QueryBank, stages: Stages, dtype: str
) -> dict[str, Any]:
    """Share of the peak of each pass, from FLOPs counted over a quarter of the rows."""
    part = rows.slice(0, len(rows) // 4)
    lane = LaneRows(lambda start: [part], fitting_labels("sampled", 0))
    n = len(bank)
    passes: dict[str, Callable[[], Any]] = {
        "covariance": lambda: fold_covariance(replica, lane, 1),
        "lambda": lambda: fold_moments(replica, lane, bases),
        f"scan-{n}": lambda: score_split(replica, [bank], part),
    }
    rate = device_peak(DTYPES[dtype])
    for name, run in passes.items():
        per_second = 4 * counted(run) / stages.found[name]["seconds"]
        stages.found[name]["of_peak"] = round(per_second / rate, 3)
    return {"peak_tflops": round(rate / 1e12, 1)}


def kronfluence(size: str) -> dict[str, Any]:
    """The same job by kronfluence 1.0.1: its own passes, dense as it is by default, one query.

    32 of them would be 40 GB of gradients, which it is given through a file.
    """
    from peer_kronfluence import Kronfluence

    free()
    peer = Kronfluence(qwen_shape(size, "float32"))
    stages = Stages()
    n_tokens = peer.shape.n_sequences * peer.shape.n_tokens
    covariances = stages.run("covariance", peer.covariances, n_tokens)
    stages.run("eigen", lambda found=covariances: peer.decompose(found))
    del covariances
    peer.factors |= stages.run("lambda", peer.moments, n_tokens)
    stages.run("queries-1", lambda: peer.ask("dense-1", 1, None))
    stages.run("scan-1", lambda: peer.run("dense-1"), n_tokens)
    return stages.found
