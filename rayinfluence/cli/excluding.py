"""``report --exclude``: results without the sequences that a condition is true of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rayinfluence.corpus.predicate import Predicate
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store


def without_some(
    results: Mapping[str, Results], condition: Predicate, corpus: Store
) -> dict[str, Results]:
    """Results without some of their sequences; see :func:`rayinfluence.report.without.without`.

    Args:
        results: of a run, by method.
        condition: of ``--exclude``.
        corpus: where the run's shards are, which say of which sequences it is true where all scores
            are known.

    Raises:
        ConfigError: no hit has a key that the condition asks for.
    """
    from rayinfluence.report.without import without

    excluded = _excluded(next(iter(results.values())).manifest, condition, corpus)
    return {
        name: without(one, condition, condition.text, excluded) for name, one in results.items()
    }


def _excluded(
    manifest: Mapping[str, Any], condition: Predicate, store: Store
) -> NDArray[np.int64] | None:
    """All sequences that a condition is true of; None without all scores, or their corpus."""
    from rayinfluence.corpus.corpus import Corpus
    from rayinfluence.corpus.ordinals import entry_key
    from rayinfluence.corpus.stored import sequences_with

    if manifest.get("dense_scores") is None or not store.exists(entry_key(0)):
        return None
    corpus = Corpus.open(store)
    if corpus.fingerprint != manifest["corpus"]["fingerprint"]:
        return None
    return sequences_with(corpus, condition)
