"""What documents are, and how they become sequences: a section of the configuration."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator

from rayinfluence.config_places import Address, DocumentAddress, Section
from rayinfluence.config_rows import IdsConfig, SampleConfig


class CorpusConfig(Section):
    """Documents and the shards they are tokenised into."""

    documents: list[DocumentAddress] = Field(default_factory=list)
    """Files, folders or globs of the formats of docs/corpora.md, by what they hold.

    Local, in object storage, or ``hf://datasets/org/name[@revision][/path]`` on a hub.

    Empty: the shards at ``path`` are used as they are."""
    plain_text: Literal["file", "blocks"] = "file"
    """What a document is in plain text and Markdown: a file, or a block between blank lines."""
    path: Address | None = None
    """Where the shards are (written); ``<run>/corpus`` when not given. Runs may share a corpus."""
    text_column: str = "text"
    """The column or key that holds a document's text.

    Or messages, ``[{role, content}, ...]``, which the tokenizer's chat template makes a text of."""
    prompt_column: str | None = None
    """The column of what stands before the text and was given in training: a text or messages."""
    label_column: str | None = None
    """The column of what a classifier was trained to say of a text: the name of a class, or its
    number."""
    id_column: str = "id"
    """The column or key that names a document; where it is absent, file and line name it."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens in a sequence; longer documents are cut into chunks.

    By default the model's context, but at most 2,048 and at most ``batch_tokens`` (from 64 on).
    """
    row_group_tokens: int = Field(default=2**16, ge=1)
    """A row group of a shard is closed when it holds this many tokens."""
    shard_tokens: int = Field(default=2**26, ge=1)
    """A shard is closed when it holds this many tokens."""
    n_training_sequences: int | None = Field(default=None, ge=1)
    """N, the sequences that the model was trained on, where the documents are a sample of them.

    ``delta_nats`` is score / N. None: the documents are the training data."""
    select: str | IdsConfig | None = None
    """Which sequences are scanned: a condition on metadata, such as ``license != 'x' and year >=
    1990``, or ``{ids: file}`` of documents. None is all. The corpus and the fit stay as they are.
    """
    exclude: str | IdsConfig | None = None
    """Which of those are not."""
    sample: SampleConfig | None = None
    """Scan ``{sequences: N, seed: S}`` of the rest, at random."""

    @field_validator("select", "exclude", mode="before")
    @classmethod
    def _says_which(cls, value: Any) -> Any:
        ids = value.get("ids") if isinstance(value, dict) else value
        if isinstance(value, IdsConfig) or ids is None or isinstance(ids, str | PurePath):
            return value
        raise ValueError(
            "must be a condition on metadata, such as year >= 1990, or {ids: file} with the name "
            "of a file that has the id of a document a line."
        )
