"""A whole run on disk, small enough for a test.

Model, tokenizer, documents, queries and their configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from rayinfluence.config import RunConfig
from rayinfluence.model.pretrained import silent
from rayinfluence.testing.models import VOCABULARY, tiny_gpt2, tiny_tokenizer


def tiny_run(
    folder: Path,
    n_documents: int = 60,
    seed: int = 0,
    pretrained: PreTrainedModel | None = None,
    **overrides: Any,
) -> RunConfig:
    """Write a tiny model, documents and queries into a folder, and configure a run on them.

    Of methods it has EK-FAC alone.

    Args:
        folder: where everything goes; the run directory is ``folder/run``.
        n_documents: how many documents, of 2 to 30 words, from three sources.
        seed: of the documents and the model.
        pretrained: the model that is run, with a vocabulary of ``VOCABULARY`` and a context of 16
            or more; None is :func:`tiny_gpt2`. Its class is known to transformers, or to this
            process, which has registered it.
        overrides: top-level keys of the configuration; a dictionary is merged into its section.
    """
    if pretrained is None:
        pretrained = cast(PreTrainedModel, tiny_gpt2(seed, dtype=torch.float32, attention="sdpa"))
    with silent():
        pretrained.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    generator = np.random.default_rng(seed)
    write_documents(folder / "documents.jsonl", generator, n_documents)
    queries = [
        {
            "query_id": f"q{i}",
            "prompt": _words(generator, 4),
            "completion": " " + _words(generator, 2),
        }
        for i in range(3)
    ]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    values: dict[str, Any] = {
        "run": str(folder / "run"),
        "model": str(folder / "model"),
        "queries": str(folder / "queries.jsonl"),
        "corpus": {"documents": [str(folder / "documents.jsonl")], "row_group_tokens": 48},
        "fit": {"lanes": 3},
        "scan": {"methods": ["ekfac"], "top": 5, "split_tokens": 120, "rank": 4},
        "runner": {"name": "inline"},
        "batch_tokens": 64,
    }
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return RunConfig.parse(values)


def write_documents(path: Path, generator: np.random.Generator, count: int) -> None:
    """Write documents of random words from three sources."""
    rows = [
        {
            "id": f"{path.stem}-{index}",
            "text": _words(generator, int(generator.integers(2, 30))),
            "source": ["alpha", "beta", "gamma"][index % 3],
            "year": 1990 + index % 5,
        }
        for index in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in generator.integers(0, VOCABULARY - 1, count))
