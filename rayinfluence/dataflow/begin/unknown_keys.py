"""Keys of metadata that a configuration names and no document has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.errors import ConfigError

_NAMED_KEYS = 20


def refuse_unknown_keys(
    keys: Sequence[str] | None, corpus: Corpus, setting: str = "scan.group_by"
) -> None:
    """Refuse to name what no document has; None is the default, which need not be there.

    Args:
        keys: of metadata.
        corpus: that is there.
        setting: of the configuration, that names them.

    Raises:
        ConfigError: with the keys that there are.
    """
    known = corpus.manifest.metadata_keys
    if keys is None or known is None:
        return
    for key in keys:
        if key not in known:
            whose = f"no document in the corpus at {corpus.store.url}"
            raise ConfigError(unknown_key(key, known, whose, setting))


def unknown_key(
    key: str, known: Mapping[str, int], whose: str, setting: str = "scan.group_by"
) -> str:
    """What to say of a key that documents do not have, as a sentence.

    Args:
        key: which.
        known: how many of them have each of the keys that there are.
        whose: who does not have it.
        setting: of the configuration, that names it.
    """
    close = difflib.get_close_matches(key, known, n=2)
    names = sorted(known, key=lambda name: (-known[name], name))
    more = ", ..." if len(names) > _NAMED_KEYS else ""
    there = f"the keys there are {', '.join(map(repr, names[:_NAMED_KEYS]))}{more}"
    none = "there are no metadata: " + (
        "set `group_by: []`." if setting == "scan.group_by" else "leave it out."
    )
    return (
        f"{setting}: {whose} has the key {key!r}; "
        + (f"did you mean {' or '.join(map(repr, close))}? " if close else "")
        + (f"{there}." if names else none)
    )
