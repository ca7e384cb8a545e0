"""What the first documents tell of the whole corpus, before hours are spent on tokenising it.

Where they are all that there is, what is wrong is refused; otherwise it is a warning, since others
may be as they should.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rayinfluence.config import RunConfig
from rayinfluence.config_corpus import CorpusConfig
from rayinfluence.corpus.beginning import Beginning, beginning
from rayinfluence.corpus.features import Features
from rayinfluence.corpus.forms import rendered
from rayinfluence.corpus.tokenize import as_given
from rayinfluence.corpus.tokenizer import encode
from rayinfluence.dataflow.begin.counted import refuse_plain_texts, untold_chats
from rayinfluence.dataflow.begin.narrowing import Conditions, lacking_keys
from rayinfluence.dataflow.begin.reading import columns_of
from rayinfluence.dataflow.begin.unknown_keys import unknown_key
from rayinfluence.dataflow.compute.quarantine import QUARANTINE_LIMIT
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: The default, which documents need not have.
_ID = CorpusConfig().id_column


def foretold(
    config: RunConfig,
    files: Sequence[Store],
    tokenizer: Coding,
    vocabulary: int | None,
    context: int,
    is_new: bool,
    conditions: Conditions = (None, None),
) -> list[str]:
    """What would be refused when the files are tokenised, if all documents are as the first.

    Args:
        config: of the run.
        files: that are to be tokenised.
        tokenizer: with which.
        vocabulary: ids that the model knows; None where it does not say.
        context: most tokens of a sequence.
        is_new: whether the corpus has no other files.
        conditions: that rows are chosen by.

    Raises:
        ConfigError: no document has a key that is grouped or chosen by, or chats do not tell what
            counted.
        CorpusError: too many have tokens that the model does not know; or a file cannot be read.
    """
    settings = config.corpus
    first = beginning(files, columns_of(config), config.corpus.bad_files > 0)
    refuse_plain_texts(config, first)
    first = _as_texts(first, tokenizer)
    warnings = []
    is_known = first.is_all and is_new
    if untold := untold_chats(config, first):
        if is_known or all(one.counted is None for one in first.documents):
            raise ConfigError(untold)
        warnings.append(f"{untold} The run ends when all are tokenised.")
    named = [
        *(("scan.group_by", key) for key in config.scan.group_by or ()),
        *(("corpus.metadata", key) for key in settings.metadata or ()),
    ]
    groups = [(setting, key) for setting, key in named if key not in first.keys]
    lacking = [*groups, *lacking_keys(conditions, first.keys)] if first.documents else []
    for setting, key in lacking:
        said = unknown_key(key, first.keys, f"none of {first.whose}", setting)
        if key in first.left_out:
            said = (
                f"{setting}: {key!r} is not kept of {first.whose}, as it is not small: name it "
                "under corpus.metadata."
            )
        if is_known:
            raise ConfigError(said)
        warnings.append(f"{said} If no document has it, the run ends when all are tokenised.")
    if first.documents and not first.has_ids and settings.id_column != _ID:
        close = difflib.get_close_matches(settings.id_column, first.keys, n=2)
        warnings.append(
            f"corpus.id_column: none of {first.whose} has {settings.id_column!r}, so that file and "
            f"line name them{'; did you mean ' if close else ''}"
            f"{' or '.join(map(repr, close))}{'?' if close else '.'}"
        )
    if unknown := _unknown_tokens(first, tokenizer, vocabulary, context):
        if is_known:
            raise CorpusError(unknown)
        warnings.append(
            f"{unknown} If more than {QUARANTINE_LIMIT:.0%} of the corpus are so, the run ends "
            "when it is tokenised."
        )
    return warnings


def _as_texts(first: Beginning, tokenizer: Coding) -> Beginning:
    """The same with messages made texts.

    Raises:
        CorpusError: of none of them that can be done.
    """
    made = [(document, rendered(document, tokenizer)) for document in first.documents]
    found = [one for _, one in made if not isinstance(one, str)]
    wrong = [(document, why) for document, why in made if isinstance(why, str)]
    if wrong and not found:
        document, why = wrong[0]
        raise CorpusError(f"none of {first.whose} gives a text: of {document.document_id!r} {why}.")
    return replace(first, documents=found)


def _unknown_tokens(
    first: Beginning, tokenizer: Coding, vocabulary: int | None, context: int
) -> str | None:
    """Say of documents that too many of their sequences have tokens that the model lacks."""
    if vocabulary is None or isinstance(tokenizer, Features):
        return None
    if max(tokenizer.get_vocab().values()) < vocabulary:
        return None
    if any(document.tokens is not None for document in first.documents):
        encodings = [as_given(document) for document in first.documents]
    else:
        templated = [document.templated for document in first.documents]
        encodings = encode(tokenizer, [document.text for document in first.documents], templated)
    n, found = 0, dict[str, int]()
    for document, encoding in zip(first.documents, encodings, strict=True):
        for start in range(0, len(encoding.tokens), context):
            tokens = encoding.tokens[start : start + context]
            n += len(tokens) > 1
            if len(tokens) > 1 and max(tokens) >= vocabulary:
                found[f"{document.document_id}+{start}"] = max(tokens)
    if len(found) <= QUARANTINE_LIMIT * n:
        return None
    place, token = next(iter(found.items()))
    return (
        f"tokenizer: {len(found):,} of {n:,} sequences of {first.whose} have tokens outside the "
        f"model's vocabulary of {vocabulary:,}, such as {token} "
        f"({tokenizer.convert_ids_to_tokens(token)!r}) in document "
        f"{place.rpartition('+')[0]!r}. Name the tokenizer that the model was trained with under "
        "`tokenizer`, or leave such documents out."
    )
