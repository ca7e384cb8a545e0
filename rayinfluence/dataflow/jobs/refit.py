"""The jobs of representer points: what the last layer sees of a split, and the layer's own fit.

Picklable; no Ray. Doing an item twice writes the same bytes under the same key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rayinfluence.config_representer import RepresenterConfig
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.representing import points_of
from rayinfluence.dataflow.jobs.checkpoint import Pace
from rayinfluence.dataflow.jobs.stored_points import StoredPoints
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import checkpoint_key, features_key, fitted_key
from rayinfluence.errors import CorpusError, DamagedError, NumericsError
from rayinfluence.influence.representers import LastLayerFit, Points, Progress
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors

#: Bytes of an object of features, about.
_PART_BYTES = 1 << 27
_CPU = torch.device("cpu")


@dataclass
class FeaturesJob:
    """Run a split forward and commit what the last layer sees of its targets, and their labels.

    Part by part, so that no worker holds a whole split: of a wide model that is larger than most
    memories.

    Args:
        corpus: with the splits.
        store: for what is seen.
        row_bytes: of what is seen of a target.
    """

    corpus: Store
    store: Store
    row_bytes: int
    stage: ClassVar[str] = stage_names.FEATURES

    def prepare(self, replica: Replica) -> None:
        """Find the layer."""
        _ = replica.last_layer

    def run(self, replica: Replica, item: Split, watch: Watch) -> None:
        """Do one split."""
        begin_or_refuse(watch, f"what the last layer sees of split {item.name}")
        with watch.phase("read", item.digest):
            table = read_split(self.corpus, item)
        quarantine: Quarantine = {}
        found: list[Points] = []
        n_parts, part, done = parts_of(item, self.row_bytes), 0, 0

        def write() -> None:
            nonlocal part
            with watch.phase("write", item.digest):
                header = {"quarantine": sorted(quarantine.items())}
                write_tensors(self.store, features_key(item.digest, part), _tensors(found), header)
            found.clear()
            part += 1

        batches = points_of(replica, table, quarantine, watch.advance)
        while True:
            with watch.phase("score", item.digest):
                if (made := next(batches, None)) is None:
                    break
                batch, _, points = made
                finite_N = torch.isfinite(points.features_ND).all(dim=1)
                found.append((points if bool(finite_N.all()) else points.at(finite_N)).to(_CPU))
            done += batch.n_tokens
            if part + 1 < n_parts and done * n_parts >= (part + 1) * item.n_tokens:
                write()
        while part < n_parts:  # all but the first of these are empty
            write()


def parts_of(split: Split, row_bytes: int) -> int:
    """In how many parts what the last layer sees of a split is written.

    Args:
        split: as above.
        row_bytes: of what it sees of a target.
    """
    return max(1, -(-split.n_tokens * row_bytes // _PART_BYTES))


def feature_keys(split: Split, row_bytes: int) -> list[str]:
    """Where these are, in order; the last knows of all sequences that were quarantined."""
    return [features_key(split.digest, part) for part in range(parts_of(split, row_bytes))]


def _tensors(found: Sequence[Points]) -> dict[str, Tensor]:
    if not found:  # none of its rows can be taken
        return {"features": torch.zeros(0, 0), "labels": torch.zeros(0, dtype=torch.int64)}
    tensors = {
        "features": torch.cat([one.features_ND for one in found]),
        "labels": torch.cat([one.labels_N for one in found]),
    }
    weights = [one.weights_N for one in found if one.weights_N is not None]
    return tensors | ({"weights": torch.cat(weights)} if weights else {})


@dataclass(frozen=True)
class ToFit:
    """A last layer that is to be fitted again.

    Attributes:
        store: for the layer.
        features: where what it sees is.
        parts: of that, in order.
        n_tokens: of those.
    """

    store: Store
    features: Store
    parts: tuple[str, ...]
    n_tokens: int


@dataclass
class RefitJob:
    """Fit the last layer to all points, and commit it; where it stands is kept meanwhile."""

    settings: RepresenterConfig
    seconds: float
    stage: ClassVar[str] = stage_names.REFIT

    def prepare(self, replica: Replica) -> None:
        """Find the layer."""
        _ = replica.last_layer

    def run(self, replica: Replica, item: ToFit, watch: Watch) -> None:
        """Fit it.

        Raises:
            CorpusError: no sequence has a target.
            NumericsError: it is not near enough to where its gradient is zero after all steps.
        """
        ours, layer = self.settings, replica.last_layer
        there = layer.layer.weight.device
        points = StoredPoints(item.features, item.parts, there)
        if next(iter(points), None) is None:
            raise CorpusError(
                "representer: no sequence of the corpus has a token that is predicted, and so "
                "there is nothing to fit the last layer to. See `objective.loss`."
            )
        fit = LastLayerFit(points, layer.weight_VD, ours.l2, ours.l2_scale)
        progress = self._kept(item, there) or fit.begin()
        begin_or_refuse(watch, f"fitting the last layer again from step {progress.steps} on")
        pace = Pace(self.seconds)

        def keep(progress: Progress) -> None:
            tensors = {"place": progress.place_VD.cpu()}
            header = {"steps": progress.steps, "exact": progress.dtype == torch.float64}
            write_tensors(item.store, checkpoint_key(fitted_key()), tensors, header)

        progress = fit.run(
            progress,
            ours.steps,
            ours.tolerance,
            lambda reached: pace.keep(lambda: keep(reached)),
            lambda _: watch.advance(item.n_tokens),
        )
        refitted = fit.end(progress, accumulation_dtype(replica.numerics.torch_dtype))
        if not refitted.residual <= ours.tolerance:
            keep(progress)
            raise NumericsError(
                f"representer: after {refitted.steps} steps the last layer is "
                f"{refitted.residual:.2g} of its length from the sum of its representers, and "
                f"scan.representer.tolerance is {ours.tolerance:g}. Raise scan.representer.steps "
                "(the fit goes on from where it is), or l2_scale, which makes it easier, or the "
                "tolerance, if a sum that is so far off will do."
            )
        tensors = {
            "weight": refitted.weight_VD.cpu(),
            "residual": refitted.residual_VD.cpu(),
            "l2": torch.tensor(refitted.l2, dtype=torch.float64),
            "n_points": torch.tensor(refitted.n_points),
        }
        write_tensors(item.store, fitted_key(), tensors, refitted.told())
        item.store.delete(checkpoint_key(fitted_key()))

    def _kept(self, item: ToFit, there: torch.device) -> Progress | None:
        """Where an earlier worker was."""
        key = checkpoint_key(fitted_key())
        if not item.store.exists(key):
            return None
        try:
            tensors, header = read_tensors(item.store, key)
        except DamagedError:
            return None  # it is begun anew
        dtype = torch.float64 if header["exact"] else torch.float32
        return Progress(tensors["place"].to(there), int(header["steps"]), dtype)
