"""A model before there is a corpus: what of it is tracked, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.dataflow.begin.tracked import TrackedModel
from rayinfluence.errors import RayInfluenceError
from rayinfluence.model.preflight import Passed


@dataclass(frozen=True)
class Alike:
    """Linear layers of one name, part and shape.

    Attributes:
        pattern: their name, with stars for numbers.
        part: in their block; None outside of blocks, or where they are not called.
        number: how many.
        d_in, d_out, bias: of each.
        tracked: whether they are.
        why: they are not.
        factored_up_to: for so many queries a full window is scored through their rank, token by
            token; for more, each sequence's gradient is made. None where that is never cheaper.
    """

    pattern: str
    part: str | None
    number: int
    d_in: int
    d_out: int
    bias: bool
    tracked: bool
    why: str | None
    factored_up_to: int | None


@dataclass(frozen=True)
class Bytes:
    """What a replica holds, and what is stored.

    Attributes:
        weights: of the model.
        activations: that a batch of whole contexts keeps for its backward pass, by what sequences
            of ``measured_on`` tokens and of half as many do.
        measured_on: tokens.
        fitting: sums and bases of the modules that are fitted together.
        factors: all of them, as they are stored.
        bank: of one query, in memory.
        gradient: of one query, as the second pass holds it.
        window: of what modules saw of sequences that are scored together.
    """

    weights: int
    activations: int
    measured_on: int
    fitting: int
    factors: int
    bank: int
    gradient: int
    window: int

    @property
    def fit(self) -> int:
        """Of a replica that fits factors."""
        return self.weights + self.activations + self.fitting

    @property
    def scan(self) -> int:
        """Of one that scans, without its banks; it scores survivors again too."""
        return self.weights + self.activations + max(self.window, self.gradient)

    def to_json(self) -> dict[str, int]:
        """As plain values, with the sums."""
        return {**asdict(self), "fit_needs": self.fit, "scan_needs": self.scan}


@dataclass(frozen=True)
class Inspection:
    """A model before there is a corpus.

    Attributes:
        tracked: the model with what is tracked of it.
        context, batch_tokens, rank: that bytes are counted for; without a rank banks are dense.
        layers: all linear layers, those that are alike in one.
        bytes: of one replica; None where nothing is tracked, as the choice of it is refused.
        fullest: of the device of a replica that has the most, with all activations and a whole
            window; of the only one all of ``bytes``.
        memory: bytes that this machine has, or each GPU of a replica.
        gpus: that a replica is over here; 0 on a CPU.
        on_gpus: how many it takes, and whether it fits them, in words; empty on a CPU.
        has_weights: whether the model's folder has any; without, nothing was checked.
        passed: what the checks found, if nothing was refused.
        refused: what a run would be refused with.
    """

    tracked: TrackedModel
    context: int
    batch_tokens: int
    rank: int | None
    layers: Sequence[Alike]
    bytes: Bytes | None
    fullest: Bytes | None
    memory: int
    gpus: int
    on_gpus: str
    has_weights: bool
    passed: Passed | None
    refused: RayInfluenceError | None

    @property
    def queries_that_fit(self) -> int | None:
        """How many queries a scan has memory for."""
        if self.fullest is None:
            return None
        # Of several devices one may have no tracked module, but not the fullest of all.
        return max(0, self.memory - self.fullest.scan) // max(1, self.fullest.bank)

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        tracked, coverage = self.tracked, self.tracked.coverage
        replica, refused = tracked.replica, self.refused
        return {
            "format": 1,
            "model": type(replica.model).__name__,
            "has_weights": self.has_weights,
            "device": replica.numerics.device,
            "dtype": replica.numerics.dtype,
            "attention": replica.numerics.attention,
            "context": self.context,
            "batch_tokens": self.batch_tokens,
            "rank": self.rank,
            "parameters": {
                "reached": coverage.reached,
                "tracked": coverage.tracked,
                "share": coverage.share,
                "not_tracked": coverage.rest,
            },
            "unreached": list(tracked.reach.outside),
            "layers": [asdict(layers) for layers in self.layers],
            "bytes": None if self.bytes is None else self.bytes.to_json(),
            "memory": {
                "here": self.memory,
                "gpus": self.gpus,
                "fullest": None if self.fullest is None else self.fullest.to_json(),
                "fit_fits": None if self.fullest is None else self.fullest.fit <= self.memory,
                "queries_that_fit": self.queries_that_fit,
            },
            "checks": None if self.passed is None else asdict(self.passed),
            "warnings": list(tracked.warnings),
            "refused": None
            if refused is None
            else {"sentence": str(refused), "exit_code": refused.exit_code},
        }
