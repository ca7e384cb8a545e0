"""Every wrong value of every key is refused in a plain sentence."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError

WRONG: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "x" * 5000,
    [],
    [1],
    [None],
    ["a", "a"],
    ["x" * 5000],
    {},
    {"a": 1},
    {1: 2},
    {"x" * 5000: 1},
    {"a": {"b": {"c": ["d"] * 99}}},
    10**400,
    b"bytes",
    object(),
]
JARGON = (
    "constrained",
    "literal",
    "Literal",
    "_error",
    "Value error",
    "Input should",
    "instance of",
    "Config",
    "Config(",
    "<class",
    "object at",
    "pydantic",
    "union",
    "Optional",
    "List",
    "dict",
)


def places(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*path, name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from places(inner, (*path, name))


def refusals(path: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    for wrong in WRONG:
        values: dict[str, Any] = {"run": "a", "model": "b"}
        section = values
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = wrong
        try:
            RunConfig.parse(values, "here.yaml")
        except ConfigError as error:
            yield wrong, str(error)


@pytest.mark.parametrize("path", list(places(RunConfig)), ids=".".join)
def test_a_wrong_value_is_refused_in_a_plain_sentence(path: tuple[str, ...]) -> None:
    said = list(refusals(path))
    assert said
    for wrong, message in said:
        assert message.startswith("here.yaml: ")
        assert ".".join(path) in message, (wrong, message)
        assert len(message) <= 300, (wrong, message)
        assert "\n" not in message
        assert not [word for word in JARGON if word in message], (wrong, message)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"scan": {"rank": "full"}},
            "scan.rank: must be a whole number or must be 'dense', not 'full'",
        ),
        ({"scan": {"rank": 0}}, "scan.rank: must be at least 1 or must be 'dense', not 0"),
        ({"fit": {"lanes": 0}}, "fit.lanes: must be at least 1, not 0"),
        ({"fit": {"lanes": 2.5}}, "fit.lanes: must be a whole number, not 2.5"),
        ({"fit": {"error_bound": 0}}, "fit.error_bound: must be more than 0, not 0"),
        ({"device": "tpu"}, "device: must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        (
            {"modules": "*.mlp.*"},
            "modules: must be 'mlp', 'attention' or 'all' or must be a list, not '*.mlp.*'",
        ),
        ({"run": None}, "run: must be text, not null"),
        ({"run": ""}, "run: must not be empty, not ''"),
        ({"trust_remote_code": 3}, "trust_remote_code: must be true or false, not 3"),
        ({"scan": {"methods": []}}, "scan.methods: must hold at least 1, not []"),
        ({"corpus": "a.jsonl"}, "corpus: must hold keys of its own, not 'a.jsonl'"),
        (
            {"corpus": {"documents": ["a.jsonl"]}, "scan": {"group_by": ["id"]}},
            "scan.group_by: 'id' is the column of the documents' id (corpus.id_column), "
            "which each has for itself and which is no metadata; name a key that documents share.",
        ),
        (
            {
                "corpus": {"documents": ["a.jsonl"], "text_column": "body"},
                "scan": {"group_by": ["body"]},
            },
            "scan.group_by: 'body' is the column of the documents' text "
            "(corpus.text_column), which each has for itself and which is no metadata; name a key "
            "that documents share.",
        ),
        (
            {
                "corpus": {"documents": ["a.jsonl"], "prompt_column": "p"},
                "scan": {"group_by": ["p"]},
            },
            "scan.group_by: 'p' is the column of the documents' prompt "
            "(corpus.prompt_column), which each has for itself and which is no metadata; name a "
            "key that documents share.",
        ),
        (
            {
                "corpus": {"documents": ["a.jsonl"]},
                "objective": {"loss": "spans"},
                "scan": {"group_by": ["spans"]},
            },
            "scan.group_by: 'spans' is the column of the documents' characters that "
            "counted (objective.loss), which each has for itself and which is no metadata; name a "
            "key that documents share.",
        ),
        (
            {"objective": {"mask_rate": 1.5}},
            "objective.mask_rate: must be at most 1, not 1.5",
        ),
        (
            {"query_function": "myfun"},
            "query_function: must be module:function, as in `my_functions:margin` for `def "
            "margin` in my_functions.py, not 'myfun'",
        ),
        ({"seed": 2**63}, "seed: must be less than 9223372036854775808, not 9223372036854775808"),
    ],
)
def test_what_is_said(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({"run": "a", "model": "b", **values}, "here.yaml")
    assert str(caught.value) == f"here.yaml: {expected}"


def test_of_many_mistakes_the_first_are_said_and_the_rest_counted() -> None:
    wrong = {"seed": -1, "device": "x", "dtype": "x", "attention": "x", "batch_tokens": 0}
    with pytest.raises(ConfigError, match=r"queries: .*; and 3 more$"):
        RunConfig.parse({"run": "a", "model": "b", **wrong, "queries": 3, "modules": 3})
