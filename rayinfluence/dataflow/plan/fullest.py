"""What lies on each GPU of a replica, and over how many it fits."""

from __future__ import annotations

from collections.abc import Callable

from rayinfluence.dataflow.compute.devices import fewest_gpus, so_many_gpus
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.plan.forecast import Share
from rayinfluence.model.placement import weights_over
from rayinfluence.text import in_bytes


def shares_of(replica: Replica, gpus: int) -> list[Share]:
    """What of a replica would lie on each of so many GPUs; all of it on one, or on none."""
    found = []
    for weights in weights_over(replica.model, so_many_gpus(max(1, gpus))):
        ids = set(map(id, weights))
        names = [name for name, module in replica.modules.items() if id(module.weight) in ids]
        found.append(Share(sum(weight.nbytes for weight in weights), names))
    return found


def told(replica: Replica, gpus: int, gpu_bytes: int, fullest: Callable[[list[Share]], int]) -> str:
    """How many GPUs a replica takes, what lies on the fullest, and what to set if that is too much.

    Args:
        replica: the model and what is tracked.
        gpus: that a replica is over.
        gpu_bytes: of memory that each of them has.
        fullest: bytes on the fullest device at once, by what each has.
    """

    def held(n: int) -> int:
        return fullest(shares_of(replica, n))

    said = (
        f"a replica takes {gpus} GPU{'s' * (gpus > 1)} of {in_bytes(gpu_bytes)}; on the fullest "
        f"lie up to {in_bytes(held(gpus))} at once"
    )
    if held(gpus) <= gpu_bytes:
        return f"{said}, which fits"
    n = fewest_gpus(replica.model, lambda n: held(n) <= gpu_bytes)
    if n is None:
        return (
            f"{said}, which does not fit, nor over more GPUs of a node: raise `fit.blocks`, lower "
            "`scan.rank`, ask fewer queries, or track fewer `modules`"
        )
    return (
        f"{said}, which does not fit: set `runner.gpus_per_actor: {n}`, with which it is "
        f"{in_bytes(held(n))}"
    )
