"""Tiny models of other objectives than the next token, and a tokenizer with ends and a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from rayinfluence.testing.models import VOCABULARY

#: Its last ids, after words.
SPECIAL = {"[PAD]": 43, "[CLS]": 44, "[SEP]": 45, "[MASK]": 46, "[UNK]": 47}
CLS, SEP, MASK = SPECIAL["[CLS]"], SPECIAL["[SEP]"], SPECIAL["[MASK]"]
N_WORDS = SPECIAL["[PAD]"]
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 14,
    "pad_token_id": 0,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words, between a token that begins a text and one that ends it."""
    words = {f"w{index}": index for index in range(N_WORDS)} | SPECIAL
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
    )


def _made(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Random weights, biases too, of a size at which attention and activations are not linear."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = 0.4 * torch.randn(weight.shape, generator=generator)
        else:
            weight.data = weight.data + 0.1 * torch.randn(weight.shape, generator=generator)
    model.tie_weights()  # type: ignore[operator]
    return model.to(dtype).eval()


def bert(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """BERT with its head for masks."""
    config = BertConfig(**_SIZES, max_position_embeddings=16)
    config._attn_implementation = attention
    return _made(BertForMaskedLM(config), dtype)


def roberta(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """RoBERTa, whose positions begin after the padding's."""
    config = RobertaConfig(**_SIZES | {"pad_token_id": 1}, max_position_embeddings=18)
    config._attn_implementation = attention
    return _made(RobertaForMaskedLM(config), dtype)


#: Of texts.
CLASSES = ("dull", "fine", "fair")
_CLASSES: dict[str, Any] = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: index for index, name in enumerate(CLASSES)},
    "pad_token_id": SPECIAL["[PAD]"],
}


def bert_classifier(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """BERT with a head on its first token."""
    config = BertConfig(**_SIZES | _CLASSES, max_position_embeddings=16)
    config._attn_implementation = attention
    return _made(BertForSequenceClassification(config), dtype)


def gpt2_classifier(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """GPT-2 with a head on the last token that is no padding."""
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=12, n_layer=2, n_head=2, **_CLASSES
    )
    config._attn_implementation = attention
    return _made(GPT2ForSequenceClassification(config), dtype)


def llama_classifier(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """Llama with such a head."""
    config = LlamaConfig(**_SIZES | _CLASSES, num_key_value_heads=1, max_position_embeddings=16)
    config._attn_implementation = attention
    return _made(LlamaForSequenceClassification(config), dtype)


CLASSIFIERS: Mapping[str, Callable[..., nn.Module]] = {
    "bert": bert_classifier,
    "gpt2": gpt2_classifier,
    "llama": llama_classifier,
}


def t5(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """T5: positions by distance, layers without biases, a decoder that begins with padding."""
    config = T5Config(
        vocab_size=VOCABULARY, d_model=12, d_kv=4, d_ff=14, num_layers=2, num_decoder_layers=2,
        num_heads=2, pad_token_id=0, eos_token_id=SEP, decoder_start_token_id=0,
    )  # fmt: skip
    config._attn_implementation = attention
    return _made(T5ForConditionalGeneration(config), dtype)


def bart(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """BART: learned positions, biases, and a head that stands apart."""
    config = BartConfig(
        vocab_size=VOCABULARY, max_position_embeddings=20, d_model=12, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=14,
        decoder_ffn_dim=16, pad_token_id=1, bos_token_id=CLS, eos_token_id=SEP,
        decoder_start_token_id=SEP, forced_eos_token_id=SEP,
    )  # fmt: skip
    config._attn_implementation = attention
    return _made(BartForConditionalGeneration(config), dtype)


PAIRED: Mapping[str, Callable[..., nn.Module]] = {"t5": t5, "bart": bart}


def electra(dtype: torch.dtype = torch.float64, attention: str = "eager") -> nn.Module:
    """ELECTRA's generator."""
    config = ElectraConfig(**_SIZES, embedding_size=10, max_position_embeddings=16)
    config._attn_implementation = attention
    return _made(ElectraForMaskedLM(config), dtype)


MASKED: Mapping[str, Callable[..., nn.Module]] = {
    "bert": bert,
    "roberta": roberta,
    "electra": electra,
}
