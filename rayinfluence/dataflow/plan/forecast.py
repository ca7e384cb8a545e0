"""What a run will take: hours, money and bytes, from one worker's rates. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayinfluence.curvature.blocks import block_sizes
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.module_groups import module_groups
from rayinfluence.dataflow.jobs.calibrate import Rates
from rayinfluence.model.modules import ModuleShape

#: A sum, and a sum of squares in the eigenbasis, is kept in float32; a basis too.
_FLOAT = 4


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        tokens, splits: of the corpus.
        fit_tokens: of the sample of EK-FAC's fit, folded once for covariances.
        moment_tokens: folded for moments, over all pieces that the fits may need.
        rounds: of EK-FAC's fit, at most; none where no method needs it.
        pieces: that have bases of their own: every round's sample, and what is new in it.
        n_diagonals: fits of moments alone.
        lanes: of the fit.
        n_queries, n_banks, top: of the scan.
        n_themselves: methods that read each sequence by itself, with factors in the scan.
        survivor_tokens: of all survivors, once per block of queries, and of pairs with token
            influences as often as these are dearer.
        rank: of the queries, or None where they are dense.
        n_blocks: that factors are split into.
        operand_bytes: of a number that is multiplied.
    """

    tokens: int
    splits: int
    fit_tokens: int
    moment_tokens: int
    rounds: int
    pieces: int
    n_diagonals: int
    lanes: int
    n_queries: int
    n_banks: int
    n_themselves: int
    top: int
    survivor_tokens: int
    rank: int | None
    n_blocks: int
    operand_bytes: int


@dataclass(frozen=True)
class Forecast:
    """Seconds by stage, with this many workers, and bytes by what takes them."""

    seconds: dict[str, float]
    stored: dict[str, int]
    memory: dict[str, int]

    @property
    def hours(self) -> float:
        """Of all stages one after another."""
        return sum(self.seconds.values()) / 3600


def forecast(
    rates: Rates,
    work: Work,
    shapes: Mapping[str, ModuleShape],
    model_bytes: int,
    actors: int,
    eigen_tasks: int,
    device: str,
) -> Forecast:
    """What a run takes.

    Args:
        rates: of one worker.
        work: to be done.
        shapes: of the tracked modules.
        model_bytes: of a replica's weights.
        actors: replicas.
        eigen_tasks: eigendecompositions at a time.
        device: of the replicas.
    """
    widths = eigen_widths(shapes, work.n_blocks)
    cubes = sum(width**3 for width in widths)
    squares = sum(width**2 for width in widths)
    numbers = sum(shape.d_out * shape.columns for shape in shapes.values())
    ekfac, diagonal = int(work.rounds > 0), _FLOAT * numbers
    n_fits = ekfac + work.n_diagonals
    lanes = -(-work.lanes // actors) * actors / work.lanes  # actors idle when lanes run out
    seconds = {
        stage_names.COVARIANCE: rates.covariance * work.fit_tokens / actors * lanes,
        stage_names.EIGEN: rates.eigen * cubes * work.pieces / eigen_tasks,
        stage_names.MOMENTS: rates.moments * work.moment_tokens / actors * lanes,
        stage_names.SCAN: rates.scan * work.tokens / actors,
        stage_names.RESCORE: rates.rescore * work.survivor_tokens / actors,
    }
    stored = {
        "corpus": 4 * work.tokens,
        "sums of lanes": _FLOAT * work.lanes * (squares * work.rounds + numbers * n_fits),
        "factors": ekfac * factor_bytes(shapes, work.n_blocks) + work.n_diagonals * diagonal,
        "queries": work.n_banks * bank_bytes(shapes, work.n_queries, work.rank, _FLOAT),
        "partials": rates.partial_bytes * work.splits,
    }
    memory = {
        "weights": model_bytes,
        "query banks": work.n_banks
        * bank_bytes(shapes, work.n_queries, work.rank, work.operand_bytes),
        "bases and sums while fitting": max(
            ekfac * fitting_bytes(shapes, work.n_blocks, work.operand_bytes, device),
            work.n_diagonals * diagonal,
        ),
        "one query at full rank in the second pass": _FLOAT * numbers,
    }
    if work.n_themselves:
        memory["factors in the scan"] = work.n_themselves * factor_bytes(shapes, work.n_blocks)
    if rates.worker_bytes:
        memory["worker process, measured"] = rates.worker_bytes
    if rates.device_bytes:
        memory["CUDA device, measured"] = rates.device_bytes
    return Forecast(seconds, stored, memory)


def fitting_bytes(
    shapes: Mapping[str, ModuleShape], n_blocks: int, operand_bytes: int, device: str
) -> int:
    """Bytes of the sums and bases of modules that are fitted together, of the largest group."""

    def fitted(names: Sequence[str]) -> int:
        ours = {name: shapes[name] for name in names}
        squares = sum(width**2 for width in eigen_widths(ours, n_blocks))
        numbers = sum(shape.n_parameters for shape in ours.values())
        return (operand_bytes + _FLOAT) * squares + _FLOAT * numbers

    return max(map(fitted, module_groups(shapes, device)))


def factor_bytes(shapes: Mapping[str, ModuleShape], n_blocks: int) -> int:
    """Bytes of the factors, as they are stored."""
    squares = sum(width**2 for width in eigen_widths(shapes, n_blocks))
    return _FLOAT * (2 * squares + sum(shape.n_parameters for shape in shapes.values()))


def eigen_widths(shapes: Mapping[str, ModuleShape], n_blocks: int) -> list[int]:
    """Widths of the blocks that are decomposed: inputs that modules share count once."""
    widths = [
        shape.widths[side]
        for side in ("inputs", "outputs")
        for shape in shapes.values()
        if side in shape.widths and (side == "outputs" or shape.source == shape.name)
    ]
    return [size for width in widths for size in block_sizes(width, n_blocks)]


def bank_bytes(
    shapes: Mapping[str, ModuleShape], n_queries: int, rank: int | None, number_bytes: int
) -> int:
    """Bytes of one query bank; without a rank it is dense."""
    total = 0
    for shape in shapes.values():
        least = min(shape.d_out, shape.columns)
        total += (
            shape.n_parameters if rank is None else min(rank, least) * (shape.d_out + shape.columns)
        )
    return n_queries * total * number_bytes
