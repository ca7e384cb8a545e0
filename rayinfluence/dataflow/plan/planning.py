"""`rayinfluence plan`: measure a little, and say what the whole run will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.corpus.splits import Split
from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.compute.rescoring import queries_at_once
from rayinfluence.dataflow.jobs.calibrate import CalibrateJob, Rates
from rayinfluence.dataflow.layout import SCRATCH
from rayinfluence.dataflow.plan.forecast import Forecast, Work, forecast
from rayinfluence.dataflow.stages.scan import places
from rayinfluence.methods.registry import GRADIENT_METHODS, has_token_influences

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
    """

    sequences: int
    coverage: float
    actors: int
    device: str
    rates: Rates
    work: Work
    forecast: Forecast

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
    splits = run.corpus.plan(numerics.split_tokens)
    job = CalibrateJob(
        run.corpus_store,
        run.store / SCRATCH,
        n_queries=len(run.queries),
        n_banks=_n_banks(run),
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
    )
    chosen = _spread(splits)
    with run.progress.stage(stage_names.PLAN, sum(split.n_tokens for split in chosen)) as stage:
        (rates,) = run.runner.replicas(job, [chosen], stage.advance)
    work = _work(run, splits)
    replica = run.replica
    weights = sum(w.numel() * w.element_size() for w in replica.model.parameters())
    return Plan(
        sequences=run.corpus.n_sequences,
        coverage=run.tracked.coverage.share,
        actors=actors,
        device=numerics.device,
        rates=rates,
        work=work,
        forecast=forecast(rates, work, replica.shapes, weights, actors, actors, numerics.device),
    )


def _spread(splits: Sequence[Split]) -> list[Split]:
    count = min(_SPLITS, len(splits))
    return [splits[int((index + 0.5) * len(splits) / count)] for index in range(count)]


def _work(run: Parts, splits: Sequence[Split]) -> Work:
    corpus, scan = run.corpus, run.config.scan
    fit = run.fit_plan()
    pieces = [piece for number in range(len(fit.rounds)) for piece in fit.pieces(number)]
    moments = [lane.n_tokens for piece in pieces for lane in fit.moment_lanes(piece)]
    n_queries = len(run.queries)
    at_once = queries_at_once(run.replica.shapes, run.numerics.device, _n_banks(run))
    blocks = [min(at_once, n_queries - start) for start in range(0, n_queries, at_once)]
    survivors = sum(_survivors(run, n) for n in blocks) + _INFLUENCES * _influences(run)
    rank = None if scan.rank == "dense" else scan.rank
    return Work(
        tokens=corpus.n_tokens,
        splits=len(splits),
        fit_tokens=fit.n_tokens,
        moment_tokens=sum(moments),
        rounds=len(fit.rounds),
        pieces=len(pieces),
        lanes=min(fit.n_lanes, len(fit.sample)),
        n_queries=n_queries,
        n_banks=_n_banks(run),
        top=places(scan.top, run.corpus),
        survivor_tokens=survivors * corpus.n_tokens // corpus.n_sequences,
        rank=rank,
        n_blocks=run.config.fit.blocks,
        operand_bytes=operand_dtype(run.numerics.torch_dtype, run.replica.device).itemsize,
    )


def _survivors(run: Parts, n_queries: int) -> int:
    """Sequences that survive for some of so many queries, at most."""
    scan = run.config.scan
    return min(2 * scan.top * n_queries * _n_banks(run), run.corpus.n_sequences)


def _influences(run: Parts) -> int:
    """Pairs that get token influences."""
    scan = run.config.scan
    n = sum(map(has_token_influences, scan.methods)) * len(run.queries)
    return n * 2 * min(scan.token_influences, places(scan.top, run.corpus))


def _n_banks(run: Parts) -> int:
    """Methods by gradients, which are all that takes time; one where there is none of them."""
    return max(1, sum(method in GRADIENT_METHODS for method in run.config.scan.methods))


def _by_token(run: Parts) -> int:
    """Queries that a survivor is scored for by token, on average; at least one."""
    scan, n_queries = run.config.scan, len(run.queries)
    first = scan.top if scan.by_token is None else min(scan.by_token, scan.top)
    return -(-2 * first * n_queries // _survivors(run, n_queries))
