"""The checks that a run starts with, and when they need not be made again.

That a model with its modules passed them, under these versions, is noted in the run directory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from rayinfluence.dataflow import layout
from rayinfluence.dataflow.begin.tracked import TrackedModel
from rayinfluence.guest import own_arithmetic
from rayinfluence.model.preflight import Passed, preflight
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store, read_json_if_whole

#: Raised whenever the checks find something else.
_VERSION = 6
_PACKAGES = ("torch", "transformers")
#: Names of weights that are not tracked, in a manifest.
_LISTED = 20
#: A smaller figure is not spelt out.
_SHOWN = 1e-4


def passed(
    store: Store, tracked: TrackedModel, model_digest: str, context: int
) -> tuple[Passed, bool]:
    """Make the checks, or find that the same model, modules and versions passed them before.

    Returns:
        What they found, and whether that was before.

    Raises:
        ModelError: what is wrong with the model, and what to do.
    """
    replica = tracked.replica
    numerics, alone = replica.numerics, replica.numerics.batch_tokens == 1
    fingerprint = digest(
        {
            "version": _VERSION,
            "packages": {name: version(name) for name in _PACKAGES},
            "model": model_digest,
            "modules": list(replica.modules),
            "numerics": [numerics.dtype, numerics.attention, numerics.batch_tokens],
            "context": context,
        }
    )
    store, key = store / layout.PASSED, layout.passed_key(fingerprint)
    noted = read_json_if_whole(store, key)
    if noted and noted.keys() == {field.name for field in fields(Passed)}:
        return Passed(**noted), True
    language_model = replica.language_model
    with own_arithmetic():
        found = preflight(
            language_model,
            replica.modules,
            tracked.ordinary,
            context,
            alone,
            numerics.batch_tokens,
        )
    store.write(key, json.dumps(asdict(found), indent=1).encode())
    return found, False


def line(found: Passed, before: bool) -> str:
    """What was checked in one line, with the largest of the figures that exact arithmetic has at 0.

    Args:
        found: what the checks found.
        before: whether that was in an earlier run.
    """
    figures = {
        "gradients": found.gradients,
        **({} if found.future is None else {"causality": found.future}),
        "neighbours": found.neighbour,
    }
    worst = max(figures, key=lambda name: figures[name])
    off = (
        "all off by less than 0.01%"
        if figures[worst] < _SHOWN
        else f"the worst, {worst}, off by {figures[worst]:.2%}"
    )
    company = (
        f"neighbours in batches of up to {found.sequences:,}"
        if found.sequences > 1
        else "sequences one by one"
    )
    causality = "" if found.future is None else "causality, "
    return (
        f"checks       passed{' in an earlier run' if before else ''}: gradients, {causality}"
        f"{company}, {found.context:,} positions; {off}"
    )


def report(found: Passed, tracked: TrackedModel) -> dict[str, Any]:
    """What the manifest says of the checks, and of what is not tracked."""
    return {
        **asdict(found),
        "unreached": list(tracked.reach.outside),
        "left_out": [*tracked.left_out, *tracked.unfit],
        "not_tracked": dict(list(tracked.coverage.rest.items())[:_LISTED]),
    }
