"""What corpora of 10^9 and 10^12 tokens would take, by the arithmetic of `rayinfluence plan`.

    python tests/benchmarks/simulate.py

The rates are those of a model of 1B on one device: see docs/scaling.md, which holds what this
prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.dataflow.jobs.calibrate import Rates
from rayinfluence.dataflow.plan.forecast import Forecast, Share, Work, forecast
from rayinfluence.model.modules import ModuleShape

#: Of an H200's 989 TFLOP/s in dense bfloat16, what a plain forward and backward pass reached.
_FLOPS = 0.40 * 989e12
#: Time of a stage by that of the plain pass, measured (docs/benchmarks.md); of the scan between
#: those of 10 and 256 queries, and of the second pass twice that of the scan of few.
_COVARIANCE, _LAMBDA, _SCAN, _RESCORE = 1.3, 1.9, 1.25, 1.8
#: Seconds per cubed width of a float64 eigendecomposition on the device, as measured at 18,944.
_EIGEN = 7e-13
_PRICE = 2.5
_TOKENS_PER_SEQUENCE = 2048
_N_QUERIES, _TOP, _RANK = 100, 100, 32
_SPLIT = 2**21
_FIT_SEQUENCES, _LANES, _ROUNDS = 100_000, 8, 6


@dataclass(frozen=True)
class Model:
    """A Llama: width, width of its MLPs, layers, parameters."""

    name: str
    d: int
    hidden: int
    layers: int
    parameters: float


MODELS = [
    Model("1B", 2048, 8192, 16, 1.24e9),
    Model("8B", 4096, 14336, 32, 8.03e9),
    Model("70B", 8192, 28672, 80, 70.6e9),
]


def shapes(model: Model) -> dict[str, ModuleShape]:
    """The MLP modules; gate and up share their input."""
    found = {}
    for layer in range(model.layers):
        gate, up, down = (f"{layer}.{name}" for name in ("gate", "up", "down"))
        found[gate] = ModuleShape(gate, model.d, model.hidden, False, gate)
        found[up] = ModuleShape(up, model.d, model.hidden, False, gate)
        found[down] = ModuleShape(down, model.hidden, model.d, False, down)
    return found


def simulate(model: Model, tokens: float, actors: int) -> Forecast:
    """Forecast a run."""
    plain = 6 * model.parameters / _FLOPS
    partial = _N_QUERIES * (2 * _TOP * 16 + 8000)
    rates = Rates(
        scan=_SCAN * plain,
        covariance=_COVARIANCE * plain,
        moments=_LAMBDA * plain,
        rescore=_RESCORE * plain,
        eigen=_EIGEN,
        pairs=0.0,
        partial_bytes=partial,
        worker_bytes=0,
        device_bytes=0,
        gpus=1,
        gpu_bytes=0,
        splits=[],
    )
    fit_tokens = int(min(tokens, _FIT_SEQUENCES * _TOKENS_PER_SEQUENCE))
    work = Work(
        tokens=int(tokens),
        splits=int(-(-tokens // _SPLIT)),
        fit_tokens=fit_tokens,
        # Every round's sample, and once what is new in each.
        moment_tokens=3 * fit_tokens,
        rounds=_ROUNDS,
        pieces=2 * _ROUNDS - 1,
        lanes=_LANES,
        n_queries=_N_QUERIES,
        n_banks=1,
        n_themselves=0,
        n_diagonals=0,
        top=_TOP,
        survivor_tokens=_N_QUERIES * 2 * _TOP * _TOKENS_PER_SEQUENCE,
        # Without scores by pairs of tokens.
        pair_queries=0,
        pair_multiplications=0,
        rank=_RANK,
        n_blocks=1,
        operand_bytes=2,
    )
    weights = int(2 * model.parameters)
    layers = shapes(model)
    whole = [Share(weights, layers)]
    return forecast(rates, work, layers, whole, actors, eigen_tasks=actors, device="cuda")


def main() -> None:
    """Print the tables."""
    print("| model | tokens | GPUs | fit, hours | scan, hours | again, hours | GPU-hours | price |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in MODELS:
        for tokens, actors in ((1e9, 8), (1e12, 512)):
            found = simulate(model, tokens, actors)
            fit = sum(found.seconds[name] for name in ("covariance", "eigen", "moments")) / 3600
            scan, again = (found.seconds[name] / 3600 for name in ("scan", "rescore"))
            hours = found.hours * actors
            print(
                f"| {model.name} | {tokens:.0e} | {actors} | {fit:,.1f} | {scan:,.1f} "
                f"| {again:,.2f} | {hours:,.0f} | {_PRICE * hours:,.0f} |"
            )
    for title, part in (("memory of a worker", "memory"), ("stored, 10^12 tokens", "stored")):
        print(f"\n| {title}, GiB | " + " | ".join(m.name for m in MODELS) + " |")
        print("| --- |" + " --- |" * len(MODELS))
        columns = [getattr(simulate(model, 1e12, 512), part) for model in MODELS]
        for name in columns[0]:
            if columns[0][name]:
                cells = " | ".join(f"{column[name] / 2**30:,.1f}" for column in columns)
                print(f"| {name} | {cells} |")


if __name__ == "__main__":
    main()
