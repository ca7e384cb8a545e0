"""What a run will take: hours, money and bytes, from one worker's rates. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rayinfluence.curvature.blocks import block_sizes
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.module_groups import module_groups
from rayinfluence.dataflow.compute.refit_foreseen import ForeseenRefit
from rayinfluence.dataflow.compute.solves_foreseen import ForeseenSolves
from rayinfluence.dataflow.jobs.calibrate import Rates
from rayinfluence.model.modules import ModuleShape

#: A sum, and a sum of squares in the eigenbasis, is kept in float32; a basis too.
_FLOAT = 4
_WEIGHTS, _BANKS, _FITTING = "weights", "query banks", "bases and sums while fitting"
_SOLUTIONS, _SOLVING = "refined queries at full rank", "vectors and factors of the solver"
_FEATURES, _LAYER = "what the last layer sees of targets", "last layer, fitted again"
_REFITTING, _REPRESENTERS = "fit of the last layer", "last layer and its queries in the scan"
_QUERY, _FACTORS = "one query at full rank in the second pass", "factors in the scan"


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
        pair_queries, pair_multiplications: of scores by pairs of tokens, a query at a time.
        rank: of the queries, or None where they are dense.
        n_blocks: that factors are split into.
        operand_bytes: of a number that is multiplied.
        solves: of queries that a solver refines, by method.
        refit: of the last layer for representer points, if they are among the methods.
        represented_tokens: of their survivors, once per block of queries.
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
    pair_queries: int
    pair_multiplications: int
    rank: int | None
    n_blocks: int
    operand_bytes: int
    solves: tuple[ForeseenSolves, ...] = ()
    refit: ForeseenRefit | None = None
    represented_tokens: int = 0


@dataclass(frozen=True)
class Share:
    """What of a replica lies on one device: bytes of weights, and tracked modules by name."""

    weights: int
    modules: Collection[str]


@dataclass(frozen=True)
class Forecast:
    """Seconds by stage, with this many workers, and bytes by what takes them.

    Attributes:
        memory: of a replica, and what was measured of it.
        fullest: of the device of a replica that has the most at once.
    """

    seconds: dict[str, float]
    stored: dict[str, int]
    memory: dict[str, int]
    fullest: dict[str, int]

    @property
    def hours(self) -> float:
        """Of all stages one after another."""
        return sum(self.seconds.values()) / 3600


def forecast(
    rates: Rates,
    work: Work,
    shapes: Mapping[str, ModuleShape],
    shares: Sequence[Share],
    actors: int,
    eigen_tasks: int,
    device: str,
) -> Forecast:
    """What a run takes.

    Args:
        rates: of one worker.
        work: to be done.
        shapes: of the tracked modules.
        shares: of a replica's devices.
        actors: replicas.
        eigen_tasks: eigendecompositions at a time.
        device: of the replicas.
    """
    widths = eigen_widths(shapes, work.n_blocks)
    cubes = sum(width**3 for width in widths)
    squares = sum(width**2 for width in widths)
    numbers = _numbers(shapes)
    ekfac, diagonal = int(work.rounds > 0), _FLOAT * numbers
    n_fits = ekfac + work.n_diagonals
    lanes = -(-work.lanes // actors) * actors / work.lanes  # actors idle when lanes run out
    seconds = {
        stage_names.COVARIANCE: rates.covariance * work.fit_tokens / actors * lanes,
        stage_names.EIGEN: rates.eigen * cubes * work.pieces / eigen_tasks,
        stage_names.MOMENTS: rates.moments * work.moment_tokens / actors * lanes,
        **_refitting(rates, work, actors),
        **(
            {stage_names.REFINE: rates.refine * sum(one.operations(actors) for one in work.solves)}
            if work.solves
            else {}
        ),
        stage_names.SCAN: rates.scan * work.tokens / actors,
        stage_names.RESCORE: rates.rescore * work.survivor_tokens / actors
        + rates.pairs * work.pair_multiplications * _largest_part(work.pair_queries, actors)
        + (rates.layer.rescore * work.represented_tokens / actors if rates.layer else 0.0),
    }
    stored = {
        "corpus": 4 * work.tokens,
        "sums of lanes": _FLOAT * work.lanes * (squares * work.rounds + numbers * n_fits),
        "factors": ekfac * factor_bytes(shapes, work.n_blocks) + work.n_diagonals * diagonal,
        "queries": work.n_banks * bank_bytes(shapes, work.n_queries, work.rank, _FLOAT),
        "partials": rates.partial_bytes * work.splits,
    }
    if work.solves:
        stored[_SOLUTIONS] = sum(one.stored_bytes for one in work.solves)
    if work.refit:
        stored[_FEATURES], stored[_LAYER] = work.refit.features_bytes, work.refit.layer_bytes
        stored["queries"] += work.refit.queries_bytes
    whole = Share(sum(share.weights for share in shares), shapes)
    memory = held(work, shapes, whole, device)
    if rates.worker_bytes:
        memory["worker process, measured"] = rates.worker_bytes
    if rates.device_bytes:
        memory["CUDA device, measured"] = rates.device_bytes
    by_device = [held(work, shapes, share, device) for share in shares]
    return Forecast(seconds, stored, memory, max(by_device, key=at_once))


def _refitting(rates: Rates, work: Work, actors: int) -> dict[str, float]:
    """Seconds of what representer points are made of: the fit is one replica's."""
    if rates.layer is None or work.refit is None:
        return {}
    return {
        stage_names.FEATURES: rates.layer.features * work.tokens / actors,
        stage_names.REFIT: rates.layer.refit * work.refit.operations,
    }


def _largest_part(n: int, actors: int) -> float:
    """What of so many equal pieces of work the actor with the most of them has."""
    return -(-n // actors) / max(n, 1)


def held(
    work: Work, shapes: Mapping[str, ModuleShape], share: Share, device: str
) -> dict[str, int]:
    """Bytes in the memory of a device, by what takes them, without activations.

    Args:
        work: to be done.
        shapes: of all tracked modules.
        share: what of the replica is on the device.
        device: its kind.
    """
    here = {name: shapes[name] for name in share.modules}
    diagonal = _FLOAT * _numbers(here)
    fitting = fitting_bytes(shapes, work.n_blocks, work.operand_bytes, device, here)
    bank = bank_bytes(here, work.n_queries, work.rank, work.operand_bytes)
    found = {
        _WEIGHTS: share.weights,
        _BANKS: work.n_banks * bank,
        _FITTING: max(int(work.rounds > 0) * fitting, work.n_diagonals * diagonal),
        _QUERY: diagonal,
    }
    if work.n_themselves:
        found[_FACTORS] = work.n_themselves * factor_bytes(here, work.n_blocks)
    if work.solves:
        vectors = max(one.block_bytes(_numbers(here)) for one in work.solves)
        found[_SOLVING] = vectors + factor_bytes(here, work.n_blocks)
    if work.refit:  # each device is counted as the one with the last layer
        found[_REFITTING], found[_REPRESENTERS] = work.refit.fit_bytes, work.refit.scan_bytes
    return found


def at_once(memory: Mapping[str, int]) -> int:
    """The most bytes held at one time: of fits, of solves, or of a scan and its second pass.

    Args:
        memory: as :func:`held` gives it.
    """
    scan = memory[_BANKS] + memory[_QUERY] + memory.get(_FACTORS, 0) + memory.get(_REPRESENTERS, 0)
    fits = (memory.get(one, 0) for one in (_FITTING, _SOLVING, _REFITTING))
    return memory[_WEIGHTS] + max(scan, *fits)


def fitting_bytes(
    shapes: Mapping[str, ModuleShape],
    n_blocks: int,
    operand_bytes: int,
    device: str,
    here: Collection[str],
) -> int:
    """Bytes of the sums and bases of modules that are fitted together, of the largest group.

    Args:
        shapes: of all tracked modules.
        n_blocks: that factors are split into.
        operand_bytes: of a number that is multiplied.
        device: the kind that they are fitted on.
        here: the modules whose bytes count: those on one device, or all.
    """

    def fitted(names: Sequence[str]) -> int:
        ours = {name: shapes[name] for name in names if name in here}
        squares = sum(width**2 for width in eigen_widths(ours, n_blocks))
        return (operand_bytes + _FLOAT) * squares + _FLOAT * _numbers(ours)

    return max(map(fitted, module_groups(shapes, device)))


def factor_bytes(shapes: Mapping[str, ModuleShape], n_blocks: int) -> int:
    """Bytes of the factors, as they are stored."""
    squares = sum(width**2 for width in eigen_widths(shapes, n_blocks))
    return _FLOAT * (2 * squares + _numbers(shapes))


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


def _numbers(shapes: Mapping[str, ModuleShape]) -> int:
    """Entries of all weights and biases."""
    return sum(shape.n_parameters for shape in shapes.values())
