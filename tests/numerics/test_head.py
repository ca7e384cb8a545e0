"""Log-probabilities through the head alone: the same as through logits for every position."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cases import GPT2, LLAMA, MLP, token_sequences
from compare import assert_same
from device import DEVICE
from harness import make_replica, table
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Replica, own_labels, sampled_labels
from rayinfluence.model import losses
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.targets import NextTokens
from rayinfluence.testing import tiny_gpt2, tiny_llama


def batch_of(replica: Replica):
    return next(iter(replica.batches(table(token_sequences()), {})))


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("case", [GPT2, LLAMA], ids=lambda case: case.name)
@pytest.mark.parametrize("sampled", [False, True])
def test_the_head_alone_gives_the_same_values_and_gradients(
    case, sampled: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = make_replica(case, batch_tokens=1000)
    apart, whole = replica.language_model, LanguageModel(replica.model, None, None)
    assert apart.head is not None
    monkeypatch.setattr(losses, "_CHUNK_ROWS", chunk)
    monkeypatch.setitem(losses._CHUNK_NUMBERS, DEVICE.type, 1)
    batch = batch_of(replica)
    targets = NextTokens().targets(batch)
    labels = partial(sampled_labels, 5) if sampled else own_labels
    embedding = replica.model.get_input_embeddings()
    found = []
    for model in (apart, whole):
        leaf: list[Tensor] = []

        def note(_module: nn.Module, _args: object, output: Tensor, leaf=leaf) -> Tensor:
            leaf.append(output.detach().requires_grad_(True))
            return leaf[0]

        handle = embedding.register_forward_hook(note)
        values = model.log_probabilities(batch, targets, labels(batch, targets))
        handle.remove()
        weights = torch.arange(len(values)).to(values)
        found.append((values.detach(), torch.autograd.grad((weights * values).sum(), leaf)[0]))
    assert_same(found[0][0], found[1][0], "log-probabilities")
    assert_same(found[0][1], found[1][1], "gradients")


def test_a_model_whose_logits_are_more_than_a_product_is_kept_whole() -> None:
    model = tiny_llama()
    assert LanguageModel.of(model, []).head is not None
    forward = type(model).forward

    def capped(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output

    type(model).forward, restore = capped, forward
    try:
        assert LanguageModel.of(model, []).head is None
    finally:
        type(model).forward = restore
    # A head that is tracked is not taken apart either, nor is a module that is not transformers'.
    assert LanguageModel.of(model, [model.get_output_embeddings()]).head is None
    assert make_replica(MLP).language_model.head is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            tiny_llama,
            {"up_proj": "gate_proj", "k_proj": "q_proj", "v_proj": "q_proj"},
        ),
        (tiny_gpt2, {}),
    ],
)
def test_modules_that_see_the_same_inputs_are_found(model, expected: dict[str, str]) -> None:
    from rayinfluence.model.modules import shapes_of, track

    built = model()
    for name, shape in shapes_of(built, track(built, ["*"])).items():
        parent, _, last = name.rpartition(".")
        assert shape.source == (f"{parent}.{expected[last]}" if last in expected else name)
