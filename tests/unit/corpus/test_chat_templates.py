from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.chat import conversation, last_content, messages_of, render
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.errors import ChatError
from rayinfluence.testing.models import tiny_tokenizer

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% else %}{{ m.content }}<|end|>"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
#: As Llama 2 has it: the answer follows a space, what is said is stripped, and others are refused.
STRICT = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant!') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
#: Thoughts of earlier turns are left out.
FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

#: As Qwen has it: the first message tells whether something is said before all of them.
LOOKING = "{% if messages[0]['role'] != 'system' %}<|system|>help<|end|>\n{% endif %}" + PLAIN
LOOKING_WITH_THOUGHTS = LOOKING.replace(
    "{{ m.content }}", "{{ '<think>' if m.role == 'assistant' }}{{ m.content }}"
)


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.eos_token = "</s>"
    return tokenizer


def said(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": one} for i, one in enumerate(contents)]


def test_messages_are_rendered_with_and_without_what_begins_an_answer() -> None:
    tokenizer = with_template(PLAIN)
    assert render(tokenizer, said("hi")) == "<|user|>hi<|end|>\n"
    assert render(tokenizer, said("hi"), generation_prompt=True).endswith("\n<|assistant|>")


@pytest.mark.parametrize(
    ("template", "turns"),
    [(PLAIN, ["yes<|end|>\n", "no<|end|>\n"]), (MARKED, ["yes<|end|>", "no<|end|>"])],
)
def test_turns_of_the_assistant_are_found(template: str, turns: list[str]) -> None:
    tokenizer, messages = with_template(template), said("a?", "yes", "b?", "no")
    found = conversation(tokenizer, messages)
    assert found.text == render(tokenizer, messages)
    assert [found.text[start:end] for start, end in found.assistant] == turns


def test_turns_that_are_rendered_otherwise_when_others_follow_are_not_guessed() -> None:
    tokenizer = with_template(FORGETFUL)
    messages = said("a?", "<think>hm</think>yes", "b?", "no")
    found = conversation(tokenizer, messages)
    assert (found.text, found.assistant) == (render(tokenizer, messages), None)
    # Of the last turn alone nothing is left out.
    assert conversation(tokenizer, messages[:2]).assistant


@pytest.mark.parametrize("content", ["yes", "<|end|>", "e", "content", " padded ", "\u2028{{ x }}"])
@pytest.mark.parametrize("template", [PLAIN, MARKED, STRICT])
def test_the_content_of_the_last_message_is_found_wherever_else_it_stands(
    template: str, content: str
) -> None:
    text, start = last_content(with_template(template), said("e yes content <|end|>", content))
    trimmed = content.strip() if template is STRICT else content
    assert text[start:] == trimmed
    before = " " if template is STRICT else "<|assistant|>"
    assert text[:start].endswith(before)


def test_a_content_that_the_template_alters_is_refused() -> None:
    shouting = with_template(PLAIN.replace("m.content }}", "m.content | upper }}"))
    with pytest.raises(ChatError, match=r"otherwise than it is.*`completion`"):
        last_content(shouting, said("hi", "yes"))
    silent = with_template("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(ChatError, match="otherwise than it is"):
        last_content(silent, said("hi", "yes"))


def test_a_conversation_that_does_not_end_with_an_answer_is_refused() -> None:
    with pytest.raises(ChatError, match="the last message is from 'user'"):
        last_content(with_template(PLAIN), said("hi"))


def test_what_a_template_says_of_its_roles_is_said() -> None:
    with pytest.raises(ChatError, match="Roles must alternate user/assistant!"):
        render(with_template(STRICT), [{"role": "system", "content": "be kind"}])
    with pytest.raises(ChatError, match=r"does not take these messages: .*no attribute"):
        render(with_template("{{ messages[0].tool.name }}"), said("hi"))


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(ChatError, match=r"no chat template.*`tokenizer`"):
        render(with_template(None), said("hi"))


def test_the_day_of_a_run_is_not_in_its_texts() -> None:
    asks = with_template("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    assert render(asks, said("hi")) == "26 Jul 2024 hi"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("hi", "must be a list of messages"),
        ([], "must be a list of messages"),
        (["hi"], "message 0 that is no object"),
        ([{"role": "user"}], "message 0 without content"),
        ([{"role": "user", "content": [{"text": "hi"}]}], "whose content is no string"),
        ([{"role": 1, "content": "hi"}], "whose role is no string"),
        ([{"role": "user", "content": "hi", "name": "x"}], "with the key 'name'"),
    ],
)
def test_why_a_value_is_no_list_of_messages(value: object, why: str) -> None:
    assert why in messages_of(value)


def test_messages_are_messages_without_the_keys_that_say_nothing() -> None:
    """As a column of Parquet has all keys in every message."""
    messages = said("hi", "yes")
    empty = {"name": None, "tool_calls": [], "tool_call_id": "", "function": {}}
    assert messages_of([one | empty for one in messages]) == tuple(messages)
    assert "the key 'n'" in messages_of([one | {"n": 0} for one in messages])


def greeted(*after: str) -> list[dict[str, str]]:
    """A conversation that the assistant begins."""
    first = {"role": "assistant", "content": "<|assistant|>ho"}
    return [first, *said(*after)]


@pytest.mark.parametrize("template", [PLAIN, LOOKING, LOOKING_WITH_THOUGHTS])
def test_a_conversation_that_the_assistant_begins_has_its_first_turn(template: str) -> None:
    found = conversation(with_template(template), greeted("a?", "yes"))
    assert found.assistant is not None
    first, last = (found.text[start:end] for start, end in found.assistant)
    assert first.removeprefix("<think>") == "<|assistant|>ho<|end|>\n"
    assert last.removeprefix("<think>") == "yes<|end|>\n"
    assert found.text[: found.assistant[0][0]].endswith("<|assistant|>")
    assert found.text.startswith("<|system|>") == (template is not PLAIN)


def test_a_first_turn_that_nothing_begins_is_not_guessed() -> None:
    silent = with_template(LOOKING.split("{% if add")[0])
    assert conversation(silent, greeted("a?")).assistant is None


@pytest.mark.parametrize("in_a_file", [True, False])
def test_a_template_is_loaded_with_its_tokenizer(in_a_file: bool, tmp_path: Path) -> None:
    with_template(PLAIN).save_pretrained(str(tmp_path), save_jinja_files=in_a_file)
    assert (tmp_path / "chat_template.jinja").is_file() == in_a_file
    assert render(load_tokenizer(str(tmp_path)), said("hi")) == "<|user|>hi<|end|>\n"
