"""Configurations of modules that take rows of features: what is of texts has no place in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.addresses import hub_address

#: What is of texts, by key, with what it is where nothing is said.
_OF_TEXTS = {
    "corpus.text_column": "text",
    "corpus.template": None,
    "corpus.tokens": None,
    "corpus.prompt_column": None,
    "corpus.context": None,
    "corpus.overlap": 0,
    "corpus.bos": "auto",
    "corpus.eos": "auto",
    "objective.loss": "all",
    "objective.reduction": "sum",
    "scan.token_influences": 0,
    "scan.token_scores": 20,
    "tokenizer": None,
    "base_model": None,
    "query_function": None,
}
_METHODS_OF_TEXTS = frozenset({"bm25", "tfidf"})


def refuse_texts_of_rows(config: Mapping[str, Any]) -> None:
    """See that a configuration is of texts, or of rows of features with all that they need.

    Args:
        config: as plain values.

    Raises:
        ValueError: what is missing, or of the other.
    """
    corpus, scan, kind = config["corpus"], config["scan"], config["objective"]["kind"]
    if config["model_function"] is None:
        for key, is_there in (
            ("corpus.feature_columns", corpus["feature_columns"] is not None),
            ("objective.kind: regression", kind == "regression"),
        ):
            if is_there:
                raise ValueError(
                    f"{key} is of rows of features, which a module of your own takes: name the "
                    "function that builds it under model_function, or leave this out."
                )
        return
    if kind not in ("regression", "classification"):
        raise ValueError(
            f"objective.kind: {kind}, and what model_function builds does a regression or a "
            "classification: say which."
        )
    if hub_address(config["model"]) is not None:
        raise ValueError(
            "model: beside model_function it is a local folder with model.safetensors."
        )
    if corpus["documents"] and not (corpus["feature_columns"] and corpus["label_column"]):
        raise ValueError(
            "corpus.feature_columns and corpus.label_column name the columns of features, in the "
            "order in which the module takes them, and of the target: name both."
        )
    if (label := corpus["label_column"]) in (corpus["feature_columns"] or ()):
        raise ValueError(f"corpus.label_column: {label!r} is among corpus.feature_columns, too.")
    for key, by_default in _OF_TEXTS.items():
        section, _, name = key.rpartition(".")
        if (config[section] if section else config)[name] != by_default:
            raise ValueError(f"{key}: it is of texts, and model_function takes rows: leave it out.")
    candidates = scan["candidates"] or {"method": None}
    methods = {*scan["methods"], candidates["method"]}
    if of_texts := sorted(_METHODS_OF_TEXTS.intersection(methods)):
        raise ValueError(
            f"scan: {of_texts[0]} compares words of texts, and rows of features have none. Leave "
            "it out."
        )
