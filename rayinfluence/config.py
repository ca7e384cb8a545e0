"""RunConfig: the whole configuration of a run as one typed tree, from YAML or from Python.

Only what a user has to decide is here; what follows from shapes and data is decided by the program.
Unknown keys are refused with a suggestion. Relative paths are relative to the working directory,
and ``~`` is the home of whoever reads the configuration.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rayinfluence.addresses import expanded, why_no_address, why_no_model
from rayinfluence.config_sentences import refuse_unknown, sentences
from rayinfluence.errors import ConfigError, brief
from rayinfluence.text import holds_credentials
from rayinfluence.yamls import RepeatedKey, read_yaml

#: What is wrong with an address that has credentials in it.
_SECRET = (
    "there is a password or a token in this address, and a configuration is copied into the run "
    "directory and its manifest. Take it out; credentials come from the environment "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role)."
)
#: What to name instead of a file that is something else.
_WANTED = (
    "Name the YAML file of a run, with keys such as run and model; on the command line the run "
    "directory will do too."
)

#: Scores are divided by about as much: with more, what float32 holds of them is nothing.
_MOST_DAMPING = 1e15

#: Those of `methods/registry.py`; a configuration is read without torch, and so without that.
Method = Literal["ekfac", "kfac", "gradient_product", "cosine", "bm25"]
#: Of linear layers, by the part that they have in their block.
Kind = Literal["mlp", "attention", "all"]


class Section(BaseModel):
    """A part of the configuration; keys it does not know are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be an address with a password in it
    )

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_text(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [str(entry) if isinstance(entry, PurePath) else entry for entry in value]
        return str(value) if isinstance(value, PurePath) else value

    @field_validator("*")
    @classmethod
    def _not_blank(cls, value: Any) -> Any:
        # No name, path or address is blank; an empty path would mean the working directory.
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{value!r} is blank; write a value, or leave the key out.")
        if isinstance(value, list):
            for entry in value:
                if isinstance(entry, str) and not entry.strip():
                    raise ValueError(f"an entry is blank ({entry!r}); take it out of the list.")
        return value


def _address(value: str) -> str:
    if why := why_no_address(value):
        raise ValueError(why)
    return expanded(value)


#: Where something is: a local path, or an address in object storage.
Address = Annotated[str, AfterValidator(_address)]


def _model_address(value: str) -> str:
    if why := why_no_model(value):
        raise ValueError(why)
    return expanded(value)


#: Where a model or a tokenizer is: a local path, or ``hf://org/name@revision`` on a hub.
ModelAddress = Annotated[str, AfterValidator(_model_address)]


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


class ObjectiveConfig(Section):
    """What training maximised of a sequence; it decides factors and the gradients of sequences."""

    kind: Literal["causal"] = "causal"
    """``causal``: log-probabilities of tokens given those before them."""
    loss: str = "all"
    """Which tokens counted: ``all`` (but the first, which nothing predicts), ``completion``, or a
    column of the documents that lists characters as ``[[start, end], ...]``.

    ``completion``: what follows the prompt (``corpus.prompt_column``), or what the assistant says
    where ``corpus.text_column`` holds messages.
    """
    reduction: Literal["sum", "mean"] = "sum"
    """Over the tokens of a sequence that counted; by ``mean`` each sequence counts alike."""

    @property
    def column(self) -> str | None:
        """The column of documents that says what counted, where one does."""
        return None if self.loss in ("all", "completion") else self.loss


class FitConfig(Section):
    """Curvature: the EK-FAC factors."""

    sequences: int = Field(default=100_000, ge=1)
    """How many sequences the factors are fitted on.

    Whole splits are taken, evenly spread over the corpus, so it may be somewhat more.
    """
    labels: Literal["sampled", "data"] = "sampled"
    """``sampled``: labels from the model's own distribution (true Fisher).

    ``data``: empirical Fisher.
    """
    lanes: int = Field(default=8, ge=1)
    """Accumulators that splits are dealt to.

    Part of the result's definition, not of the cluster's size.
    """
    error_bound: float | None = Field(default=0.1, gt=0)
    """Stop fitting when the sampling error of a probe set's scores is surely below this.

    Relative, in L2; tested each time the sample has doubled, from a size on at which it may be (0.1
    takes 6,400 sequences at least). None, and a sample that is never large enough, use all of it at
    once, untested.
    """
    blocks: int = Field(default=1, ge=1)
    """Blocks that A and S of every module are split into; 1 is exact.

    Memory of A, S and their eigenbases falls with it, for wide models."""


class ScanConfig(Section):
    """Queries against the corpus."""

    methods: list[Method] = Field(default=["ekfac"], min_length=1)
    """Attribution methods scored in the same pass over the corpus."""
    rank: Annotated[int, Field(ge=1)] | Literal["dense"] = 32
    """Rank of the preconditioned query gradients, or ``dense`` to keep them whole."""
    damping_scale: float = Field(default=0.1, gt=0, lt=_MOST_DAMPING)
    """lambda = damping_scale * mean(Lambda), for each module by itself."""
    damping: float | None = Field(default=None, gt=0, lt=_MOST_DAMPING)
    """An absolute lambda for every module, instead of ``damping_scale``."""
    top: int = Field(default=100, ge=1)
    """How many proponents, and how many opponents, are kept for each query."""
    token_scores: Annotated[int, Field(ge=0)] | Literal["all"] = 20
    """How many proponents, and how many opponents, get scores by token; ``all`` of them."""
    scores: Literal["survivors", "dense"] = "survivors"
    """``dense`` also keeps the scores of all sequences, in one Parquet file per split.

    4 bytes per query and sequence. Asked for later, it scans again.
    """
    split_tokens: int | None = Field(default=None, ge=1)
    """A split, the unit of work and of retry, is a run of row groups of about this many tokens.

    2^21 on a CUDA device and 2^17 on a CPU when not given."""
    group_by: list[str] | None = None
    """Metadata keys; scores of all sequences are summed for each of their values.

    A key that no document has is refused. None: ``source``, whether or not documents have one."""

    @field_validator("methods", "group_by")
    @classmethod
    def _once(cls, values: list[str] | None) -> list[str] | None:
        if repeated := [value for value, count in Counter(values or ()).items() if count > 1]:
            raise ValueError(f"{repeated[0]!r} is listed twice.")
        return values

    @property
    def by_token(self) -> int | None:
        """How many of each direction get scores by token; None is all."""
        return None if self.token_scores == "all" else self.token_scores

    @property
    def grouped_by(self) -> list[str]:
        """The metadata keys that groups are made by."""
        return ["source"] if self.group_by is None else self.group_by


class RunnerConfig(Section):
    """Where the work runs."""

    name: Literal["ray", "inline"] = "ray"
    """``ray``: actors on a Ray cluster; ``inline``: one process, without Ray, the same bytes."""
    actors: int = Field(default=1, ge=1)
    """Model replicas that the scan starts with."""
    max_actors: int | None = Field(default=None, ge=1)
    """Most replicas; the pool grows to this while there is work and room.

    None: as many as ``actors``.
    """
    checkpoint_seconds: float = Field(default=60, ge=0)
    """Least time between two checkpoints of a lane of the fit."""
    stall_seconds: float = Field(default=1800, gt=0)
    """A stage in which no worker reports anything for this long is ended with an error."""
    address: str | None = None
    """Address of a Ray cluster; inside a submitted job Ray finds its own.

    None starts a local one.
    """

    @property
    def most_actors(self) -> int:
        """The largest that the pool may become."""
        return max(self.actors, self.max_actors or 0)


class StorageConfig(Section):
    """Object storage; credentials come from the environment, never from here."""

    endpoint_url: str | None = None
    """Of an S3-compatible server; None is AWS."""
    region: str | None = None
    """Of the buckets; None is the environment's."""
    path_style: bool = False
    """Buckets in the path instead of in the host name."""
    checksums: Literal["when_supported", "when_required"] | None = None
    """When requests carry, and answers are checked against, the checksums of newer S3 clients.

    Servers that know none (Ceph before 18, some others) need ``when_required``. None is the
    environment's AWS_REQUEST_CHECKSUM_CALCULATION, and ``when_supported`` without it.
    """

    @field_validator("endpoint_url")
    @classmethod
    def _is_a_server(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if holds_credentials(value) or "@" in value.partition("://")[0]:
            raise ValueError(_SECRET)
        if not re.fullmatch(r"https?://[^/?#\s\0]+/?[^?#\s\0]*", value, re.IGNORECASE):
            raise ValueError("must be the address of a server, such as http://minio:9000")
        return value

    def options(self, url: str) -> dict[str, Any]:
        """The fsspec options of an address."""
        if not url.startswith("s3://"):
            return {}
        client: dict[str, Any] = {"region_name": self.region} if self.region else {}
        settings: dict[str, Any] = {"s3": {"addressing_style": "path"}} if self.path_style else {}
        if self.checksums:
            settings["request_checksum_calculation"] = self.checksums
            settings["response_checksum_validation"] = self.checksums
        return {
            **({"endpoint_url": self.endpoint_url} if self.endpoint_url else {}),
            **({"client_kwargs": client} if client else {}),
            **({"config_kwargs": settings} if settings else {}),
        }


class RunConfig(Section):
    """A whole run: which model, which corpus, which questions, where."""

    run: Address = Field(min_length=1)
    """The run directory, local or s3://: everything the run writes is in it."""
    model: ModelAddress = Field(min_length=1)
    """A local folder as ``save_pretrained`` writes it: config.json, safetensors, tokenizer.

    Or ``hf://org/name@revision``, which the driver fetches from a hub: a branch (``main`` without
    one), a tag or a commit."""
    queries: Address | None = None
    """queries.jsonl: one {query_id, prompt, completion, metadata} a line, or another form."""
    query_function: str | None = Field(default=None, pattern=r"^\w+(\.\w+)*:\w+$")
    """``module:function`` of your own, which queries ask for instead of log-probabilities.

    It is called with the logits [T, V] of a text, its tokens [T] and where the completion begins
    among them, and returns a scalar."""
    tokenizer: ModelAddress | None = None
    """A folder with the tokenizer, or where it is on a hub, when it is not in the model's."""
    modules: Kind | list[str] | None = None
    """Which linear layers of its blocks are tracked, or glob patterns of their names.

    ``mlp`` (where there is none, all), ``attention`` (all that mix tokens, state spaces too),
    ``all``. None is ``mlp``.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is a CUDA device where the work runs on one, and the CPU elsewhere."""
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = "auto"
    """Of weights and activations; auto is bfloat16 on a CUDA device and float32 on a CPU."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How transformers computes attention; a model without sdpa gets eager by itself."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a batch, padding included; less needs less memory.

    Decided by the device when not given.
    """
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    """What was maximised of a sequence in training, of which influence is that of one more.

    The name of a kind stands for it with the rest as it is by default."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of sampled labels and of the sketches that find low ranks."""
    trust_remote_code: bool = False
    """Let the model's folder bring Python code and run it. Off unless you know its author."""
    base_model: ModelAddress | None = None
    """Of a LoRA adapter in ``model``, the model that it was trained on: a folder or on a hub.

    Where it is neither beside the adapter nor in the folder that its configuration names."""
    corpus: CorpusConfig = Field(default_factory=CorpusConfig)
    """Documents and shards."""
    fit: FitConfig = Field(default_factory=FitConfig)
    """Curvature: the EK-FAC factors."""
    scan: ScanConfig = Field(default_factory=ScanConfig)
    """Methods, ranks, damping, how many survivors."""
    runner: RunnerConfig = Field(default_factory=RunnerConfig)
    """Where the work runs."""
    storage: StorageConfig = Field(default_factory=StorageConfig)
    """How object storage is reached."""

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        refuse_unknown(cls, values, "")
        # In YAML, a section all of whose keys are commented out is null.
        sections = ("objective", "corpus", "fit", "scan", "runner", "storage")
        found = {
            key: {} if value is None and key in sections else value for key, value in values.items()
        }
        if isinstance(found.get("objective"), str):
            found["objective"] = {"kind": found["objective"]}
        return found

    @model_validator(mode="after")
    def _without_passwords(self) -> RunConfig:
        # It would be written into the run directory, with everything else.
        for place, text in _texts(self.model_dump()):
            if holds_credentials(text):
                raise ValueError(f"{place}: {_SECRET}")
        return self

    @model_validator(mode="after")
    def _columns_are_of_one_meaning(self) -> RunConfig:
        corpus = self.corpus
        named = {
            "corpus.text_column": corpus.text_column,
            "corpus.id_column": corpus.id_column,
            "corpus.prompt_column": corpus.prompt_column,
            "objective.loss": self.objective.column,
        }
        if corpus.prompt_column is not None and self.objective.column is not None:
            raise ValueError(
                f"objective.loss: {self.objective.column!r} says what counted, and so does "
                "corpus.prompt_column: set objective.loss to completion or all, or leave the "
                "prompts out."
            )
        keys: dict[str, str] = {}
        for name, column in named.items():
            if column is not None and column in keys:
                raise ValueError(f"{name}: {column!r} is already {keys[column]}; name another one.")
            if column is not None:
                keys[column] = name
        for key in self.scan.group_by or () if corpus.documents else ():
            if key in keys:
                raise ValueError(
                    f"scan.group_by: {key!r} is {keys[key]}, which each document has for itself "
                    "and which is no metadata; name a key that documents share."
                )
        return self

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> RunConfig:
        """Read a YAML file; ``overrides`` replace top-level keys.

        Raises:
            ConfigError: the file is missing, is no run's configuration, or holds a wrong key or
                value.
        """
        try:
            values = read_yaml(Path(expanded(str(path))).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: there is no such config file.") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {brief(error)}. {_WANTED}") from error
        except RepeatedKey as error:
            raise ConfigError(f"{path}: {error}") from error
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path} cannot be read as YAML: {brief(error)}. {_WANTED}"
            ) from error
        if not isinstance(values, dict) or not {"run", "model"} & values.keys():
            raise ConfigError(
                f"{path} is not the configuration of a run: neither run nor model is among its "
                f"keys. {_WANTED}"
            )
        return cls.parse({**values, **overrides}, str(path))

    @classmethod
    def parse(cls, values: dict[str, Any], place: str = "config") -> RunConfig:
        """Build a config from plain values, with errors as sentences.

        Raises:
            ConfigError: a key or a value is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = sentences(error)
            more = [f"and {len(lines) - 4} more"] if len(lines) > 5 else []
            raise ConfigError(
                f"{place}: " + "; ".join([*lines[:4], *(more or lines[4:])])
            ) from error


def _texts(values: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The strings in plain values, each with its place."""
    if isinstance(values, str):
        yield place, values
    elif isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in items:
            yield from _texts(value, f"{place}.{key}" if place else str(key))
