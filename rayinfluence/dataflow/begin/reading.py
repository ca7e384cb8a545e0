"""How documents are read and cut, as far as configuration and addresses tell: refused early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rayinfluence.config import RunConfig
from rayinfluence.corpus.chunks import AUTO, CHUNK, DOCUMENT, Framing, habits
from rayinfluence.corpus.features import Features
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.paths import matches, named_parts, why_no_glob, why_no_pattern
from rayinfluence.corpus.templates import TemplateFailed, template_of
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.errors import ConfigError
from rayinfluence.objective_kinds import CAUSAL, KINDS, MASKED, SEQ2SEQ
from rayinfluence.storage.digest import canonical_json
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: Tokens of a window of a file of ids, where nothing says yet how many a sequence has.
_WINDOW = 2048


def settings_of(
    config: RunConfig, context: int, kind: str = CAUSAL, classes: Sequence[str] = ()
) -> TokenizeSettings:
    """What decides how the documents of a run are tokenised.

    Args:
        config: of the run.
        context: most tokens of a sequence.
        kind: of the objective.
        classes: names of a classifier's classes by their ids.
    """
    corpus = config.corpus
    return TokenizeSettings(
        corpus.text_column,
        corpus.id_column,
        context,
        corpus.row_group_tokens,
        corpus.shard_tokens,
        corpus.prompt_column,
        config.objective.column,
        kind,
        corpus.label_column,
        canonical_json(list(classes)),
        corpus.template,
        _chosen_keys(config),
        corpus.path_columns,
        corpus.bos,
        corpus.eos,
        corpus.overlap,
        corpus.plain_text == "blocks",
        corpus.feature_columns,
        None if corpus.tokens is None else corpus.tokens.model_dump(),
    )


def columns_of(config: RunConfig) -> Columns:
    """The columns of documents that have a meaning, before a model says what its context is."""
    corpus = config.corpus
    return settings_of(config, corpus.context or corpus.overlap + _WINDOW).columns


def refuse_unread(config: RunConfig, files: Sequence[Store]) -> None:
    """See that a template is one, and that patterns of addresses hold for all files.

    Raises:
        ConfigError: something is not.
    """
    corpus = config.corpus
    if corpus.template is not None:
        try:
            template_of(corpus.template)
        except TemplateFailed as error:
            raise ConfigError(f"corpus.template: {error}.") from error
    if (pattern := corpus.path_columns) is not None:
        if why := why_no_pattern(pattern):
            raise ConfigError(f"corpus.path_columns: {why}")
        _refuse_others(
            "corpus.path_columns",
            [file.url for file in files if named_parts(file.url, pattern) is None],
            len(files),
            f"end as {pattern!r} says",
        )
    if isinstance(by_file := corpus.text_column, dict) and corpus.template is None:
        for glob in by_file:
            if why := why_no_glob(glob):
                raise ConfigError(f"corpus.text_column: {why}")
        _refuse_others(
            "corpus.text_column",
            [file.url for file in files if not any(matches(file.url, glob) for glob in by_file)],
            len(files),
            f"end as one of its globs says ({', '.join(map(repr, by_file))})",
        )


def refuse_framing(config: RunConfig, kind: str) -> None:
    """See that documents are framed and cut as a kind of model takes them.

    Raises:
        ConfigError: they are not.
    """
    corpus = config.corpus
    if kind == SEQ2SEQ and corpus.tokens is not None:
        raise ConfigError(
            f"corpus.tokens: documents are token ids, and the model is a {KINDS[kind].model}, "
            "which gets a source and a target: name columns of texts."
        )
    if kind == CAUSAL:
        return
    for key in ("bos", "eos"):
        if (when := getattr(corpus, key)) != AUTO:
            raise ConfigError(
                f"corpus.{key}: {when}, and the model is a {KINDS[kind].model}, which gets "
                f"each text as its tokenizer frames it. Leave corpus.{key} out."
            )
    if corpus.overlap and kind != MASKED:
        raise ConfigError(
            f"corpus.overlap: {corpus.overlap}, and the model is a {KINDS[kind].model}, which gets "
            "each text whole: nothing is cut. Leave corpus.overlap out."
        )


def refuse_overlap(overlap: int, context: int, framing: Framing) -> None:
    """See that each chunk brings at least two tokens that the one before does not have.

    Raises:
        ConfigError: it does not.
    """
    most = context - framing.of_chunks - 2
    if overlap > max(most, 0) or most < 0:
        raise ConfigError(
            f"corpus.overlap: {overlap:,} tokens; of the {context:,} of a sequence, "
            f"{framing.of_chunks} begin or end it, and two have to be new in each: set it to at "
            f"most {max(most, 0):,}, or corpus.context to more."
        )


def framed(tokenizer: Coding, framing: Framing, kind: str, overlap: int) -> str:
    """What stands at the ends of texts, in words for whoever looks at a run."""
    if isinstance(tokenizer, Features):
        return f"rows of {tokenizer.n_features:,} features and a target"
    before, after = habits(tokenizer)

    def shown(tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(tokens)))) or "nothing"

    places = {DOCUMENT: "each document", CHUNK: "each chunk"}
    begins = shown(framing.begins if framing.bos in places else before * (framing.bos == AUTO))
    if kind == CAUSAL:
        ends = shown(framing.ends)
        left_out = after and framing.eos == AUTO
    else:
        ends, left_out = shown(after), False
    said = (
        f"{begins} before {places.get(framing.bos, places[DOCUMENT])} (corpus.bos: {framing.bos}), "
        f"{ends} after {places.get(framing.eos, places[DOCUMENT])} (corpus.eos: {framing.eos})"
    )
    if left_out:
        said += (
            f"; the tokenizer would end a text with {shown(after)}: set corpus.eos to document if "
            "training did"
        )
    return said + (f"; chunks have {overlap:,} tokens in common" if overlap else "")


def _refuse_others(key: str, others: Sequence[str], n_files: int, does: str) -> None:
    if others:
        raise ConfigError(
            f"{key}: {len(others):,} of {n_files:,} files under corpus.documents do not {does}, "
            f"such as {others[0]}. Mend the pattern, add one, or name other documents."
        )


def _chosen_keys(config: RunConfig) -> list[str] | None:
    """The metadata that are chosen, with those that groups are made by; None where none are."""
    corpus = config.corpus
    if corpus.metadata is None:
        return None
    label = [] if corpus.label_column is None else [corpus.label_column]
    return sorted({*corpus.metadata, *config.scan.grouped_by, *label})
