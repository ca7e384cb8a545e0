"""Banks of queries as a scan plans, shares and names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import AnyBank
from rayinfluence.dataflow.compute.texts import TextBank, stack_texts
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.layout import query_key
from rayinfluence.influence.bank import QueryBank, stack_queries
from rayinfluence.influence.representers import stack_representers
from rayinfluence.methods.registry import GRADIENT_METHODS, LAST_LAYER_METHODS, TEXT_METHODS
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors


@dataclass(frozen=True)
class BankPlan:
    """Some queries of one method, scanned together: where they are, and their partials.

    ``name``: what the method's results are called. ``dense``: every score is kept, not those of
    survivors alone.
    """

    method: str
    name: str
    fingerprint: str
    query_digests: tuple[str, ...]
    queries: Store
    store: Store
    dense: bool = False


def load_bank(plan: BankPlan) -> SharedTensors:
    """Read a bank's queries and stack them."""
    return SharedTensors(load_stacked(plan.method, plan.queries, plan.query_digests))


def stored_bank(
    replica: Replica, method: str, queries: Store, digests: Sequence[str]
) -> QueryBank | TextBank:
    """Queries as the scan had them, on their modules' devices, and not rounded for its products.

    Args:
        replica: the model.
        method: whose they are.
        queries: where they are.
        digests: of some of them.
    """
    tensors = load_stacked(method, queries, digests)
    if method in TEXT_METHODS:
        return TextBank(TEXT_METHODS[method], digests, tensors)
    return QueryBank.from_tensors(
        digests,
        {part: tensor.to(_device(replica, part)) for part, tensor in tensors.items()},
        {name: shape.d_in for name, shape in replica.shapes.items()},
        GRADIENT_METHODS[method].normalised,
    )


def _device(replica: Replica, part: str) -> torch.device:
    """That of the module whose part of a bank it is: ``<module>/left``."""
    return replica.devices[part.rpartition("/")[0]]


def load_stacked(method: str, queries: Store, digests: Sequence[str]) -> dict[str, Tensor]:
    """Some queries of a method, read and joined."""
    read = [read_tensors(queries, query_key(digest))[0] for digest in digests]
    if method in LAST_LAYER_METHODS:
        return stack_representers(read)
    return stack_texts(read) if method in TEXT_METHODS else stack_queries(read)


@dataclass(frozen=True)
class BankOperands:
    """A query bank as it travels.

    Attributes:
        plan: what it is.
        tensors: of its queries.
        method: what is read instead, of a method that reads each sequence by itself; and beside
            them, of one that reads what the last layer sees.
    """

    plan: BankPlan
    tensors: Handle[SharedTensors]
    method: MethodOperands | None = None

    def bank(self, replica: Replica) -> AnyBank:
        """The bank on its modules' devices; on a CPU its tensors are the shared ones."""
        if self.method is not None and self.method.reads_last_layer:
            digests, tensors = self.plan.query_digests, self.tensors.get()
            return self.method.representers(replica, digests, tensors)
        if self.method is not None:
            return self.method.itself(replica)
        method = self.plan.method
        if method in TEXT_METHODS:
            return TextBank(TEXT_METHODS[method], self.plan.query_digests, self.tensors.get())
        dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)
        return QueryBank.from_tensors(
            self.plan.query_digests,
            {part: t.to(_device(replica, part), dtype) for part, t in self.tensors.get().items()},
            {name: shape.d_in for name, shape in replica.shapes.items()},
            GRADIENT_METHODS[method].normalised,
        )
