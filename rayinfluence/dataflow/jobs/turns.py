"""The jobs of solves whose products are made lane by lane, in turns.

In a turn, vectors are written whose products a solve goes on with; lanes of the sample are summed,
each by whoever is free; and what follows from their sum is the solve's next state. It has the bits
that it has in one process, as there the lanes are the same.

Picklable; no Ray. Doing an item twice writes the same bytes under the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.solving import Solving, Subject, names_of
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import TURNS, asked_key, lane_sums_key, turn_of
from rayinfluence.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class LaneAsked:
    """Products of some subjects' vectors, over one lane: each with its turn."""

    lane: int
    subjects: tuple[tuple[Subject, int], ...]


@dataclass
class LaneJob(Solving):
    """Sum products over a lane, and commit those of each subject."""

    def run(self, replica: Replica, item: LaneAsked, watch: Watch) -> None:
        """Do one lane."""
        subjects = [subject for subject, _ in item.subjects]
        turn = item.subjects[0][1]
        begin_or_refuse(watch, f"products of {names_of(subjects)}, lane {item.lane}, turn {turn}")
        asked = [self._asked(subject, turn) for subject, turn in item.subjects]
        sums = self.work.lane_sums(item.lane, [v for one in asked for v in one], watch.advance)
        start = 0
        for (subject, turn), vectors in zip(item.subjects, asked, strict=True):
            ours = {
                f"{place}/{name}": sums[f"{start + place}/{name}"]
                for place, vector in enumerate(vectors)
                for name in vector
            }
            key = lane_sums_key(subject.key, turn, item.lane)
            write_tensors(self.operands.store, key, {**ours, "n": sums["n"]}, {})
            start += len(vectors)

    def _asked(self, subject: Subject, turn: int) -> list[Vectors]:
        tensors, header = read_tensors(self.operands.store, asked_key(subject.key, turn))
        vectors: list[dict[str, Tensor]] = [{} for _ in range(header["vectors"])]
        for key, tensor in tensors.items():
            place, _, name = key.partition("/")
            vectors[int(place)][name] = self.work.on_device(name, tensor)
        return list(vectors)


@dataclass(frozen=True)
class TurnAsked:
    """A subject whose next state is wanted, and the turn that it is in; None: it is to begin."""

    subject: Subject
    turn: int | None


@dataclass
class TurnJob(Solving):
    """Go on with a solve, from the sums of all lanes to the vectors that it asks for next."""

    def run(self, replica: Replica, item: TurnAsked, watch: Watch) -> None:
        """Do one turn of a subject."""
        subject = item.subject
        begin_or_refuse(watch, f"going on with {subject.name} from turn {item.turn}")
        if self.is_cut_again(replica, subject):
            return
        state = self.begun(replica, subject)
        if state.turns == item.turn and (asked := self.wanted(state)) is not None:
            sums = self._sums(subject, item.turn)
            products = self.work.products(sums, len(asked.directions))
            state = self.advanced(state, products)
        following = self.wanted(state)
        if following is None:
            self.commit(replica, subject, state)
        else:
            self.keep(subject, state)
            vectors = {
                f"{place}/{name}": one
                for place, vector in enumerate(following.directions)
                for name, one in vector.items()
            }
            header = {"vectors": len(following.directions)}
            write_tensors(self.operands.store, asked_key(subject.key, state.turns), vectors, header)
        self._drop(subject, None if following is None else state.turns)

    def _sums(self, subject: Subject, turn: int) -> Iterator[dict[str, Tensor]]:
        for lane in self.work.lanes_of(None):
            key = lane_sums_key(subject.key, turn, lane)
            yield read_tensors(self.operands.store, key)[0]

    def _drop(self, subject: Subject, kept: int | None) -> None:
        """Delete what was written for a subject's other turns."""
        store = self.operands.store
        for key in store.list(TURNS):
            name, turn, _ = turn_of(key)
            if name == subject.digest and turn != kept:
                store.delete(key)


def open_turns(keys: Sequence[str]) -> dict[str, int]:
    """By what is solved for, the last turn of which vectors are there."""
    turns: dict[str, int] = {}
    for key in keys:
        name, turn, is_lane = turn_of(key)
        if not is_lane:
            turns[name] = max(turn, turns.get(name, turn))
    return turns
