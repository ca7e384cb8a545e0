"""Stacked experts become layers, in the memory where they are, and say what they said."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from rayinfluence.errors import ModelError, NumericsError
from rayinfluence.model.capture import backward
from rayinfluence.model.company import Alone, Gathering, Moved, comparing
from rayinfluence.model.experts import take_apart
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.load import assemble, disassemble, freeze, load_model
from rayinfluence.model.modules import Coverage, shapes_of, track, trackable
from rayinfluence.model.preflight import made_up, preflight
from rayinfluence.model.reach import reach, refuse_other_weights
from rayinfluence.model.routed import RoutedLinear
from rayinfluence.model.rows import Rows
from rayinfluence.testing import tiny_gpt_oss, tiny_mixtral

CPU = torch.device("cpu")
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
GATE, DOWN = "model.layers.0.mlp.experts.2.gate_up_proj", "model.layers.0.mlp.experts.2.down_proj"


def stacked(hidden: int = 16, inner: int = 8, n_experts: int = 4) -> nn.Module:
    """Mixtral as transformers has it."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=48,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=n_experts,
        max_position_embeddings=16,
        experts_implementation="eager",
    )
    return freeze(MixtralForCausalLM(config))


@pytest.mark.parametrize("make", [tiny_mixtral, tiny_gpt_oss])
def test_each_weight_of_each_expert_has_a_name_and_widths(make: Any) -> None:
    model = make()
    shapes = shapes_of(model, track(model, ["*.experts.*"]))
    assert len(shapes) == 2 * 4 * 2
    assert (shapes[GATE].d_in, shapes[GATE].d_out) == (12, 20)
    assert (shapes[DOWN].d_in, shapes[DOWN].d_out) == (10, 12)
    assert all(shape.routed and shape.source == name for name, shape in shapes.items())
    assert all(shape.bias == (make is tiny_gpt_oss) for shape in shapes.values())


def test_weights_stay_where_they_are_and_nothing_holds_the_stack() -> None:
    model = stacked()
    stack = model.get_submodule("model.layers.0.mlp.experts").gate_up_proj
    take_apart(model)
    layer = model.get_submodule(GATE)
    assert layer.weight.data_ptr() == stack[2].data_ptr()
    assert not any(weight.ndim == 3 for weight in model.parameters())
    numbers = sum(weight.numel() for weight in model.parameters())
    assert numbers == sum(weight.numel() for weight in stacked().parameters())


def test_weights_that_vector_units_cannot_read_are_all_copied() -> None:
    model = stacked(hidden=6, inner=5)
    stack = model.get_submodule("model.layers.0.mlp.experts").down_proj
    expected = stack.clone()
    take_apart(model)
    for number in range(4):
        weight = model.get_submodule(f"model.layers.0.mlp.experts.{number}.down_proj").weight
        assert torch.equal(weight, expected[number])
        assert not stack.data_ptr() <= weight.data_ptr() < stack.data_ptr() + stack.nbytes


def test_a_worker_gets_the_same_model() -> None:
    model = tiny_gpt_oss()
    skeleton, weights = pickle.loads(pickle.dumps(disassemble(model)))
    assert all(weight.is_meta for weight in skeleton.parameters())
    again = assemble(skeleton, weights)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    assert all(again.get_parameter(n).data_ptr() == w.data_ptr() for n, w in weights.items())


class Clamping(MixtralExperts):
    """Experts whose own code does more than they say of themselves."""

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        mixed: Tensor = super().forward(hidden, chosen, weights)
        return mixed.clamp(-1e-4, 1e-4)


def test_experts_whose_own_code_says_something_else_stay_as_they_are() -> None:
    model = stacked()
    experts = model.get_submodule("model.layers.0.mlp.experts")
    experts.__class__ = Clamping
    expected = model(TOKENS).logits
    take_apart(model)
    assert torch.equal(model(TOKENS).logits, expected)
    assert experts.gate_up_proj.ndim == 3
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.experts are fused .*\(Clamping\)"):
        track(model, ["model.layers.0.mlp.experts.*"])
    assert track(model, ["model.layers.1.mlp.experts.*"])


def test_rows_are_of_the_tokens_that_chose_an_expert() -> None:
    model = tiny_mixtral()
    experts = model.get_submodule("model.layers.0.mlp.experts")
    chosen: list[Tensor] = []
    experts.register_forward_pre_hook(lambda _, given: chosen.append(given[1]))
    found: list[Rows] = []
    backward(
        {GATE: model.get_submodule(GATE)},
        (2, 5),
        lambda: model(TOKENS).logits.log_softmax(-1)[..., 0].sum(),
        lambda _, rows: found.append(rows),
    )
    tokens_BT = (chosen[0] == 2).any(dim=1).view(2, 5)
    assert 0 < int(tokens_BT.sum()) < 10
    for sequence, there_R in enumerate(found[0].tokens_BR):
        wanted = tokens_BT[sequence].nonzero()[:, 0].tolist()
        assert there_R[there_R >= 0].tolist() == wanted


def test_where_no_token_chose_any_tracked_expert_nothing_is_seen() -> None:
    model = tiny_gpt_oss()
    model.get_submodule("model.layers.0.mlp.router").bias.data[2] = -1e6
    seen: list[str] = []
    modules = {name: model.get_submodule(name) for name in (GATE, DOWN)}
    value = lambda: model(TOKENS).logits.sum()  # noqa: E731
    backward(modules, (2, 5), value, lambda name, _: seen.append(name))
    assert not seen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny_mixtral, tiny_gpt_oss])
def test_a_mixture_passes_the_checks(make: Any, dtype: torch.dtype) -> None:
    model = make(dtype=dtype)
    tracked = track(model, ["*.experts.*", "*_proj"])
    found = reach(model, trackable(model) | tracked, made_up(range(40), CPU))
    assert not found.outside
    refuse_other_weights(tracked)
    preflight(LanguageModel.of(model, tracked.values()), tracked, range(40), 16)
    assert Coverage.of(model, tracked, found).share > 0.4


@pytest.mark.parametrize(
    ("dtype", "differs"), [(torch.float32, True), (torch.float64, True), (torch.bfloat16, False)]
)
def test_a_token_that_goes_to_another_expert_is_forgiven_to_rounding_alone(
    dtype: torch.dtype, differs: bool
) -> None:
    """Beside others the expert has token 2 for token 0; its row of token 1 is the same."""
    pool = [np.arange(4)]
    values = torch.arange(1, 13, dtype=dtype).view(4, 3)
    alone = values.clone()
    alone[2:] = 0
    known = Alone({GATE: [alone[None]]}, {GATE: [alone[None]]})
    group, moved = Gathering(pool, 2), Moved()
    places = torch.tensor([1, 2, 5, 6])
    rows = Rows.scattered(values[[1, 2, 1, 2]], values[[1, 2, 1, 2]], places, (2, 4))
    comparing(known, group, group.batch(CPU), moved)(GATE, rows)
    ((name, error),) = moved.errors({GATE: "experts.*"}).items()
    assert name == "experts.*"
    assert (error > 0.1) == differs
    assert (error == 0) != differs


def test_an_expert_that_is_called_and_leads_nowhere_is_refused() -> None:
    model = tiny_mixtral(dtype=torch.float32)
    model.get_submodule(DOWN).weight.data.zero_()
    tracked = track(model, ["*.experts.*"])
    with pytest.raises(ModelError, match=rf"exactly zero: {GATE}, as .*experts\.2\.down_proj"):
        preflight(LanguageModel.of(model, tracked.values()), tracked, range(40), 16)


def test_a_dead_block_of_a_mixture_is_not_taken_for_experts_that_wait() -> None:
    model = tiny_mixtral(dtype=torch.float32)
    block = model.get_submodule("model.layers.1.mlp")
    block.register_forward_hook(lambda *seen: seen[-1].detach())
    tracked = track(model, ["*.experts.*"])
    with pytest.raises(ModelError, match=r"no gradient comes back to them: model\.layers\.1\."):
        preflight(LanguageModel.of(model, tracked.values()), tracked, range(40), 16)


def test_nan_in_an_expert_that_no_token_chooses_is_refused(tmp_path: Path) -> None:
    model = stacked()
    model.get_submodule("model.layers.1.mlp.experts").down_proj.data[3, 0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    name = r"model\.layers\.1\.mlp\.experts\.3\.down_proj\.weight"
    with pytest.raises(NumericsError, match=f"weight {name} holds NaN"):
        load_model(str(tmp_path), torch.float32)


def test_a_folder_is_loaded_with_its_experts_apart(tmp_path: Path) -> None:
    stacked().save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    plain.set_experts_implementation("eager")
    ours = load_model(str(tmp_path), torch.float64)
    assert isinstance(ours.get_submodule(GATE), RoutedLinear)
    assert torch.equal(ours(TOKENS).logits, plain(TOKENS).logits)
