"""Solves in turns: a product of one solve is made by many replicas, lane by lane.

For few queries and many replicas. Each turn ends where all lanes are there, and all that is known
between turns is in the run directory: who comes next goes on from the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayinfluence.dataflow.compute.scoring import Advance
from rayinfluence.dataflow.jobs.solving import SolverOperands, Subject
from rayinfluence.dataflow.jobs.turns import LaneAsked, LaneJob, TurnAsked, TurnJob, open_turns
from rayinfluence.dataflow.layout import TURNS, lane_sums_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Place, not_there


def in_turns(
    runner: Runner,
    operands: SolverOperands,
    is_prepared: bool,
    blocks: Sequence[Sequence[Subject]],
    is_done: Callable[[Subject], bool],
    advance: Advance,
) -> Iterator[Any]:
    """Solve for some subjects, turn by turn, until all are committed.

    Args:
        runner: where it runs.
        operands: of the solver.
        is_prepared: whether what the solver makes once is there.
        blocks: of subjects whose products are made together.
        is_done: whether all of a subject is there.
        advance: told of tokens.

    Raises:
        StorageError: what was written is not there.
    """
    store, before = operands.store, None
    while left := [one for block in blocks for one in block if not is_done(one)]:
        keys = store.list(TURNS)
        turns = open_turns(list(keys))
        asked = []
        for block in blocks:
            ours = [
                (one, turns[one.digest]) for one in block if one in left and one.digest in turns
            ]
            for lane in range(operands.n_lanes):
                lacking = [
                    (one, turn)
                    for one, turn in ours
                    if lane_sums_key(one.key, turn, lane) not in keys
                ]
                if lacking:
                    asked.append(LaneAsked(lane, tuple(lacking)))
        yield from runner.replicas(LaneJob(operands, is_prepared), asked, advance)
        following = [TurnAsked(one, turns.get(one.digest)) for one in left]
        yield from runner.replicas(TurnJob(operands, is_prepared), following, advance)
        if following == before:
            raise not_there(Place(store, left[0].key))
        before = following
