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
from rayinfluence.dataflow.jobs.handles import Stored
from rayinfluence.dataflow.jobs.refit import FeaturesJob, RefitJob, ToFit
from rayinfluence.dataflow.layout import FEATURES, LAST_LAYER, features_key, fitted_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header
from rayinfluence.text import in_bytes

#: Raised whenever the same points would give another layer.
_VERSION = 1
#: Bytes of features that one worker holds, at most, and of a number.
_MOST_BYTES, _NUMBER = 1 << 36, {"float64": 8}
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
        ConfigError: a worker cannot hold what the layer sees.
        CorpusError: more than 1 % of the sequences are bad.
        NumericsError: it does not end where its gradient is zero.
    """
    n_tokens = sum(split.n_tokens for split in splits)
    item = ToFit(plan.store, plan.features, tuple(split.digest for split in splits), n_tokens)
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
    width = replica.last_layer.weight_VD.shape[1]
    n_bytes = n_tokens * width * _NUMBER.get(replica.numerics.dtype, 4)
    if n_bytes > _MOST_BYTES:
        raise ConfigError(
            f"scan.methods: representer fits the last layer to all {n_tokens:,} tokens, and what "
            f"it sees of them, {width:,} numbers each, is {in_bytes(n_bytes)}: more than the "
            f"{in_bytes(_MOST_BYTES)} that one worker holds. Take a part of the corpus, or take "
            "representer out."
        )
    ensure(
        Stage(
            stage_names.FEATURES,
            splits,
            lambda split: [Place(plan.features, features_key(split.digest))],
            lambda lacking, told: runner.replicas(
                FeaturesJob(corpus, plan.features), [one.item for one in lacking], told.advance
            ),
            n_tokens=lambda split: split.n_tokens,
        ),
        progress,
    )
    headers = (read_header(plan.features, features_key(split.digest)) for split in splits)
    bad = {int(i): str(reason) for header in headers for i, reason in header["quarantine"]}
    refuse_many_bad(len(bad), sum(split.n_rows for split in splits), bad)
    ensure(fitted, progress)
