import json
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.corpus.query_files import read_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.errors import QueryError
from rayinfluence.storage.store import Store

ROWS = [
    {"query_id": "a", "prompt": "The capital of France is", "completion": " Paris"},
    {"query_id": "b", "prompt": "", "completion": ' "x",\n y'},
]
EXPECTED = [Query.of(row["query_id"], row["prompt"], row["completion"]) for row in ROWS]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]

TABLE = (
    "query_id{0}prompt{0}completion\n"
    "a{0}The capital of France is{0} Paris\n"
    '\nb{0}{0}" ""x"",\n y"\n'
)
YAML = """
# asked by hand
- query_id: a
  prompt: The capital of France is
  completion: " Paris"
- {query_id: b, prompt: "", completion: " \\"x\\",\\n y"}
"""
FORMS = {
    "jsonl": "\n".join(map(json.dumps, ROWS)),
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=1),
    "under a key": json.dumps({"queries": ROWS}, indent=1),
    "csv": TABLE.format(","),
    "tsv": TABLE.format("\t"),
    "semicolons": TABLE.format(";"),
    "yaml": YAML,
    "yaml under a key": "queries:\n" + YAML,
}


def read(path: Path, body: str) -> list[Query]:
    path.write_text(body, encoding="utf-8")
    return read_queries(Store(str(path)))


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.txt", "queries"])
@pytest.mark.parametrize("form", FORMS)
def test_queries_are_read_by_what_a_file_holds(tmp_path: Path, form: str, name: str) -> None:
    if form == "yaml":  # whose comment says nothing of what it is
        name = "queries.yaml"
    assert read(tmp_path / name, FORMS[form]) == EXPECTED
    assert read(tmp_path / name, "\ufeff" + FORMS[form]) == EXPECTED


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        {"messages": CHAT},
        {"conversations": SHARED},
        SHARED,
        [{"conversations": SHARED}],
        [CHAT],
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
    ],
    ids=range(7),
)
def test_a_chat_asks_about_what_its_assistant_says_last(tmp_path: Path, value: Any) -> None:
    for indent in (None, 1):
        [query] = read(tmp_path / "chat.json", json.dumps(value, indent=indent))
        assert query.answers[0].messages == tuple(CHAT)
        assert query.answers[0].said == "hello"


def test_what_an_export_has_beside_its_chat_is_kept(tmp_path: Path) -> None:
    row = {"id": 7, "system": "Be brief.", "conversations": SHARED, "model": "x"}
    [query] = read(tmp_path / "chat.json", json.dumps(row))
    assert (query.query_id, query.metadata) == ("7", {"model": "x"})
    assert query.answers[0].messages[0] == {"role": "system", "content": "Be brief."}


def test_ids_are_made_of_what_is_asked(tmp_path: Path) -> None:
    plain = {"prompt": "x", "completion": " Paris, on the Seine"}
    chat = {"messages": CHAT}
    several = {"prompt": "x", "completions": [" y", " z"]}
    rows = [plain, chat, several, {**plain, "prompt": "w"}]
    first = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    ids = [query.query_id for query in first]
    assert len(set(ids)) == 5
    assert ids[0].startswith("paris-on-the-")
    again = read(tmp_path / "b.json", json.dumps([{**row, "mine": 1} for row in rows[::-1]]))
    assert {query.query_id for query in again} == set(ids)


def test_columns_that_are_not_ours_are_metadata_and_cells_hold_json(tmp_path: Path) -> None:
    body = 'Prompt,completion,spans,author,rather_than\nx, yy,"[[0, 1]]",Ann,\n'
    [query] = read(tmp_path / "q.csv", body)
    assert query.metadata == {"author": "Ann"}
    assert query.answers[0].spans == ((0, 1),)
    assert query.kind == "completion"


def test_yaml_has_dates_as_text(tmp_path: Path) -> None:
    body = "- {prompt: x, completion: ' y', metadata: {day: 2024-02-01}}"
    [query] = read(tmp_path / "q.yaml", body)
    assert query.metadata == {"day": "2024-02-01"}


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("q.json", '[\n{"prompt": "x", "completion": " y"},\n\n{"prompt": "x"}]', "q.json:4: a qu"),
        ("q.json", '[\n{"prompt": "x"\n', "q.json is not JSON: Expecting"),
        ("q.csv", "prompt,completion\nx,y\nx\n", "row 2 below the header: it has 1 fields"),
        ("q.csv", "prompt,completion\nx,\n", "row 1 below the header: a query needs the keys"),
        ("q.csv", "question,answer\nx,y\n", "names none of the columns prompt, completion and"),
        ("q.csv", 'prompt,completion\nx,"y\n', "a quote that is not closed"),
        ("q.csv", "prompt,completion,spans\nx,y,0-1\n", "row 1 below the header: spans is not JS"),
        ("q.yaml", "\n- {prompt: x, completion: 42}", "q.yaml:2: completion must be a string (in"),
        ("q.yaml", "- prompt: x\n  prompt: y\n  completion: z", "'prompt' stands in line 1"),
        ("q.yaml", "- {prompt: [", "q.yaml cannot be read as YAML"),
        ("q.yaml", "- {prompt: x, completion: y, metadata: {z: .nan}}", "cannot be read as YAML"),
        ("q.txt", "What is the capital?", "is in no form that queries are read in"),
        (
            "q.json",
            json.dumps({"question": "x", "answer": "y"}),
            "has 'question', 'answer': ren",
        ),
        ("q.json", json.dumps({"prompt": "x", "complation": "y"}), "if it is completion, call it"),
        (
            "q.json",
            json.dumps({"conversations": SHARED[:1]}),
            "the last of messages is from 'user'",
        ),
        ("q.json", json.dumps([{"from": "tool", "value": "x"}]), "a message is from 'tool', and"),
        (
            "q.json",
            json.dumps({"prompt": "x", "completion": "y", "mine": 1, "metadata": {"mine": 2}}),
            "'mine' stands beside metadata and in it",
        ),
        ("q.csv", "prompt,completion\nx,y\nx,y\n", "row 2 below the header: it asks what row 1 b"),
    ],
    ids=range(18),
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, name: str, body: str, why: str
) -> None:
    with pytest.raises(QueryError) as caught:
        read(tmp_path / name, body)
    assert why in str(caught.value)
    assert str(caught.value).endswith(".")
