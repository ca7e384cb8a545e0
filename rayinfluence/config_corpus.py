"""What documents are, and how they become sequences: a section of the configuration."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rayinfluence.config_places import Address, DocumentAddress, Section
from rayinfluence.config_rows import IdsConfig, SampleConfig, TokensConfig
from rayinfluence.config_sentences import shown

#: When a special token stands: as the tokenizer has it, nowhere, once in a document or in each of
#: the chunks that a document is cut into.
When = Literal["auto", "never", "document", "chunk"]


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
    text_column: str | list[str] | dict[str, str | list[str]] = "text"
    """The column or key that holds a document's text.

    Or messages, ``[{role, content}, ...]``, which the tokenizer's chat template makes a text of. A
    list of names: the first of them that a row has. Names by globs of files: of the first that a
    file's address ends with, in whole parts."""
    tokens: TokensConfig | None = None
    """Where documents are token ids already: how those lie. None where they are texts."""
    template: str | None = None
    """Jinja that makes a document's text of its columns, in place of ``text_column``.

    Of what stands between ``{% generation %}`` and ``{% endgeneration %}``, if anything does, the
    loss of training counted the tokens."""
    prompt_column: str | None = None
    """The column of what stands before the text and was given in training: a text or messages."""
    label_column: str | None = None
    """The column of what a classifier was trained to say of a text: the name of a class, or its
    number."""
    feature_columns: list[str] | None = Field(default=None, min_length=1)
    """The columns of the numbers that a module takes (``model_function``), in its order.

    One that holds a list of numbers stands for all of them. ``label_column`` is the target: a
    number, or of a classification a class from 0 on."""
    id_column: str = "id"
    """The column or key that names a document; where it is absent, file and line name it."""
    metadata: list[str] | None = None
    """Columns that are kept with each sequence; ``meta.source`` is the key source of meta.

    Those of ``scan.group_by`` and ``label_column`` are kept with them. None keeps what is small:
    not bytes, lists of more than 16 numbers, or what takes more than 1,000 characters."""
    path_columns: str | None = None
    """What the end of a file's address says: ``{author}_{title}/*.jsonl`` gives each of its
    documents the columns author and title."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens in a sequence; longer documents are cut into chunks.

    By default the model's context, but at most 2,048 and at most ``batch_tokens`` (from 64 on).
    """
    overlap: int = Field(default=0, ge=0)
    """Tokens of a document that a chunk has in common with the one before; they count in both."""
    bos: When = "auto"
    """When the token that begins a text stands; ``auto``: where the tokenizer puts it by itself.

    That is at most at the beginning of a document. ``chunk`` puts it before each chunk too."""
    eos: When = "auto"
    """When the token that ends a text stands; ``auto`` is nowhere, in what a causal model gets."""
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
    select: str | IdsConfig | None = None
    """Which sequences are scanned: a condition on metadata, such as ``license != 'x' and year >=
    1990``, or ``{ids: file}`` of documents. None is all. The corpus and the fit stay as they are.
    """
    exclude: str | IdsConfig | None = None
    """Which of those are not."""
    sample: SampleConfig | None = None
    """Scan ``{sequences: N, seed: S}`` of the rest, at random."""

    @property
    def text_columns(self) -> list[str]:
        """All names that a column of texts may have."""
        named = self.text_column
        if isinstance(named, dict):
            lists = [one if isinstance(one, list) else [one] for one in named.values()]
            return list(dict.fromkeys(name for names in lists for name in names))
        return named if isinstance(named, list) else [named]

    @field_validator("bad_rows", "bad_files")
    @classmethod
    def _share_or_count(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} is neither a share, below 1, nor a count, a whole number.")
        return value

    @field_validator("text_column", mode="before")
    @classmethod
    def _names_columns(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value
        lists = list(value.values()) if isinstance(value, dict) else [value]
        for names in lists or [None]:
            listed = names if isinstance(names, list) else [names]
            if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
                raise ValueError(
                    "must be the name of a column, a list of names in order of preference, or "
                    f"either of these by globs of files, not {shown(value)}"
                )
            if twice := next((name for name in listed if listed.count(name) > 1), None):
                raise ValueError(f"names a column twice: {shown(twice)}")
        return value

    @field_validator("metadata", "feature_columns")
    @classmethod
    def _keys_are_of_parts(cls, value: list[str] | None) -> list[str] | None:
        if value and (twice := next((one for one in value if value.count(one) > 1), None)):
            raise ValueError(f"{twice!r} is named twice.")
        return value

    @model_validator(mode="after")
    def _one_thing_is_the_text(self) -> CorpusConfig:
        if self.template is not None:
            if self.text_column != "text":
                raise ValueError("template: it makes the text, and so does text_column: name one.")
            if self.prompt_column is not None:
                raise ValueError(
                    "template: it makes the whole text, and prompt_column stands before one: write "
                    "the prompt into the template, and what was trained to follow it between "
                    "{% generation %} and {% endgeneration %}."
                )
        if self.context is not None and self.overlap > self.context - 2:
            raise ValueError(
                f"overlap: {self.overlap:,} of the {self.context:,} tokens of a sequence; each has "
                f"to bring at least two of its own: set it to at most {self.context - 2:,}."
            )
        return self

    @model_validator(mode="after")
    def _ids_are_no_text(self) -> CorpusConfig:
        if self.tokens is None:
            return self
        for key in ("text_column", "template", "prompt_column", "plain_text"):
            # Not by whether it was set: what a run directory keeps has every key.
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"tokens: documents are token ids, and {key} is of texts: leave one of the two "
                    "out. What of the ids counted, a column says that objective.loss names."
                )
        for key in ("bos", "eos"):
            if getattr(self, key) == "never":
                raise ValueError(
                    f"{key}: never, and documents are token ids (tokens), which stay as they are: "
                    "leave it out, or set it to document or chunk to add a token that is not there."
                )
        return self

    @field_validator("select", "exclude", mode="before")
    @classmethod
    def _says_which(cls, value: Any) -> Any:
        ids = value.get("ids") if isinstance(value, dict) else value
        if value is None or isinstance(ids, str | PurePath | IdsConfig):
            return value
        raise ValueError(
            "must be a condition on metadata, such as year >= 1990, or {ids: file} with the name "
            "of a file that has the id of a document a line."
        )
