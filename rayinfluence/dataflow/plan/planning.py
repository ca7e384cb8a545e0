"""`rayinfluence plan`: measure a little, and say what the whole run will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rayinfluence.corpus.splits import Split
from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.begin.solver import solvers_of
from rayinfluence.dataflow.compute.pairs_foreseen import ForeseenPairs, JobSize, foreseen_pairs
from rayinfluence.dataflow.compute.refining import lane_count
from rayinfluence.dataflow.compute.refit_foreseen import ForeseenRefit
from rayinfluence.dataflow.compute.representing import target_bytes
from rayinfluence.dataflow.compute.rescoring import queries_at_once
from rayinfluence.dataflow.compute.solves_foreseen import ForeseenSolves
from rayinfluence.dataflow.jobs.calibrate import CalibrateJob, Rates
from rayinfluence.dataflow.layout import SCRATCH
from rayinfluence.dataflow.plan.forecast import Forecast, Share, Work, at_once, forecast, held
from rayinfluence.dataflow.plan.fullest import shares_of, told
from rayinfluence.dataflow.stages.refinement import solver_of
from rayinfluence.dataflow.stages.sample import FitPlan, Piece
from rayinfluence.dataflow.stages.scan import places
from rayinfluence.methods.method import ITSELF
from rayinfluence.methods.registry import (
    GRADIENT_METHODS,
    LAST_LAYER_METHODS,
    SELF_METHODS,
    factors_needed,
    has_token_influences,
)

#: Splits that are scored at most, spread over the corpus.
_SPLITS = 5
#: Token influences of a pair take as long as so many rows of the second pass, at most.
_INFLUENCES = 3


@dataclass(frozen=True)
class Plan:
    """A run before it is paid for.

    Attributes:
        sequences, tokens, splits: of the corpus.
        coverage: share of the model's parameters that is tracked.
        actors: replicas that the forecast is for.
        rates: measured by one worker.
        work: what there is to do.
        forecast: what it takes.
        gpus: how many a replica takes, and whether it fits them, in words; empty on a CPU.
    """

    sequences: int
    coverage: float
    actors: int
    device: str
    rates: Rates
    work: Work
    forecast: Forecast
    gpus: str

    @property
    def device_hours(self) -> float:
        """Of all GPUs, or actors on CPUs."""
        return max(1, self.rates.gpus) * self.actors * self.forecast.hours

    def price(self, per_hour: float) -> float:
        """Of all actors, at so much per actor and hour."""
        return per_hour * self.actors * self.forecast.hours

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "hours": self.forecast.hours}


def plan_run(run: Parts, actors: int) -> Plan:
    """Calibrate on a few splits and forecast a run with this many replicas.

    Its corpus is there; nothing else of the run is done.
    """
    scan, numerics = run.config.scan, run.numerics
    pairs, solves = _pairs(run), _solves(run)
    splits = run.corpus.plan(numerics.split_tokens)
    job = CalibrateJob(
        run.corpus_store,
        run.store / SCRATCH,
        n_queries=_n_queries(run),
        n_banks=_n_banks(run),
        n_themselves=_n_themselves(run),
        normalised=any(
            GRADIENT_METHODS[method].normalised
            for method in scan.methods
            if method in GRADIENT_METHODS
        ),
        rank=None if scan.rank == "dense" else scan.rank,
        top=places(scan.top, run.corpus),
        group_by=tuple(scan.grouped_by),
        labels=run.config.fit.labels,
        n_blocks=run.config.fit.blocks,
        by_token=_by_token(run),
        pairs=pairs.sample,
        # Of several methods, products of the first stand for those of all.
        curvature=next((one.curvature for one in solvers_of(scan).values()), None)
        if solves
        else None,
        n_solved=_solved_together(solves, actors),
        n_asked=_n_asked(run),
    )
    chosen = _spread(splits)
    with run.progress.stage(stage_names.PLAN, sum(split.n_tokens for split in chosen)) as stage:
        (rates,) = run.runner.replicas(job, [chosen], stage.advance)
    work = _work(run, splits, pairs, solves, rates)
    replica = run.replica
    shapes, device = replica.shapes, numerics.device

    def fullest(shares: list[Share]) -> int:
        return max(at_once(held(work, shapes, share, device)) for share in shares)

    return Plan(
        sequences=run.corpus.n_sequences,
        coverage=run.tracked.coverage.share,
        actors=actors,
        device=device,
        rates=rates,
        work=work,
        forecast=forecast(
            rates, work, shapes, shares_of(replica, rates.gpus), actors, actors, device
        ),
        gpus=told(replica, rates.gpus, rates.gpu_bytes, fullest) if rates.gpus else "",
    )


def _spread(splits: Sequence[Split]) -> list[Split]:
    count = min(_SPLITS, len(splits))
    return [splits[int((index + 0.5) * len(splits) / count)] for index in range(count)]


def _work(
    run: Parts,
    splits: Sequence[Split],
    pairs: ForeseenPairs,
    solves: Sequence[ForeseenSolves],
    rates: Rates,
) -> Work:
    corpus, scan = run.corpus, run.config.scan
    fits = {kind: run.fit_plan(kind=kind) for kind in factors_needed(scan.methods)}
    ekfac = fits.get("ekfac")
    moments = [
        lane.n_tokens
        for fit in fits.values()
        for piece in _pieces(fit)
        for lane in fit.moment_lanes(piece)
    ]
    n_queries = _n_queries(run)
    at_once = queries_at_once(run.replica.shapes, run.numerics.device, max(1, _n_banks(run)))
    blocks = [min(at_once, n_queries - start) for start in range(0, n_queries, at_once)]
    survivors = sum(_survivors(run, n * _n_banks(run)) for n in blocks)
    # All methods of sequences by themselves have one query, and its block to themselves.
    survivors += _survivors(run, _n_themselves(run))
    survivors += _INFLUENCES * _influences(run)
    refit = _refit(run, rates)
    represented = sum(_survivors(run, n) for n in blocks) if refit else 0
    rank = None if scan.rank == "dense" else scan.rank
    return Work(
        tokens=corpus.n_tokens,
        splits=len(splits),
        fit_tokens=ekfac.n_tokens if ekfac else 0,
        moment_tokens=sum(moments),
        rounds=len(ekfac.rounds) if ekfac else 0,
        pieces=len(_pieces(ekfac)) if ekfac else 0,
        n_diagonals=int("diagonal" in fits),
        lanes=max((min(fit.n_lanes, len(fit.sample)) for fit in fits.values()), default=1),
        n_queries=n_queries,
        n_banks=_n_banks(run),
        n_themselves=_n_themselves(run),
        top=places(scan.top, run.corpus),
        survivor_tokens=survivors * corpus.n_tokens // corpus.n_sequences,
        pair_queries=pairs.n_queries,
        pair_multiplications=pairs.multiplications,
        rank=rank,
        n_blocks=run.config.fit.blocks,
        operand_bytes=operand_dtype(
            run.numerics.torch_dtype, torch.device(run.numerics.device)
        ).itemsize,
        solves=tuple(solves),
        refit=refit,
        represented_tokens=represented * corpus.n_tokens // corpus.n_sequences,
    )


def _solves(run: Parts) -> list[ForeseenSolves]:
    """What is solved for queries that are refined, by method."""
    corpus, n_queries = run.corpus, _n_queries(run)
    if not n_queries:
        return []
    n_weights = sum(shape.d_out * shape.columns for shape in run.replica.shapes.values())
    found = []
    for method, settings in solvers_of(run.config.scan).items():
        n = min(settings.sequences, corpus.n_sequences)
        found.append(
            ForeseenSolves(
                solver_of(settings),
                sum(one.method == method for one in run.config.scan.scored),
                n_queries,
                n_weights,
                corpus.n_tokens * n // max(1, corpus.n_sequences),
                lane_count(n),
                run.numerics.device,
            )
        )
    return found


def _refit(run: Parts, rates: Rates) -> ForeseenRefit | None:
    """The fit of the last layer, if a method reads what it sees."""
    if rates.layer is None:
        return None
    n_classes, width = run.replica.last_layer.weight_VD.shape
    return ForeseenRefit(
        round(rates.layer.targets * run.corpus.n_tokens),
        n_classes,
        width,
        run.config.scan.representer.steps,
        target_bytes(run.replica),
        _n_asked(run),
        run.numerics.device,
    )


def _n_asked(run: Parts) -> int:
    """Targets of all queries, where a method reads what the last layer sees of them."""
    if not _n_last(run):
        return 0
    answers = [
        one for query in run.queries if query.digest != ITSELF.digest for one in query.answers
    ]
    return sum(max(1, len(one.completion)) for one in answers)


def _n_last(run: Parts) -> int:
    """Methods that read what the last layer sees."""
    return sum(one.method in LAST_LAYER_METHODS for one in run.config.scan.scored)


def _solved_together(solves: Sequence[ForeseenSolves], actors: int) -> int:
    """Queries whose products one actor makes together."""
    return max((one.block(one.n_queries, actors) for one in solves), default=0)


def _pairs(run: Parts) -> ForeseenPairs:
    """Scores by pairs of tokens, of as many survivors as there can be."""
    corpus, scan = run.corpus, run.config.scan
    ekfac = "ekfac" in factors_needed(scan.methods)
    of_a_sequence = corpus.n_tokens / max(1, corpus.n_sequences)
    survivors = _survivors(run, len(run.queries) * len(scan.methods))
    job = JobSize(
        scanned=corpus.n_tokens,
        fitted=run.fit_plan(kind="ekfac").n_tokens if ekfac else 0,
        rescored=int(survivors * of_a_sequence),
        of_a_sequence=of_a_sequence,
        n_sequences=corpus.n_sequences,
    )
    by_gradients = [method for method in scan.methods if method in GRADIENT_METHODS]
    n = min(scan.pair_scores, places(scan.top, corpus))
    return foreseen_pairs(run.queries, n, by_gradients, list(run.replica.shapes.values()), job)


def _pieces(fit: FitPlan) -> list[Piece]:
    """All that a fit may have to make factors of."""
    return [piece for number in range(len(fit.rounds)) for piece in fit.pieces(number)]


def _survivors(run: Parts, n_pairs: int) -> int:
    """Sequences that survive for some of so many pairs of query and method, at most."""
    return min(2 * run.config.scan.top * n_pairs, run.corpus.n_sequences)


def _n_queries(run: Parts) -> int:
    """Queries that methods by gradients ask."""
    return sum(query.digest != ITSELF.digest for query in run.queries)


def _influences(run: Parts) -> int:
    """Pairs that get token influences."""
    scan = run.config.scan
    n = sum(has_token_influences(one.method) for one in scan.scored) * _n_queries(run)
    return n * 2 * min(scan.token_influences, places(scan.top, run.corpus))


def _n_banks(run: Parts) -> int:
    """Methods by gradients of queries, at each of their dampings; one where none takes any time."""
    n = sum(one.method in GRADIENT_METHODS for one in run.config.scan.scored)
    return n or int(not _n_themselves(run) and not _n_last(run))


def _n_themselves(run: Parts) -> int:
    """Methods that read each sequence by itself."""
    return sum(one.method in SELF_METHODS for one in run.config.scan.scored)


def _by_token(run: Parts) -> int:
    """Queries that a survivor is scored for by token, on average; at least one."""
    scan, n_queries = run.config.scan, _n_queries(run)
    first = scan.top if scan.by_token is None else min(scan.by_token, scan.top)
    return -(-2 * first * n_queries // _survivors(run, max(1, n_queries * _n_banks(run))))
