"""Templates of documents: a row's columns as a text, what counted of it, and what is refused."""

import datetime
from typing import Any

import pytest

from rayinfluence.corpus.templates import TemplateFailed, template_of

ALPACA = "{{ instruction }}\n\n{% generation %}{{ output }}{% endgeneration %}"
CHAT = """{% for one in messages %}
<{{ one.role }}>{% if one.role == 'bot' %}
{% generation %}
{{ one.content }}|{% endgeneration %}
{% else %}
{{ one.content }}|{% endif %}
{% endfor %}
"""


def test_columns_become_a_text_as_it_is_written() -> None:
    template = template_of("{{ instruction }}\n\n{{ output }}\n")
    assert template.variables == {"instruction", "output"}
    assert template.render({"instruction": "Say <hi>", "output": "hi & so"}) == (
        "Say <hi>\n\nhi & so\n",
        None,
    )


def test_what_is_marked_counts() -> None:
    text, counted = template_of(ALPACA).render({"instruction": "Ask", "output": "said"})
    assert text == "Ask\n\nsaid"
    assert counted is not None
    assert [text[start:end] for start, end in counted] == ["said"]


def test_turns_are_marked_each_by_itself() -> None:
    said = [("you", "a"), ("bot", "bé"), ("you", "c"), ("bot", "dd")]
    messages = [{"role": role, "content": content} for role, content in said]
    text, counted = template_of(CHAT).render({"messages": messages})
    assert text == "<you>a|<bot>bé|<you>c|<bot>dd|"
    assert counted is not None
    assert [text[start:end] for start, end in counted] == ["bé|", "dd|"]


def test_marks_in_macros_and_filters_stay_in_their_places() -> None:
    source = (
        "{% macro turn(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}"
        "{{ turn(a) }}-{% filter upper %}{{ turn(b) }}{% endfilter %}"
    )
    text, counted = template_of(source).render({"a": "one", "b": "two"})
    assert text == "one-TWO"
    assert counted == ((0, 3), (4, 7))


@pytest.mark.parametrize(
    "source",
    [
        "{% set x %}{% generation %}{{ a }}{% endgeneration %}{% endset %}{{ x | trim }}",
        "{% set x %}{% generation %}{{ a }}{% endgeneration %}{% endset %}{{ x }}{{ x | length }}",
        "{% set x %}{% generation %}{{ a }}{% endgeneration %}{% endset %}"
        "{% if x == a %}x{% endif %}{{ x }}",
    ],
)
def test_what_would_be_made_of_marks_is_refused(source: str) -> None:
    row = {"a": " one "}
    with pytest.raises(TemplateFailed, match="and the marks are in it"):
        template_of(source).render(row)
    within = "{% generation %}{{ a | trim }}{% endgeneration %}{{ a | length }}"
    assert template_of(within).render(row) == ("one5", ((0, 3),))


def test_json_is_written_as_chat_templates_write_it() -> None:
    value = {"b": "<\u00e9'", "a": [1, None, True]}
    written = '{"b": "<\u00e9\'", "a": [1, null, true]}'
    assert template_of("{{ a | tojson }}").render({"a": value})[0] == written
    assert template_of("{{ a | tojson(indent=1) }}").render({"a": [1]})[0] == "[\n 1\n]"
    with pytest.raises(TemplateFailed, match="not JSON serializable"):
        template_of("{{ a | tojson }}").render({"a": datetime.date(2024, 5, 1)})


def test_a_template_that_marks_says_so_where_nothing_is_marked() -> None:
    source = "{{ a }}{% if b %}{% generation %}{{ b }}{% endgeneration %}{% endif %}"
    assert template_of(source).render({"a": "x", "b": ""}) == ("x", ())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
    ],
)
def test_what_is_no_string_is_written_as_json_has_it(value: Any, text: str) -> None:
    assert template_of("[{{ a }}]").render({"a": value})[0] == f"[{text}]"


@pytest.mark.parametrize(
    ("source", "lacking", "said"),
    [
        ("{{ output }}", "output", "'output' is undefined"),
        ("{% if input %}{{ input }}{% endif %}{{ a }}", "input", "'input' is undefined"),
        ("{{ a.b.c }}", None, "no attribute 'c'"),
        ("{{ items }}", None, "gives a list, which is no text"),
        ("{{ a }}", None, "gives an object, which is no text"),
        ("{{ a.__class__ }}", None, "unsafe"),
        ("{{ items.append(1) }}", None, "unsafe|not safely callable"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}{{ a.b }}", None, "Range too big"),
    ],
)
def test_why_a_row_gives_no_text_is_said(source: str, lacking: str | None, said: str) -> None:
    with pytest.raises(TemplateFailed, match=said) as caught:
        template_of(source).render({"a": {"b": {}}, "items": [1]})
    assert caught.value.lacking == lacking


def test_columns_that_some_rows_lack_can_be_asked_for() -> None:
    template = template_of("{{ a }}{% if input is defined %} {{ input }}{% endif %}")
    assert template.render({"a": "x"})[0] == "x"
    assert template.render({"a": "x", "input": "y"})[0] == "x y"
    assert template_of("{{ row['my text'] }}").render({"my text": "x"})[0] == "x"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ a", "line 1 is no Jinja"),
        ("x\n{% generation %}{{ a }}", "no Jinja"),
        ("{% nothing %}", "unknown tag 'nothing'"),
        ("{{ a | nofilter }}", "no Jinja"),
        ("the same for all", "asks for no column"),
    ],
)
def test_what_is_no_template_is_refused(source: str, said: str) -> None:
    with pytest.raises(TemplateFailed, match=said):
        template_of(source)


def test_nothing_random_is_there() -> None:
    with pytest.raises(TemplateFailed, match="No filter named 'random'"):
        template_of("{{ a | random }}")
    with pytest.raises(TemplateFailed, match="'lipsum' is undefined"):
        template_of("{{ lipsum() }}{{ a }}").render({"a": "x"})


def test_a_row_with_the_marks_in_it_is_refused() -> None:
    with pytest.raises(TemplateFailed, match=r"U\+FDD0"):
        template_of(ALPACA).render({"instruction": "a", "output": "b\ufdd0c"})
    plain = template_of("{{ output }}").render({"output": "b\ufdd0c"})
    assert plain == ("b\ufdd0c", None)
