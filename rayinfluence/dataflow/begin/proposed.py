"""What a first configuration may say of a model and documents, by looking at them.

Guesses are for whoever reads the file that is written; what they are made of is said beside them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rayinfluence.addresses import hub_address
from rayinfluence.config import RunConfig
from rayinfluence.config_places import StorageConfig
from rayinfluence.corpus.documents import rows_of
from rayinfluence.corpus.files import find_files
from rayinfluence.dataflow.begin.early import Inputs, refuse_no_folder
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.model.weight_files import CONFIG, WEIGHTS, read_config
from rayinfluence.objective_kinds import CAUSAL, resolved_kind
from rayinfluence.storage.store import Store
from rayinfluence.text import in_bytes

#: Rows that are looked at.
_ROWS = 200
#: What columns are called, the likeliest first.
_TEXTS = ("text", "content", "body", "document", "article", "passage", "markdown")
_CHATS = ("messages", "conversations")
_ANSWERS = ("completion", "response", "answer", "output")
_IDS = ("id", "doc_id", "document_id", "_id", "uuid")
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")
#: As `corpus.context` is by default at most.
_MOST_CONTEXT = 2048
#: Tokens of a batch by default on a CPU, and the fewest that are proposed.
_BATCH, _LEAST = 2048, 64
#: Numbers that a layer keeps of a token for its backward pass, in widths of the stream, roughly.
_KEPT = 34
#: Words of the example's prompt and completion.
_PROMPT, _COMPLETION = 8, 3


@dataclass(frozen=True)
class Proposed:
    """A configuration that runs, and what it is made of.

    Attributes:
        values: plain values of the keys that are set.
        remarks: by dotted key, why it is so, or what else there is.
        example: a query of the first document's words, where no queries were given.
    """

    values: dict[str, Any]
    remarks: Mapping[str, str]
    example: Mapping[str, str] | None


def proposed(model: str, documents: str, queries: str | None) -> Proposed:
    """Look at a model's folder and at documents, and propose a configuration.

    Raises:
        ModelError, CorpusError, QueryError, StorageError: what a run would be refused with.
        ConfigError: there is no text among the documents' columns.
    """
    described: Mapping[str, Any] = {}
    if hub_address(model) is None:
        refuse_no_folder("model", model)
        described = read_config(model) if (Path(model) / CONFIG).is_file() else {}
    rows = _rows(documents)
    columns = Counter(key for row in rows for key in row)
    remarks = {"corpus.documents": f"columns: {_shares(columns, len(rows))}"}
    corpus: dict[str, Any] = {"documents": [documents]}
    values: dict[str, Any] = {
        "run": f"runs/{Path(model.partition('@')[0]).name or 'first'}",
        "model": model,
        "corpus": corpus,
        "runner": {"name": "inline"},
    }
    _texts(rows, columns, values, remarks)
    if (identity := next((name for name in _IDS if name in columns), "id")) != "id":
        corpus["id_column"] = identity
    context = next((described[key] for key in _LENGTHS if described.get(key)), None)
    if isinstance(context, int):
        corpus["context"] = min(context, _MOST_CONTEXT)
        remarks["corpus.context"] = f"the model's own is {context:,}"
    _batch(model, described, values, remarks)
    text = corpus.get("text_column", "text")
    if keys := _groups(rows, {text, identity, corpus.get("prompt_column")}):
        values["scan"] = {"group_by": [keys[0]]}
        remarks["scan.group_by"] = f"what repeats: {', '.join(keys)}"
    example = None
    if queries is not None:
        values["queries"] = queries
    elif resolved_kind("auto", described) == CAUSAL:
        example = _example(rows, text)
    if queries is None and example is None:
        values.setdefault("scan", {})["methods"] = ["self_influence"]
        remarks["scan.methods"] = "asks no queries; ekfac and others need a file of `queries`"
    if hub_address(model) is None:
        checked = {**values, "scan": {**values.get("scan", {}), "methods": ["self_influence"]}}
        Inputs.of(RunConfig.parse(values if queries else checked, "init"))
    return Proposed(values, remarks, example)


def _rows(documents: str) -> list[dict[str, Any]]:
    storage = StorageConfig()
    files = find_files([documents], storage.options).files

    def all_rows() -> Iterator[dict[str, Any]]:
        for file in _ends(files):
            with closing(rows_of(file)) as rows:
                yield from islice(rows, _ROWS)

    if not (found := list(all_rows())):
        raise CorpusError(f"corpus.documents: {documents} has no row that can be read.")
    return found


def _ends(files: Sequence[Store]) -> list[Store]:
    """The first file and the last."""
    return [files[0]] if len(files) == 1 else [files[0], files[-1]]


def _texts(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, int],
    values: dict[str, Any],
    remarks: dict[str, str],
) -> None:
    """Which column is the text, and what was given before it."""
    corpus = values["corpus"]
    lengths = {
        name: sum(len(row[name]) for row in rows if isinstance(row.get(name), str))
        for name in columns
    }
    strings = [name for name, length in lengths.items() if length]
    answer = next((name for name in _ANSWERS if name in strings), None)
    named = next((name for name in (*_TEXTS, *_CHATS) if name in columns), None)
    if "text" not in columns and "prompt" in columns and answer is not None:
        corpus |= {"text_column": answer, "prompt_column": "prompt"}
        values["objective"] = {"loss": "completion"}
        remarks["objective.loss"] = "training counted what comes after the prompt; or all"
    elif named is not None:
        corpus["text_column"] = named
    elif "input_ids" in columns:
        corpus["tokens"] = {}
        remarks["corpus.tokens"] = "documents are token ids already, in input_ids"
        return
    elif strings:
        corpus["text_column"] = max(strings, key=lambda name: lengths[name])
        remarks["corpus.text_column"] = "the column with the most text: a guess"
    else:
        raise ConfigError(
            f"init: no column of the documents holds text; there are {', '.join(columns)}. Write "
            "corpus.template, which makes a text of columns, into a configuration of your own."
        )


def _batch(
    model: str, described: Mapping[str, Any], values: dict[str, Any], remarks: dict[str, str]
) -> None:
    """How many tokens fit a batch on this machine's processor, by the shapes alone."""
    config = described.get("text_config") or described
    layers, width, words = (
        next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        for keys in (("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"), ("vocab_size",))
    )
    if layers is None or width is None or words is None:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    weights = sum(file.stat().st_size for file in Path(model).iterdir() if file.suffix == WEIGHTS)
    # Logits, their softmax and its gradient; in float32.
    of_token = 4 * (_KEPT * layers * width + 3 * words)
    tokens = _BATCH
    while tokens > _LEAST and weights + tokens * of_token > memory // 2:
        tokens //= 2
    if tokens < _BATCH:
        values["batch_tokens"] = tokens
        if "context" in values["corpus"]:
            values["corpus"]["context"] = min(values["corpus"]["context"], tokens)
    remarks["batch_tokens"] = (
        f"on this machine's processor {tokens:,} take some {in_bytes(tokens * of_token)} "
        "beside the weights, by shapes alone; `rayinfluence inspect` measures it"
    )


def _groups(rows: Sequence[Mapping[str, Any]], others: set[Any]) -> list[str]:
    """Keys that documents share values of, the best known first."""
    found = []
    for key in dict.fromkeys(key for row in rows for key in row):
        some = [row[key] for row in rows if isinstance(row.get(key), str | int | bool)]
        n_values = len(set(some))
        if key not in others and 2 * len(some) >= len(rows) and 2 <= n_values <= len(some) // 2:
            found.append((key != "source", n_values, key))
    return [key for _, _, key in sorted(found)]


def _example(rows: Sequence[Mapping[str, Any]], text: str) -> dict[str, str] | None:
    """A query of the words of the first document that has enough."""
    for row in rows:
        words = str(row.get(text) or "").split() if isinstance(row.get(text), str) else []
        if len(words) >= _COMPLETION + 1:
            start = min(_PROMPT, len(words) - _COMPLETION)
            return {
                "query_id": "example",
                "prompt": " ".join(words[:start]),
                "completion": f" {' '.join(words[start : start + _COMPLETION])}",
            }
    return None


def _shares(columns: Mapping[str, int], n_rows: int) -> str:
    """Names of columns, with how many rows have one that not all have."""
    named = [
        f"{key}" if n == n_rows else f"{key} ({n:,} of {n_rows:,})" for key, n in columns.items()
    ]
    return ", ".join(named[:20]) + (", ..." if len(named) > 20 else "")
