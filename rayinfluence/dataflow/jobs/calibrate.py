"""Calibration: a worker does a little of every stage, with operands of the right shapes.

Query banks and bases are random or trivial: what a stage costs does not depend on their numbers, so
nothing has to be fitted before a run can be planned.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.curvature.blocks import Basis, block_sizes
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.products import accumulation_dtype, operand_dtype
from rayinfluence.curvature.solver import Solver
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.pair_scores import Asked as PairsAsked
from rayinfluence.dataflow.compute.pair_scores import pair_scores
from rayinfluence.dataflow.compute.pairs_foreseen import PairSample
from rayinfluence.dataflow.compute.refining import Refining
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.rescoring import Asked, queries_at_once, rescore
from rayinfluence.dataflow.compute.scoring import AnyBank, score_split
from rayinfluence.dataflow.compute.solves_foreseen import product_operations
from rayinfluence.dataflow.jobs.calibrate_layer import (
    LayerRates,
    layer_rates,
    random_representers,
    timed,
)
from rayinfluence.dataflow.jobs.partials import write_partial
from rayinfluence.dataflow.jobs.watch import Watch
from rayinfluence.dataflow.layout import scratch_key
from rayinfluence.errors import ConfigError
from rayinfluence.influence.bank import Itself, QueryBank
from rayinfluence.methods.method import Curvature, Fitted, GradientMethod
from rayinfluence.methods.registry import GRADIENT_METHODS
from rayinfluence.model.curvature_products import Curvature as CurvatureKind
from rayinfluence.storage.store import Store
from rayinfluence.text import in_bytes

#: Enough splits are scored to last this long, if there are as many.
_SECONDS = 20.0
#: An eigendecomposition of this width, or of the widest factor, stands for all: cost is cubic.
_WIDTH = 1024
#: Sequences that are scored again.
_AGAIN = 8


@dataclass
class Rates:
    """What one worker measured.

    Attributes:
        scan, covariance, moments, rescore: seconds per token.
        eigen: seconds per cubed width.
        pairs: seconds per multiplication of scores by pairs of tokens, as they are counted; 0 where
            there are none.
        partial_bytes: of one split's partials, all banks together.
        worker_bytes: the most memory that the worker's process held; 0 where that is not known.
        device_bytes: the most memory of a CUDA device, of the fullest one; 0 on a CPU.
        gpus: that the worker's replica is over; 0 on a CPU.
        gpu_bytes: of memory that each of them has, the smallest where they differ.
        splits: seconds of each split that was scored.
        refine: seconds per operation of products of curvature, as they are counted; 0 where there
            are none.
        layer: of representer points, if they are among the methods.
    """

    scan: float
    covariance: float
    moments: float
    rescore: float
    eigen: float
    pairs: float
    partial_bytes: int
    worker_bytes: int
    device_bytes: int
    gpus: int
    gpu_bytes: int
    splits: list[float]
    refine: float = 0.0
    layer: LayerRates | None = None


@dataclass
class CalibrateJob:
    """Measure the stages on some splits.

    Args:
        corpus: where they are.
        scratch: where partials are written, and deleted again.
        n_queries: in each bank.
        n_banks: methods that are scanned for.
        n_themselves: methods that read each sequence by itself.
        normalised: whether scores by one of them are of gradients of length 1.
        rank: of the queries, or None for dense ones.
        top: survivors kept.
        group_by: metadata keys.
        labels: of the fit.
        n_blocks: of the fit.
        by_token: queries that a survivor is scored for by token, on average.
        pairs: the query that is scored by pairs of tokens, if any is.
        curvature: that products are made of for a solver, if there is one.
        n_solved: queries that are solved for together.
        n_asked: targets of all queries, where representer points are among the methods.
    """

    corpus: Store
    scratch: Store
    n_queries: int
    n_banks: int
    n_themselves: int
    normalised: bool
    rank: int | None
    top: int
    group_by: tuple[str, ...]
    labels: str
    n_blocks: int
    by_token: int
    pairs: PairSample | None
    curvature: CurvatureKind | None
    n_solved: int
    n_asked: int
    stage: ClassVar[str] = stage_names.PLAN

    def prepare(self, replica: Replica) -> None:
        """Nothing that outlives the one item."""

    def run(self, replica: Replica, item: Sequence[Split], watch: Watch) -> Rates:
        """Measure, on these splits in order.

        Raises:
            ConfigError: a GPU is too small for it.
        """
        gpus = _gpus(replica)
        try:
            return self._measured(replica, item, watch, gpus)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"plan: a replica over {len(gpus)} GPU{'s' * (len(gpus) > 1)} of "
                f"{in_bytes(_smallest(gpus))} ran out of their memory. Set "
                f"`runner.gpus_per_actor: {2 * len(gpus)}`, lower `batch_tokens` or `scan.rank`, "
                "or raise `fit.blocks`."
            ) from error

    def _measured(
        self,
        replica: Replica,
        item: Sequence[Split],
        watch: Watch,
        gpus: Collection[torch.device],
    ) -> Rates:
        banks: list[AnyBank] = [
            random_bank(replica, self.n_queries, self.rank, self.normalised)
        ] * self.n_banks
        labels = fitting_labels(self.labels, replica.numerics.seed)
        bases = trivial_bases(replica, self.n_blocks)
        banks += [itself(replica, bases)] * self.n_themselves
        if self.n_asked:
            representers = random_representers(replica, self.n_queries, self.n_asked)
            banks.append(representers)
        table = read_split(self.corpus, item[0])
        first = table.slice(0, min(len(table), _AGAIN))
        # Once to warm up: allocators, caches, kernels. Rows that cannot be scored drop out.
        warm, *_ = score_split(replica, banks, first)
        first = first.filter(pc.is_in(first["sequence_id"], pa.array(warm.ids_N)))
        seconds, tokens, partial_bytes = [], 0, 0
        for split in item:
            started = time.monotonic()
            table = read_split(self.corpus, split)
            scored = score_split(replica, banks, table, watch.advance)
            for index, one in enumerate(scored):
                partial = one.partial(SplitGroups(table, self.group_by), self.top)
                write_partial(partial, self.scratch, scratch_key(index))
            seconds.append(time.monotonic() - started)
            tokens += split.n_tokens
            written = self.scratch.list()
            partial_bytes = sum(written[scratch_key(i)].size for i in range(len(banks)))
            if sum(seconds) > _SECONDS:
                break
        ours = {scratch_key(index) for index in range(len(banks))}
        # Whole where nothing else is in it, so that no empty folder is left on a disk.
        for key in [""] if ours == self.scratch.list().keys() else sorted(ours):
            self.scratch.delete(key)
        rows = LaneRows(lambda start: [table][start:], labels)
        last = item[len(seconds) - 1].n_tokens
        covariance = timed(lambda: fold_covariance(replica, rows, self.n_blocks)) / last
        moments = timed(lambda: fold_moments(replica, rows, bases)) / last
        asked = [self._asked(replica, len(first))] * self.n_banks
        asked += [_of_all(itself(replica, bases), len(first))] * self.n_themselves
        again = sum(first["n_tokens"].to_pylist())
        return Rates(
            scan=sum(seconds) / tokens,
            covariance=covariance,
            moments=moments,
            rescore=timed(lambda: rescore(replica, asked, first)) / again if asked else 0.0,
            eigen=_eigen_rate(replica),
            pairs=self._pairs_rate(replica, bases, first, again),
            partial_bytes=partial_bytes,
            worker_bytes=peak_bytes(),
            device_bytes=_device_bytes(gpus),
            gpus=len(gpus),
            gpu_bytes=_smallest(gpus),
            splits=seconds,
            refine=self._refine_rate(replica, bases, first, again),
            layer=layer_rates(replica, representers, first) if self.n_asked else None,
        )

    def _refine_rate(self, replica: Replica, bases: Bases, rows: pa.Table, n_tokens: int) -> float:
        """Of products of curvature over some rows, as many together as there will be."""
        if self.curvature is None:
            return 0.0
        operators = {
            name: EKFAC(_factors(replica, bases, name), name, damping=1.0)
            for name in replica.shapes
        }
        work = Refining(replica, operators, [rows], self.curvature)
        directions = [
            {name: torch.ones_like(one) for name, one in work.zeros().items()}
        ] * self.n_solved
        n_weights = sum(one.numel() for one in directions[0].values())

        def made() -> None:
            work.lane_sums(0, directions, lambda _: None)

        made()  # second derivatives have kernels of their own, which are found once
        return timed(made) / product_operations(n_tokens, n_weights, self.n_solved)

    def _pairs_rate(self, replica: Replica, bases: Bases, rows: pa.Table, n_tokens: int) -> float:
        """Of a query by pairs of its tokens and those of some rows, all of which have scores."""
        if self.pairs is None:
            return 0.0
        sample, ids = self.pairs, rows["sequence_id"].to_numpy()
        asked = [
            PairsAsked(partial(_solver, replica, bases, method), method.normalised, ids)
            for method in (GRADIENT_METHODS[name] for name in sample.methods)
        ]
        seconds = timed(lambda: pair_scores(replica, sample.query, sample.ends, asked, rows))
        return seconds / sample.multiplications(list(replica.shapes.values()), n_tokens)

    def _asked(self, replica: Replica, n_rows: int) -> Asked:
        """What the second pass is asked of some rows: everything, and by token as on average."""
        n = min(
            self.n_queries,
            queries_at_once(replica.shapes, replica.numerics.device, max(1, self.n_banks)),
        )
        wanted = np.ones((n_rows, n), dtype=np.bool_)
        by_token = np.arange(n) < min(n, self.by_token)
        cut = None if self.rank is None else random_bank(replica, n, self.rank)
        whole = random_bank(replica, n, None, self.normalised)
        return Asked(whole, cut, wanted, wanted & by_token)


def random_bank(
    replica: Replica, n_queries: int, rank: int | None, normalised: bool = False
) -> QueryBank:
    """Queries of the right shapes where a replica's modules are, their numbers random."""
    generators = {
        there: torch.Generator(there).manual_seed(0) for there in replica.devices.values()
    }
    dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)

    def random(name: str, *shape: int) -> Tensor:
        there = replica.devices[name]
        return torch.randn(shape, generator=generators[there], device=there, dtype=dtype)

    tensors: dict[str, Tensor] = {}
    for name, shape in replica.shapes.items():
        if rank is None:
            tensors[f"{name}/dense"] = random(name, n_queries, shape.d_out, shape.columns)
        else:
            cut = min(rank, shape.d_out, shape.columns)
            tensors[f"{name}/left"] = random(name, shape.d_out, n_queries, cut)
            tensors[f"{name}/right"] = random(name, shape.columns, n_queries, cut)
    widths = {name: shape.d_in for name, shape in replica.shapes.items()}
    digests = [str(i) for i in range(n_queries)]
    return QueryBank.from_tensors(digests, tensors, widths, normalised)


def itself(replica: Replica, bases: Bases) -> QueryBank:
    """What reads each sequence by itself, with bases and moments of the right shapes."""
    modules = {
        name: Itself(EKFAC(_factors(replica, bases, name), name).inverse(), shape.d_in)
        for name, shape in replica.shapes.items()
    }
    return QueryBank(["itself"], modules)


def _solver(replica: Replica, bases: Bases, method: GradientMethod, name: str) -> Solver:
    """A method's, of a module, with bases and moments of the right shapes."""
    curvature = Curvature(_factors(replica, bases, name), 1, 1, damping_scale=0.1, damping=None)
    return method.solver(Fitted(name, replica.shapes[name].bias, curvature))


def _factors(replica: Replica, bases: Bases, name: str) -> ModuleFactors:
    # As factors are, whatever is multiplied elsewhere.
    dtype, there = accumulation_dtype(replica.numerics.torch_dtype), replica.devices[name]
    inputs, outputs = (
        side.to(dtype=dtype, device=there) for side in (bases.inputs[name], bases.outputs[name])
    )
    ones_J = torch.ones(inputs.width, device=there)
    ones_O = torch.ones(outputs.width, device=there)
    return ModuleFactors(inputs, outputs, ones_J, ones_O, torch.outer(ones_O, ones_J))


def _of_all(bank: QueryBank, n_rows: int) -> Asked:
    """What is asked of sequences by themselves: everything."""
    wanted = np.ones((n_rows, 1), dtype=np.bool_)
    return Asked(bank, None, wanted, wanted)


def trivial_bases(replica: Replica, n_blocks: int) -> Bases:
    """Identities in the place of eigenbases, where a replica's modules are."""
    dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)

    @cache
    def identity(name: str, side: str, device: torch.device) -> Basis:
        width = replica.shapes[name].widths.get(side)
        if width is None:
            wide = replica.shapes[name].d_out if side == "outputs" else replica.shapes[name].columns
            return Basis.identity(wide, dtype, device)
        sizes = block_sizes(width, n_blocks)
        return Basis(tuple(torch.eye(n, dtype=dtype, device=device) for n in sizes))

    return Bases.of_modules(replica, identity)


def _eigen_rate(replica: Replica) -> float:
    width = min(_WIDTH, max(max(s.columns, s.d_out) for s in replica.shapes.values()))
    rows = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0))
    matrix = (rows.T @ rows).double().to(replica.device)
    eigenbasis(matrix[:8, :8], "calibration")  # a device loads its library
    return timed(lambda: eigenbasis(matrix, "calibration")) / width**3


def peak_bytes() -> int:
    """The most memory that this process has held; 0 on a system that does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS and in KiB elsewhere.
    return peak if sys.platform == "darwin" else peak * 1024


def _gpus(replica: Replica) -> set[torch.device]:
    """The CUDA devices that a replica is over."""
    used = {weight.device for weight in replica.model.parameters()}
    return {device for device in used if device.type == "cuda"}


def _device_bytes(gpus: Collection[torch.device]) -> int:
    return max((int(torch.cuda.max_memory_allocated(device)) for device in gpus), default=0)


def _smallest(gpus: Collection[torch.device]) -> int:
    return min((int(torch.cuda.mem_get_info(device)[1]) for device in gpus), default=0)
