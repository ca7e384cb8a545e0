"""The largest groups of a corpus, by what their documents' metadata have in common."""

from __future__ import annotations

from rayinfluence.dataflow.begin.unknown_keys import refuse_unknown_keys
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.farm import Farm


def largest_groups(
    farm: Farm, key: str, most: int | None, setting: str, why: str
) -> dict[str, list[int]]:
    """Ids of sequences by the name of their group, the largest group first.

    Args:
        farm: of the corpus.
        key: of the metadata.
        most: groups at most; None is all.
        setting: of the configuration, that names the key.
        why: there have to be two, as half a sentence.

    Raises:
        ConfigError: documents have no such key, or fewer than two values of it.
    """
    refuse_unknown_keys([key], farm.run.corpus, setting)
    found = farm.groups(key)
    names = sorted(found, key=lambda name: (-len(found[name]), name))[:most]
    if len(names) < 2:
        raise ConfigError(
            f"{setting}: documents have {len(names)} value of {key!r}, and {why}. Name another "
            "key, or leave it out."
        )
    return {name: found[name] for name in names}
