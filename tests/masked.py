"""A masked language model, which every attribution must refuse: each token sees its target."""

from torch import nn
from transformers import BertConfig, BertLMHeadModel


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
