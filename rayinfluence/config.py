"""RunConfig: the whole configuration of a run as one typed tree, from YAML or from Python.

Only what a user has to decide is here; what follows from shapes and data is decided by the program.
Unknown keys are refused with a suggestion. Relative paths of a file are relative to its folder,
others to the working directory, and ``~`` is the home of whoever reads the configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rayinfluence.config_corpus import CorpusConfig
from rayinfluence.config_evaluation import EvaluationConfig
from rayinfluence.config_features import refuse_texts_of_rows
from rayinfluence.config_file import beside, values_of
from rayinfluence.config_methods import BY_ITSELF, DAMPED, NO_DERIVATIVES, Method
from rayinfluence.config_objective import ObjectiveConfig, of_a_module
from rayinfluence.config_places import (
    SECRET,
    Address,
    ModelAddress,
    RunnerConfig,
    Section,
    StorageConfig,
)
from rayinfluence.config_representer import RepresenterConfig, refuse_unrepresentable
from rayinfluence.config_scored import Damping, DampingScale, ScoredMethod, scored_methods
from rayinfluence.config_sentences import refuse_unknown, sentences, shown
from rayinfluence.config_set import with_set
from rayinfluence.config_solver import SolverConfig, named, of_koh_liang, refuse_unrefinable
from rayinfluence.errors import ConfigError
from rayinfluence.text import holds_credentials

#: What each document has for itself, by the key that names its column.
_OF_ITS_OWN = {
    "corpus.text_column": "text",
    "corpus.id_column": "id",
    "corpus.prompt_column": "prompt",
    "corpus.feature_columns": "features",
    "objective.loss": "characters that counted",
}

#: Of linear layers, by the part that they have in their block.
Kind = Literal["mlp", "attention", "all"]


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
    """Stop fitting when the sampling error of a held-out set's scores is surely below this.

    Relative, in L2; tested each time the sample has doubled, from a size on at which it may be (0.1
    takes 6,400 sequences at least). None, and a sample that is never large enough, use all of it at
    once, untested.
    """
    blocks: int = Field(default=1, ge=1)
    """Blocks that A and S of every module are split into; 1 is exact.

    Memory of A, S and their eigenbases falls with it, for wide models."""


class CandidatesConfig(Section):
    """A filter before the scan: what is cheap says which sequences are scored by the methods."""

    method: str | None = None
    """A method whose top is scored; beside ``run``, which of that run's, such as ``ekfac@0.01``."""
    top: int = Field(default=10_000, ge=1)
    """How many of each query, of each direction where scores have one; all queries' together are
    the candidates, and each query is scored against all of them."""
    run: Address | None = None
    """A run directory on the same corpus, whose survivors are the candidates."""
    sample: int = Field(default=15_000, ge=1)
    """How many sequences, at random, are scored beside them to say what the filter misses."""

    @model_validator(mode="after")
    def _says_which(self) -> CandidatesConfig:
        if self.method is None and self.run is None:
            raise ValueError(
                "name a method, such as tfidf, or a run on the same corpus whose survivors are the "
                "candidates."
            )
        if self.run is None and self.method not in get_args(Method):
            raise ValueError(f"method: must be {', '.join(get_args(Method))}, not {self.method!r}.")
        if self.run is None and self.method in BY_ITSELF:
            raise ValueError(f"{self.method} asks no query, and candidates are of queries.")
        return self


class ScanConfig(Section):
    """Queries against the corpus."""

    methods: list[Method] = Field(default=["ekfac", "bm25"], min_length=1)
    """Attribution methods scored in the same pass over the corpus.

    By default BM25 stands beside EK-FAC, to be compared with: it costs less than the differences
    between two runs. Rows of features have no words, and EK-FAC alone by default."""
    rank: Annotated[int, Field(ge=1)] | Literal["dense"] = 32
    """Rank of the preconditioned query gradients, or ``dense`` to keep them whole."""
    damping_scale: DampingScale = 0.1
    """lambda = damping_scale * mean(Lambda), for each module by itself.

    Of a list each is scored by in the same pass: ekfac at 0.01 is ``ekfac@0.01`` in the results."""
    damping: Damping | None = None
    """An absolute lambda for every module, instead of ``damping_scale``."""
    solver: Annotated[SolverConfig | None, BeforeValidator(named)] = None
    """What refines the queries of ``ekfac``; None is EK-FAC's inverse as it is."""
    koh_liang: Annotated[SolverConfig, BeforeValidator(of_koh_liang)] = Field(
        default_factory=lambda: SolverConfig(name="cg", curvature="hessian")
    )
    """What solves for the queries of ``koh_liang``: ``explicit``, ``cg`` or ``lissa``."""
    representer: RepresenterConfig = Field(default_factory=RepresenterConfig)
    """How the last layer is fitted again for ``representer``."""
    top: int = Field(default=100, ge=1)
    """How many proponents, and how many opponents, are kept for each query."""
    token_scores: Annotated[int, Field(ge=0)] | Literal["all"] = 20
    """How many proponents, and how many opponents, get scores by token; ``all`` of them."""
    token_influences: int = Field(default=0, ge=0)
    """How many proponents, and how many opponents, get output- and input-token influences.

    Of a pair of query and sequence both take as long as four passes of the scan over it."""
    surroundings: int = Field(default=300, ge=0, le=10_000)
    """Characters of its document that are kept on either side of what survived; 0 keeps none."""
    pair_scores: int = Field(default=5, ge=0)
    """How many proponents, and how many opponents, get scores by pairs of tokens, one of the
    completion and one of the sequence; 0 is none.

    The completion is cut into 32 parts at most. Both are fewer where they would take more than
    about a tenth of the job."""
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
    candidates: CandidatesConfig | None = None
    """Score these alone, of the sequences that ``corpus.select`` leaves. None is all of them."""

    @field_validator("methods", "group_by", "damping_scale")
    @classmethod
    def _once(cls, values: Any) -> Any:
        counts = Counter(values) if isinstance(values, list) else {}
        if repeated := [value for value, count in counts.items() if count > 1]:
            raise ValueError(f"{repeated[0]!r} is listed twice.")
        return values

    @model_validator(mode="after")
    def _one_of_the_dampings(self) -> ScanConfig:
        if self.damping is not None and isinstance(self.damping_scale, list):
            raise ValueError(
                f"damping: {self.damping:g} would take the place of each of damping_scale, which "
                "is a list. Leave one of them out."
            )
        return self

    @model_validator(mode="after")
    def _influences_are_of_derivatives(self) -> ScanConfig:
        if self.token_influences and set(self.methods) <= NO_DERIVATIVES:
            raise ValueError(
                f"token_influences: scores by {' and '.join(self.methods)} are no derivatives of "
                "log-probabilities, and have no token influences. Add ekfac to scan.methods, or "
                "leave the key out."
            )
        return self

    @model_validator(mode="after")
    def _candidates_are_of_others(self) -> ScanConfig:
        if self.candidates is None:
            return self
        if itself := BY_ITSELF.intersection(self.methods):
            raise ValueError(
                f"candidates: they are of queries, and {', '.join(sorted(itself))} asks none. Take "
                "it out of scan.methods, or leave the candidates out."
            )
        if not self.exact:
            raise ValueError(
                f"candidates: {self.candidates.method} is all that scan.methods has, and its top "
                "needs no filter. Name a method that scores the candidates, such as ekfac."
            )
        return self

    @property
    def scored(self) -> list[ScoredMethod]:
        """What is scored by: the methods, each that has a damping at each of these."""
        return scored_methods(self.methods, DAMPED, self.damping_scale)

    @property
    def exact(self) -> list[Method]:
        """The methods that score what a filter leaves, and not the one that it is."""
        filtering = self.candidates and self.candidates.run is None and self.candidates.method
        return [method for method in self.methods if method != filtering]

    @property
    def fitted_for(self) -> list[str]:
        """All methods that are scored by, the filter's too."""
        filtering = self.candidates and self.candidates.run is None and self.candidates.method
        return list(dict.fromkeys([*self.methods, *([filtering] if filtering else [])]))

    @property
    def asks_queries(self) -> bool:
        """Whether a method has queries to ask."""
        return not BY_ITSELF.issuperset(self.methods)

    @property
    def by_token(self) -> int | None:
        """How many of each direction get scores by token; None is all."""
        return None if self.token_scores == "all" else self.token_scores

    @property
    def grouped_by(self) -> list[str]:
        """The metadata keys that groups are made by."""
        return ["source"] if self.group_by is None else self.group_by


class RunConfig(Section):
    """A whole run: which model, which corpus, which questions, where."""

    run: Address = Field(min_length=1)
    """The run directory, local or s3://: everything the run writes is in it."""
    model: ModelAddress = Field(min_length=1)
    """A local folder as ``save_pretrained`` writes it: config.json, safetensors, tokenizer.

    Or ``hf://org/name@revision``, which the driver fetches from a hub: a branch (``main`` without
    one), a tag or a commit."""
    queries: Address | None = None
    """queries.jsonl: one {query_id, prompt, completion, metadata} a line, or another form.

    ``self_influence`` needs none."""
    query_function: str | None = None
    """``module:function`` of your own, which queries ask for instead of log-probabilities.

    It is called with the logits [T, V] of a text, its tokens [T] and where the completion begins
    among them, and returns a scalar."""
    model_function: str | None = None
    """``module:function`` of your own, which builds a ``torch.nn.Module`` for rows of features.

    It is called with nothing; the module's weights are the model.safetensors of the folder
    ``model``. ``objective`` says whether it does a ``regression`` or a ``classification``."""
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
    evaluation: EvaluationConfig | None = None
    """How good the attributions are, by training again on parts of the corpus.

    It changes nothing of a run."""
    runner: RunnerConfig = Field(default_factory=RunnerConfig)
    """Where the work runs."""
    storage: StorageConfig = Field(default_factory=StorageConfig)
    """How object storage is reached."""

    @field_validator("query_function", "model_function")
    @classmethod
    def _isof_a_module(cls, name: str | None) -> str | None:
        return name if name is None else of_a_module(name)

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
        scan = found.get("scan", {})
        if found.get("model_function") and isinstance(scan, dict) and "methods" not in scan:
            found["scan"] = {**scan, "methods": ["ekfac"]}
        return found

    @model_validator(mode="after")
    def _without_passwords(self) -> RunConfig:
        # It would be written into the run directory, with everything else.
        for place, text in _texts(self.model_dump()):
            if holds_credentials(text):
                raise ValueError(f"{place}: {SECRET}")
        return self

    @model_validator(mode="after")
    def _several_gpus_are_asked_for(self) -> RunConfig:
        # With auto, a cluster whose nodes are too small would be taken for one without GPUs.
        if (gpus := self.runner.gpus_per_actor or 1) > 1 and self.device != "cuda":
            raise ValueError(
                f"runner.gpus_per_actor: {shown(gpus)} GPUs for a replica need `device: cuda`, "
                f"and it is {self.device}. Set that, or leave gpus_per_actor out."
            )
        return self

    @model_validator(mode="after")
    def _rows_are_no_texts(self) -> RunConfig:
        refuse_texts_of_rows(self.model_dump())
        return self

    @model_validator(mode="after")
    def _there_is_something_to_refine(self) -> RunConfig:
        refuse_unrefinable(self.scan.model_dump(), self.objective.function)
        if "representer" in self.scan.methods:
            refuse_unrepresentable(self.query_function, self.objective.function)
        return self

    @model_validator(mode="after")
    def _own_objective_has_no_distribution(self) -> RunConfig:
        function = self.objective.function
        if function is not None and self.fit.labels != "data":
            raise ValueError(
                f"fit.labels: {self.fit.labels}, and {function} (objective.kind) has no "
                "distribution that labels could be drawn from. Set `fit.labels: data`: curvature "
                "is then made of squared gradients of what it gives for the corpus."
            )
        if function is not None and self.scan.token_influences:
            raise ValueError(
                "scan.token_influences: they are parts of log-probabilities of tokens, and "
                f"{function} (objective.kind) has no such parts. Leave the key out."
            )
        return self

    @model_validator(mode="after")
    def _columns_are_of_one_meaning(self) -> RunConfig:
        corpus = self.corpus
        made = corpus.template is not None or corpus.feature_columns
        texts = [] if made else corpus.text_columns
        named = [
            *(("corpus.text_column", name) for name in texts),
            ("corpus.id_column", corpus.id_column),
            ("corpus.prompt_column", corpus.prompt_column),
            *(("corpus.feature_columns", name) for name in corpus.feature_columns or ()),
            ("objective.loss", self.objective.column),
        ]
        for key in ("prompt_column", "template"):
            if getattr(corpus, key) is not None and self.objective.column is not None:
                raise ValueError(
                    f"objective.loss: {self.objective.column!r} says what counted, and so does "
                    f"corpus.{key}: set objective.loss to completion or all, or leave the "
                    + ("prompts out." if key == "prompt_column" else "template out.")
                )
        keys: dict[str, str] = {}
        for name, column in named:
            if column is not None and column in keys:
                raise ValueError(f"{name}: {column!r} is already {keys[column]}; name another one.")
            if column is not None:
                keys[column] = name
        # It stays among the metadata, so that texts of a class are a group.
        if (label := corpus.label_column) in keys:
            raise ValueError(
                f"corpus.label_column: {label!r} is already {keys[str(label)]}; name another one."
            )
        wanted = [
            *(("scan.group_by", key) for key in self.scan.group_by or ()),
            *(("corpus.metadata", key) for key in corpus.metadata or ()),
        ]
        for name, key in wanted if corpus.documents else ():
            if key in keys:
                raise ValueError(
                    f"{name}: {key!r} is the column of the documents' "
                    f"{_OF_ITS_OWN[keys[key]]} ({keys[key]}), which each has for itself and which "
                    "is no metadata; name a key that documents share."
                )
        return self

    @classmethod
    def load(cls, path: str | Path, settings: Sequence[str] = (), **overrides: Any) -> RunConfig:
        """Read a YAML file; ``overrides`` replace top-level keys.

        Args:
            path: of the file, whose relative paths are relative to its folder.
            settings: keys that are set over it, such as ``scan.top=50``, as ``--set`` has them;
                their paths, and those of overrides, are relative to the working directory.
            overrides: values by top-level key.

        Raises:
            ConfigError: the file is missing, is no run's configuration, or holds a wrong key or
                value.
        """
        values = beside(values_of(path), path)
        return cls.parse({**values, **overrides}, str(path), settings)

    @classmethod
    def parse(
        cls, values: dict[str, Any], place: str = "config", settings: Sequence[str] = ()
    ) -> RunConfig:
        """Build a config from plain values, with errors as sentences.

        Args:
            values: as YAML has them.
            place: where they are from.
            settings: keys that are set over them, such as ``scan.top=50``.

        Raises:
            ConfigError: a key or a value is wrong.
        """
        try:
            return cls.model_validate(with_set(values, settings))
        except ValidationError as error:
            lines = sentences(error)
            more = [f"and {len(lines) - 4} more"] if len(lines) > 5 else []
            if settings:
                place = f"{place} with {' '.join(f'--set {one}' for one in settings)}"
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
