"""Tiny models and corpora for tests, ours and our users'."""

from rayinfluence.guest import as_found

with as_found():
    from rayinfluence.testing.models import (
        tiny_convolutions,
        tiny_gpt2,
        tiny_gpt_oss,
        tiny_llama,
        tiny_mixtral,
        tiny_mlp,
        tiny_opt,
        tiny_tokenizer,
    )
    from rayinfluence.testing.runs import tiny_run

__all__ = [
    "tiny_convolutions",
    "tiny_gpt2",
    "tiny_gpt_oss",
    "tiny_llama",
    "tiny_mixtral",
    "tiny_mlp",
    "tiny_opt",
    "tiny_run",
    "tiny_tokenizer",
]
