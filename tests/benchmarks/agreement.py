"""Sentences in which a verb agrees with its subject across other nouns, and tiny models of them.

A grammar of ours: five kinds of sentences, with a subject and mostly an attractor, a noun between
it and the verb that may be of the other number. Pairs of nouns that are asked about are in no
sentence of training.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from rayinfluence.evaluation.training import TrainingSettings, batches, learning_rate_share, train
from rayinfluence.model.load import freeze
from rayinfluence.patterns.asked import Asked

_STEMS = [
    "guard",
    "author",
    "pilot",
    "doctor",
    "farmer",
    "teacher",
    "singer",
    "dancer",
    "driver",
    "baker",
    "lawyer",
    "painter",
    "sailor",
    "hunter",
    "tailor",
    "waiter",
    "clerk",
    "nurse",
    "actor",
    "judge",
]
_NOUNS = [(stem, f"{stem}s") for stem in _STEMS]
_VERBS = [("admires", "admire"), ("likes", "like"), ("sees", "see"), ("hates", "hate")]
_MAIN = [("is", "are"), ("was", "were")]
_PLACES = ("near", "behind", "beside", "above")
_ADJECTIVES = ("old", "young", "tall", "happy", "tired", "quiet")
KINDS = ("next to it", "adjective", "preposition", "object relative", "subject relative")
#: Of pairs of nouns, those that are asked about alone.
_ASKED_OF = 5
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Sentence:
    """A sentence up to its verb, the verb as it agrees and as it does not, and what follows."""

    kind: str
    words: tuple[str, ...]
    right: str
    wrong: str
    rest: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join((*self.words, self.right, *self.rest))


def sentences(kind: str, n: int, seed: int, asked: bool) -> Iterator[Sentence]:
    """Sentences of a kind, with pairs of nouns that are asked about or with the others.

    Numbers of both nouns go round, so that both answers are right as often.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), asked])
    found = 0
    while found < n:
        first, second = rng.choice(len(_NOUNS), 2, replace=False)
        held_out = zlib.crc32(f"{first} {second}".encode()) % _ASKED_OF == 0
        if held_out != asked:
            continue
        a, b = found % 2, found // 2 % 2
        main = _MAIN[rng.integers(len(_MAIN))]
        subject, other = _NOUNS[first][a], _NOUNS[second][b]
        verb = _VERBS[rng.integers(len(_VERBS))]
        adjective, rest = rng.choice(_ADJECTIVES, 2)
        words: dict[str, tuple[str, ...]] = {
            "next to it": ("the", subject),
            "adjective": ("the", str(adjective), subject),
            "preposition": ("the", subject, str(rng.choice(_PLACES)), "the", other),
            "object relative": ("the", subject, "that", "the", other, verb[b]),
            "subject relative": ("the", subject, "that", verb[a], "the", other),
        }
        yield Sentence(kind, words[kind], main[a], main[1 - a], (str(rest), "."))
        found += 1


def tokenizer_of(masked: bool) -> PreTrainedTokenizerFast:
    """A token for every word of the grammar."""
    words = {"the", "that", ".", *_PLACES, *_ADJECTIVES}
    for pair in (*_NOUNS, *_VERBS, *_MAIN):
        words |= {*pair}
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *sorted(words)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not masked:
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def question_of(sentence: Sentence, number: int, masked: bool) -> Asked:
    """What is asked of a model about a sentence."""
    name = f"{sentence.kind} {number}"
    if masked:
        text = " ".join((*sentence.words, "[MASK]", *sentence.rest))
        return Asked(name, text, False, sentence.right, sentence.wrong, name)
    text = " ".join(sentence.words)
    return Asked(name, text, True, f" {sentence.right}", f" {sentence.wrong}", name)


@dataclass(frozen=True)
class Sizes:
    """Of models and of their training."""

    width: int = 64
    layers: int = 4
    heads: int = 4
    per_kind: int = 1500
    epochs: int = 12


def trained(masked: bool, seed: int, sizes: Sizes) -> nn.Module:
    """A model of the grammar, frozen: a GPT-2 by the demo's loop, or a BERT by masked words."""
    tokenizer = tokenizer_of(masked)
    texts = [one.text for kind in KINDS for one in sentences(kind, sizes.per_kind, seed, False)]
    rows: list[list[int]] = tokenizer(texts)["input_ids"]
    torch.manual_seed(seed)
    if masked:
        made = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.width,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        made._attn_implementation = "eager"
        model: nn.Module = BertForMaskedLM(made)
        _train_masked(model, rows, seed, sizes.epochs)
    else:
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=16,
            n_embd=sizes.width,
            n_layer=sizes.layers,
            n_head=sizes.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
        config._attn_implementation = "eager"
        model = GPT2LMHeadModel(config)
        settings = TrainingSettings(epochs=sizes.epochs, learning_rate=1e-3, threads=1)
        train(model, rows, seed, settings)
    return freeze(model)


def _train_masked(model: nn.Module, rows: list[list[int]], seed: int, epochs: int) -> None:
    """A word in seven is masked, one at the least (Devlin et al. 2019, section 3.1)."""
    rng = np.random.default_rng(seed)
    plan = [batch for _ in range(epochs) for batch in batches(rows, 32, rng)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, len(plan), 0.05)
    )
    model.train()
    for batch in plan:
        longest = max(len(rows[index]) for index in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full_like(tokens, -100)
        for row, index in enumerate(batch):
            ids = torch.tensor(rows[index])
            chosen = 1 + rng.permutation(len(ids) - 2)[: max(1, round((len(ids) - 2) / 7))]
            tokens[row, : len(ids)] = ids
            labels[row, chosen] = ids[chosen]
            tokens[row, chosen] = _SPECIAL.index("[MASK]")
        logits = model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.train(False)
