"""What documents are, and how they become sequences: a section of the configuration."""

from __future__ import annotations

from pydantic import Field, field_validator

from rayinfluence.config_places import Address, Section


class CorpusConfig(Section):
    """Documents and the shards they are tokenised into."""

    documents: list[Address] = Field(default_factory=list)
    """JSON lines, CSV, TSV (also .gz, .zst or .bz2) and Parquet: files, folders or globs.

    Local or s3://, each by the ending of its name.

    Empty: the shards at ``path`` are used as they are."""
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
    bad_rows: float = Field(default=0.01, ge=0)
    """Most rows of a file that may be no documents or have no text: a share below 1, or a count.

    They are left out, counted by reason, and kept in the corpus's folder ``quarantine``."""
    bad_files: float = Field(default=0, ge=0)
    """Most files that may be bad: a share below 1, or a count.

    A file is bad that cannot be read to its end, or has too many bad rows; nothing of it is taken.
    """
    n_training_sequences: int | None = Field(default=None, ge=1)
    """N, the sequences that the model was trained on, where the documents are a sample of them.

    ``delta_nats`` is score / N. None: the documents are the training data."""

    @field_validator("bad_rows", "bad_files")
    @classmethod
    def _share_or_count(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is neither a share, below 1, nor a count, a whole number.")
        return value
