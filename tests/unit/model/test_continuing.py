import torch

from rayinfluence.model.continuing import continuation, ends_of
from rayinfluence.testing import tiny_gpt2

GIVEN = [3, 14, 15]


def by_hand(model: torch.nn.Module, n_new: int) -> list[int]:
    text = list(GIVEN)
    with torch.no_grad():
        for _ in range(n_new):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(GIVEN) :]


def test_the_likeliest_tokens_are_those_of_a_loop() -> None:
    model = tiny_gpt2(0)
    expected = by_hand(model, 5)
    assert continuation(model, GIVEN, 5, set()) == expected
    assert continuation(model, GIVEN, 5, {expected[2]}) == expected[: expected.index(expected[2])]


def test_what_is_drawn_is_the_model_s_distribution_by_its_seed() -> None:
    model = tiny_gpt2(0)
    with torch.no_grad():
        p_V = model(torch.tensor([GIVEN])).logits[0, -1].double().softmax(-1)
    n = 300
    said = [continuation(model, GIVEN, 1, set(), seed)[0] for seed in range(n)]
    assert said[:5] == [continuation(model, GIVEN, 1, set(), seed)[0] for seed in range(5)]
    found_V = torch.bincount(torch.tensor(said), minlength=len(p_V)) / n
    # Five standard errors of each share.
    assert ((found_V - p_V).abs() <= 5 * (p_V * (1 - p_V) / n).sqrt() + 1 / n).all()


def test_a_model_ends_where_its_folder_or_its_tokenizer_says() -> None:
    model = tiny_gpt2(0)
    model.generation_config.eos_token_id = [1, 2]
    model.config.eos_token_id = None
    assert ends_of(model, 7) == {1, 2, 7}
    assert ends_of(torch.nn.Linear(1, 1), None) == set()
