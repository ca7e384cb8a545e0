"""Which training sequences made the model say this? EK-FAC influence functions on Ray.

>>> import rayinfluence
>>> config = rayinfluence.RunConfig.load("run.yaml")
>>> results = rayinfluence.run(config)
>>> for hit in results.proponents("my-query")[:10]:
...     print(hit.score, hit.source, hit.text)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.config import RunConfig
from rayinfluence.errors import IncompleteResultsWarning, RayInfluenceError, StorageError
from rayinfluence.guest import as_found

if TYPE_CHECKING:
    from rayinfluence.storage.results import Probed, Results, Survivor

__all__ = [
    "IncompleteResultsWarning",
    "Probed",
    "RayInfluenceError",
    "Results",
    "RunConfig",
    "Survivor",
    "load_results",
    "probe",
    "run",
]
__version__ = "0.1.0"


def run(config: RunConfig) -> Results:
    """Do everything a configuration says (tokenize, fit, scan), skipping what is done already.

    Returns:
        The results of the first of ``scan.methods``; :func:`load_results` reads the others. Where
        ``complete`` is false they lack some splits, and an :class:`IncompleteResultsWarning` says
        so.

    Raises:
        RayInfluenceError: what is wrong, where, and what to do.
    """
    with as_found():
        from rayinfluence.dataflow.run import run as run_config

    return run_config(config)


def load_results(
    run: str | Path, method: str | None = None, *, version: str | None = None, **options: Any
) -> Results:
    """Read the results in a run directory.

    Args:
        run: the run directory, local or s3://.
        method: such as ``ekfac``; the run's first method by default.
        version: fingerprint of earlier results (``Results.versions``); the current ones by default.
        options: fsspec options of the address, such as ``endpoint_url``.

    Raises:
        StorageError: it is no run directory, there are no results, or none of this method.
    """
    with as_found():
        from rayinfluence.addresses import why_no_address
        from rayinfluence.dataflow.places import why_no_run
        from rayinfluence.storage.results import MANIFEST, Results
        from rayinfluence.storage.store import Store

    if why := why_no_address(str(run)):
        raise StorageError(why)
    store = Store(str(run), options)
    # Results that were copied without the rest of the run are read too.
    if not store.exists(MANIFEST) and (why := why_no_run(store)):
        raise StorageError(why)
    return Results.load(store, method, version)


def probe(
    run: str | Path | RunConfig,
    texts: Sequence[str | Mapping[str, str]] | Mapping[str, Sequence[str | Mapping[str, str]]],
    *,
    queries: Sequence[str] = (),
    method: str | None = None,
) -> Probed:
    """Score texts of no corpus with the queries of a run that is done; nothing is written.

    A text that is in the corpus gets the score that the scan found, up to rounding.

    Args:
        run: the run directory, local or s3://, or its configuration or the YAML file of that.
        texts: a list, or lists by the partition that they belong to; each a string, or a mapping
            with ``prompt`` and ``completion``, of which the completion alone counts where
            training counted some tokens alone (``objective.loss``).
        queries: ids of those that texts are scored for; all of the results by default.
        method: such as ``ekfac``; the run's first method by default.

    Raises:
        RayInfluenceError: what is wrong, where, and what to do.
    """
    with as_found():
        from rayinfluence.dataflow.begin.probes import Probing, probes_of
        from rayinfluence.dataflow.places import run_config

    probes = probes_of(texts)
    config = run if isinstance(run, RunConfig) else run_config(str(run))
    probing = Probing.of(config, probes, queries, method)
    # After what is asked is known to be good: importing torch takes seconds.
    with as_found():
        from rayinfluence.dataflow.probing import probe as score
    return score(probing)


def __getattr__(name: str) -> Any:
    # Importing pyarrow takes a while; `rayinfluence --help` should not.
    if name in ("Probed", "Results", "Survivor"):
        with as_found():
            from rayinfluence.storage import results

        return getattr(results, name)
    raise AttributeError(f"module 'rayinfluence' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
