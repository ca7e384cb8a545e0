"""Which sequences of the corpus are scanned: parts of the corpus's and the scan's sections."""

from __future__ import annotations

from pydantic import Field

from rayinfluence.config_places import Address, Section


class IdsConfig(Section):
    """Documents by their names."""

    ids: Address
    """A text file with the id of a document (``corpus.id_column``) a line."""


class SampleConfig(Section):
    """Some sequences at random, each as likely as any other."""

    sequences: int = Field(ge=1)
    """How many; where there are fewer, all of them."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Which."""
