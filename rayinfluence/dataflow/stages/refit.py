"""The refit stage: what the last layer sees of every split, and the layer fitted to all of it.

Shards that are added have features of their own; the layer is fitted anew, as its penalty and its
points are those of another corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.config_representer import RepresenterConfig
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.quarantine import refuse_many_bad
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.representing import target_bytes
from rayinfluence.dataflow.jobs.handles import Stored
from rayinfluence.dataflow.jobs.refit import FeaturesJob, RefitJob, ToFit, feature_keys
from rayinfluence.dataflow.layout import FEATURES, LAST_LAYER, fitted_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header

#: Raised whenever the same points would give another layer.
_VERSION = 2
#: Passes over all points that a fit may be told to take, about, for the progress.
_PASSES = 100


@dataclass(frozen=True)
class RefitPlan:
    """A fit of the last layer.

    Attributes:
        settings: of the fit.
        parts: what was chosen that decides it.
        features: where what the layer sees is.
        store: where the layer is.
    """

    settings: RepresenterConfig
    parts: dict[str, Any]
    features: Store
    store: Store

    @classmethod
    def plan(
        cls,
        root: Store,
        settings: RepresenterConfig,
        model_digest: str,
        numerics: Numerics,
        corpus: str,
    ) -> RefitPlan:
        """Where it is, by what decides it.

        Args:
            root: the run directory.
            settings: of the fit; its steps decide whether it ends, and not where.
            model_digest: of the model.
            numerics: what decides bits besides.
            corpus: fingerprint of that.
        """
        of_layer = {"version": _VERSION, "model": model_digest, "numerics": asdict(numerics)}
        chosen = settings.model_dump(exclude={"steps"} | ({"l2_scale"} if settings.l2 else {"l2"}))
        parts = {"version": _VERSION, **chosen, "split_tokens": numerics.split_tokens}
        decides = {**of_layer, **parts, "corpus": corpus}
        features, store = root / FEATURES / digest(of_layer), root / LAST_LAYER / digest(decides)
        return cls(settings, parts, features, store)

    @property
    def fitted(self) -> Stored:
        """The layer."""
        return Stored(self.store, fitted_key())

    def told(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {**self.parts, **read_header(self.store, fitted_key())}


def refit(
    runner: Runner,
    corpus: Store,
    splits: Sequence[Split],
    plan: RefitPlan,
    replica: Replica,
    seconds: float,
    progress: ProgressLog,
) -> None:
    """Fit the last layer again, unless it is there.

    Args:
        runner: where it runs.
        corpus: with the splits.
        splits: all of it.
        plan: of the fit.
        replica: of the model.
        seconds: least time between two checkpoints.
        progress: told of it.

    Raises:
        CorpusError: more than 1 % of the sequences are bad.
        NumericsError: it does not end where its gradient is zero.
    """
    n_tokens = sum(split.n_tokens for split in splits)
    row_bytes = target_bytes(replica)
    parts = {split.digest: feature_keys(split, row_bytes) for split in splits}
    keys = tuple(key for split in splits for key in parts[split.digest])
    item = ToFit(plan.store, plan.features, keys, n_tokens)
    fitted = Stage(
        stage_names.REFIT,
        [item],
        lambda _: [Place(plan.store, fitted_key())],
        lambda lacking, told: runner.replicas(
            RefitJob(plan.settings, seconds), [one.item for one in lacking], told.advance
        ),
        n_tokens=lambda one: _PASSES * one.n_tokens,
    )
    if not fitted.lacking():
        return
    ensure(
        Stage(
            stage_names.FEATURES,
            splits,
            lambda split: [Place(plan.features, key) for key in parts[split.digest]],
            lambda lacking, told: runner.replicas(
                FeaturesJob(corpus, plan.features, row_bytes),
                [one.item for one in lacking],
                told.advance,
            ),
            n_tokens=lambda split: split.n_tokens,
        ),
        progress,
    )
    headers = (read_header(plan.features, parts[split.digest][-1]) for split in splits)
    bad = {int(i): str(reason) for header in headers for i, reason in header["quarantine"]}
    refuse_many_bad(len(bad), sum(split.n_rows for split in splits), bad)
    ensure(fitted, progress)
