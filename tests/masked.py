"""Masked language models, which every attribution must refuse: each token sees its target."""

from torch import nn
from transformers import BertConfig, BertLMHeadModel, RobertaConfig, RobertaForCausalLM


def tiny_bert() -> nn.Module:
    """BERT's shape with the vocabulary and the context of the other tiny models."""
    config = BertConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        is_decoder=False,
    )
    return BertLMHeadModel(config)


def tiny_roberta() -> nn.Module:
    """The same with RoBERTa's positions, which are two fewer than its configuration says."""
    config = RobertaConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=18,
        pad_token_id=1,
    )
    return RobertaForCausalLM(config)
