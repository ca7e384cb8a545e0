"""The checks that a run starts with, what they say, and when they need not be made again.

<run>/preflight/<fingerprint>.json   that a model with these modules passed, under these versions
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.model.modules import Coverage
from rayinfluence.model.preflight import Passed, preflight
from rayinfluence.model.reach import Reach, listed
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Raised whenever the checks find something else.
_VERSION = 1
_PACKAGES = ("torch", "transformers")
#: Below this share of the parameters a warning says what is not tracked.
_LITTLE = 0.1
#: Made-up sequences are drawn from so many ids.
_ORDINARY = 512


def ordinary_tokens(tokenizer: PreTrainedTokenizerFast, vocabulary: int | None) -> list[int]:
    """Ids that are text and nothing else: none that was added to the vocabulary or is special."""
    n_tokens = len(tokenizer) if vocabulary is None else min(len(tokenizer), vocabulary)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = [token for token in range(n_tokens) if token not in special] or list(range(n_tokens))
    return ids[:: max(1, len(ids) // _ORDINARY)]


def passed(
    store: Store,
    replica: Replica,
    model_digest: str,
    ordinary: Sequence[int],
    context: int,
) -> Passed:
    """Make the checks, or find that the same model, modules and versions passed them before.

    Raises:
        ModelError: what is wrong with the model, and what to do.
    """
    numerics: Numerics = replica.numerics
    fingerprint = digest(
        {
            "version": _VERSION,
            "packages": {name: version(name) for name in _PACKAGES},
            "model": model_digest,
            "modules": list(replica.modules),
            "numerics": [numerics.dtype, numerics.attention, numerics.batch_tokens == 1],
            "context": context,
        }
    )
    key = f"preflight/{fingerprint}.json"
    if store.exists(key):
        return Passed(**read_json(store, key))
    found = preflight(
        replica.language_model, replica.modules, ordinary, context, numerics.batch_tokens == 1
    )
    store.write(key, json.dumps(asdict(found), indent=1).encode())
    return found


def says(replica: Replica, coverage: Coverage, outside: Reach, left_out: Sequence[str]) -> str:
    """The model in one line: how much of it is tracked, and what text does not reach."""
    line = (
        f"model        {type(replica.model).__name__}: {coverage.share:.1%} of "
        f"{coverage.reached:,} parameters are tracked, in {len(replica.modules)} layers"
    )
    if outside.outside:
        line += f"; text does not reach {listed(outside.outside)}"
        line += f", with {len(left_out)} layers that would be tracked" if left_out else ""
    return line


def little(coverage: Coverage) -> str | None:
    """A warning where hardly anything is tracked, with what is not."""
    if coverage.share >= _LITTLE:
        return None
    most = [
        f"{pattern} ({size / coverage.reached:.1%})"
        for pattern, size in list(coverage.rest.items())[:4]
    ]
    return (
        f"only {coverage.share:.2%} of the model's parameters are tracked, and scores say nothing "
        f"of the rest, most of which is in {', '.join(most)}. Name more layers under `modules`."
    )


def report(
    found: Passed, coverage: Coverage, outside: Reach, left_out: Sequence[str]
) -> dict[str, Any]:
    """What the manifest says of it."""
    return {
        **asdict(found),
        "unreached": list(outside.outside),
        "left_out": list(left_out),
        "not_tracked": dict(list(coverage.rest.items())[:20]),
    }
