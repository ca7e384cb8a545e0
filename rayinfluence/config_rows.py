"""Which sequences of the corpus are scanned, and which token ids are one: parts of its section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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


class TokensConfig(Section):
    """Documents that are token ids already, as training had them."""

    column: str = Field(default="input_ids", min_length=1)
    """The column or key that holds a row's ids, in formats that have columns.

    Beside it ``attention_mask`` says what is padding."""
    dtype: Literal["uint8", "uint16", "uint32", "int32", "int64"] | None = None
    """What an id is in files that are ids and nothing else; None where their header says it."""
    packing: Literal["attend_across", "separate"] = "attend_across"
    """``attend_across``: a row is one sequence, whatever documents it is packed of.

    ``separate``: each of them is a sequence of its own, whose positions begin anew; they end at the
    separator, or begin where ``position_ids`` beside the ids does."""
    separator: int | None = Field(default=None, ge=0)
    """The token id that stands between documents."""
    separator_at: Literal["end", "start"] = "end"
    """Whether the separator ends the document before it, or begins the one after."""

    @model_validator(mode="after")
    def _separator_separates(self) -> TokensConfig:
        if self.separator is not None and "packing" not in self.model_fields_set:
            raise ValueError(
                "packing: a separator is named; say whether documents attended to those before it "
                "in training (attend_across) or not (separate)."
            )
        return self
