"""The demo's language model: a byte-level BPE tokenizer and a GPT-2, trained in a minute or two.

``ensure_model`` trains once: the folder carries the digest of everything the weights depend on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from rayinfluence.demo.shown import train_shown
from rayinfluence.errors import CorpusError
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.storage.digest import digest

#: Raised whenever the code of training changes what comes out of it.
TRAINING_VERSION = 1
RECORD = "training.json"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TrainedModel:
    """A finished model folder; ``trained`` is False where an earlier run had left it ready."""

    folder: Path
    digest: str
    trained: bool
    loss: float
    seconds: float
    parameters: int
    tokens: int


def ensure_model(
    folder: Path,
    documents: Sequence[str],
    seed: int = 0,
    *,
    model: ModelSettings | None = None,
    training: TrainingSettings | None = None,
    console: Console | None = None,
) -> TrainedModel:
    """Train on ``documents`` into ``folder``, unless it holds just that model already.

    Raises:
        CorpusError: a document does not fit in the context, or there are none.
    """
    model, training = model or ModelSettings(), training or TrainingSettings()
    wanted = digest(_recipe(documents, seed, model, training))
    record = _read_record(folder)
    if record.get("digest") == wanted:
        return TrainedModel(folder=folder, trained=False, **record)
    tokenizer = train_tokenizer(documents, model)
    rows = encode(tokenizer, documents, model.context)
    network = new_model(model, seed)
    started = time.monotonic()
    loss = train_shown(network, rows, seed, training, console or Console())
    record = {
        "digest": wanted,
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started, 1),
        "parameters": network.num_parameters(),
        "tokens": sum(map(len, rows)),
    }
    _save(folder, network, tokenizer, record)
    return TrainedModel(folder=folder, trained=True, **record)


def train_tokenizer(documents: Sequence[str], settings: ModelSettings) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text survives a round trip, and nothing is added to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[str], context: int
) -> list[list[int]]:
    """The tokens of each document.

    Raises:
        CorpusError: a document does not fit in the context, or there are none.
    """
    if not documents:
        raise CorpusError("There are no documents to train the demo's model on.")
    rows: list[list[int]] = tokenizer(list(documents), verbose=False)["input_ids"]
    longest = max(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[longest]) > context:
        raise CorpusError(
            f"Document number {longest} has {len(rows[longest])} tokens and the demo's model reads "
            f"{context}. Shorten the document or give the model a longer context."
        )
    return rows


def _recipe(
    documents: Sequence[str], seed: int, model: ModelSettings, training: TrainingSettings
) -> dict[str, Any]:
    return {
        "documents": list(documents),
        "seed": seed,
        "model": asdict(model),
        "training": asdict(training),
        "version": TRAINING_VERSION,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _read_record(folder: Path) -> dict[str, Any]:
    """What the folder says about its model; empty unless the training was finished."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fields = {"digest", "loss", "seconds", "parameters", "tokens"}
    return record if isinstance(record, dict) and set(record) == fields else {}


def _save(
    folder: Path,
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    record: dict[str, Any],
) -> None:
    """An old model's record goes first, and the new one's comes when the model is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    unfinished = folder / f".{RECORD}.{os.getpid()}"
    unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / RECORD)
