"""Documents as people have them, from the configuration to shards and to the terminal."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.begin.early import Inputs, corpus_store
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError, CorpusError, RayInfluenceError
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import tiny_tokenizer

Rows = list[dict[str, Any]]


def written(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines), "utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def configured(folder: Path, corpus: Mapping[str, Any], **others: Any) -> RunConfig:
    return tiny_run(folder, corpus={"documents": [str(folder / "data")], **corpus}, **others)


def tokenized(config: RunConfig) -> Rows:
    """The rows of the corpus, with their text and metadata in the clear."""
    with Run(config) as run:
        run.tokenize()
    corpus = Corpus.open(corpus_store(config))
    made = tiny_tokenizer()
    rows: Rows = []
    for split in corpus.plan(10**6):
        rows += corpus.read(split).to_pylist()
    for row in rows:
        row["text"] = made.decode(row["tokens"]).strip()
        row["metadata"] = json.loads(row["metadata"])
    return rows


PAIRS: Rows = [
    {"instruction": f"w{n} w{n + 1}", "output": f"w{n + 2} w{n + 3}", "kind": "ask"}
    for n in range(10)
]


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet", "d.csv"])
def test_a_template_makes_texts_of_columns(tmp_path: Path, name: str) -> None:
    written(tmp_path / "data" / name, PAIRS)
    template = "{{ instruction }} {% generation %}{{ output }}{% endgeneration %}"
    config = configured(tmp_path, {"template": template}, objective={"loss": "completion"})
    rows = tokenized(config)
    assert [row["text"] for row in rows[:2]] == ["w0 w1 w2 w3", "w1 w2 w3 w4"]
    assert {tuple(row["loss_mask"]) for row in rows} == {(False, False, True, True)}
    # What the text is made of is not kept beside it.
    assert [row["metadata"] for row in rows] == [{"kind": "ask"}] * 10
    assert rows[3]["document_id"] == f"{name}:4"


def test_a_column_that_a_template_asks_for_is_missed_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    for name in ("d.jsonl", "d.parquet", "d.csv"):
        path = written(tmp_path / name / "data" / name, PAIRS)
        config = configured(tmp_path / name, {"template": "{{ instruction }}{{ answer }}"})
        with pytest.raises(CorpusError, match=r"has no 'answer' in any row; there are") as caught:
            Inputs.of(config)
        assert "corpus.template" in str(caught.value)
        assert str(path) in str(caught.value)


def test_one_row_of_which_a_template_makes_nothing_is_counted_with_its_place(
    tmp_path: Path,
) -> None:
    rows = [{"a": f"w{n % 40} w1"} for n in range(200)]
    del rows[7]["a"]
    rows[7]["b"] = "w1"
    path = written(tmp_path / "data/d.jsonl", rows)
    config = configured(tmp_path, {"template": "{{ a }}"})
    assert len(tokenized(config)) == 199
    [report] = Corpus.open(corpus_store(config)).manifest.files
    assert report["n_bad"] == 1
    assert report["bad"][0] == {
        "place": f"{path}:8",
        "reason": "corpus.template makes no text of it: 'a' is undefined",
    }


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ({"template": "{{ a"}, "corpus.template: line 1 is no Jinja"),
        ({"template": "{{ a }}", "text_column": "b"}, "makes the text, and so does text_column"),
        ({"template": "{{ a }}", "prompt_column": "b"}, "prompt_column stands before one"),
        ({"text_column": ["a", "a"]}, "names a column twice"),
        ({"text_column": []}, "must be the name of a column, a list of names"),
        ({"text_column": {"*.csv": "text"}}, "1 of 1 files under corpus.documents do not end as"),
        ({"text_column": {"[z-a]": "text"}}, "is no glob"),
        ({"path_columns": "*.jsonl"}, "names no column"),
        ({"path_columns": "{a}/[z-a].jsonl"}, "is no glob: bad character range"),
        ({"path_columns": "{a}_{b}/*.jsonl"}, "1 of 1 files under corpus.documents do not end as"),
        ({"context": 8, "overlap": 7}, "set it to at most 6"),
        ({"bos": "always"}, "must be 'auto', 'never', 'document' or 'chunk'"),
        ({"metadata": ["text"]}, "corpus.metadata: 'text' is the column of the documents' text"),
        ({"metadata": ["a", "a"]}, "'a' is named twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_early(
    tmp_path: Path, corpus: dict[str, Any], said: str
) -> None:
    written(tmp_path / "data/d.jsonl", [{"text": "w1 w2", "a": "w1"}] * 20)
    with pytest.raises(RayInfluenceError) as caught:
        Inputs.of(configured(tmp_path, corpus))
    assert said in str(caught.value)


def test_a_completion_that_no_template_marks_is_missed(tmp_path: Path) -> None:
    written(tmp_path / "data/d.jsonl", PAIRS)
    config = configured(tmp_path, {"template": "{{ output }}"}, objective={"loss": "completion"})
    with pytest.raises(ConfigError, match=r"\{% generation %\}"):
        Inputs.of(config)


def test_texts_have_other_names_in_other_files(tmp_path: Path) -> None:
    written(tmp_path / "data/a.jsonl", [{"text": "w1 w2", "content": "w9 w9"}] * 3)
    written(tmp_path / "data/b.jsonl", [{"content": "w3 w4"}, {"content": "w3 w4", "text": None}])
    written(tmp_path / "data/c.parquet", [{"body": "w5 w6"}])
    rows = tokenized(configured(tmp_path, {"text_column": ["text", "content", "body"]}))
    assert [row["text"] for row in rows] == ["w1 w2"] * 3 + ["w3 w4"] * 2 + ["w5 w6"]
    by_file = {"data/b.jsonl": "content", "*.jsonl": ["text", "content"], "*.parquet": "body"}
    other = configured(tmp_path, {"text_column": by_file, "path": str(tmp_path / "other")})
    assert [row["tokens"] for row in tokenized(other)] == [row["tokens"] for row in rows]


def test_a_file_with_none_of_the_names_is_refused_with_its_columns(tmp_path: Path) -> None:
    written(tmp_path / "data/a.jsonl", [{"words": "w1 w2"}] * 3)
    with pytest.raises(CorpusError, match=r"has no 'text' in any row; there are words"):
        Inputs.of(configured(tmp_path, {"text_column": ["text", "content"]}))


NESTED: Rows = [
    {
        "text": f"w{n} w{n + 1} w3",
        "meta": {"pile_set_name": ["Github", "ArXiv"][n % 2], "stars": n, "deep": {"x": "y"}},
        "source": "web",
        "score": 0.5,
        "embedding": [0.25] * 64,
        "html": "<p>" + "x" * 2000,
        "image": b"\x89PNG\x00\x01",
    }
    for n in range(6)
]


def test_what_is_chosen_is_kept_typed_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path / "data/d.parquet", NESTED)
    wanted = ["score", "meta.stars", "meta.deep.x"]
    config = configured(
        tmp_path, {"metadata": wanted}, scan={"group_by": ["meta.pile_set_name"], "top": 3}
    )
    assert tokenized(config)[1]["metadata"] == {
        "score": 0.5,
        "meta.stars": 1,
        "meta.deep.x": "y",
        "meta.pile_set_name": "ArXiv",
    }
    with Run(config) as run:
        results = run.all()["ekfac"]
    groups = {row["value"]: row["n_sequences"] for row in results.groups.to_pylist()}
    assert groups == {"Github": 3, "ArXiv": 3}
    assert results.table["metadata.meta.stars"].type == pa.int64()
    assert "metadata.html" not in results.table.column_names


def test_without_a_choice_what_is_large_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "data/d.parquet", NESTED)
    config = configured(tmp_path, {}, scan={"group_by": ["meta.pile_set_name"], "top": 3})
    rows = tokenized(config)
    assert set(rows[0]["metadata"]) == {"meta", "source", "score"}
    assert "metadata     not kept, as it is not small: 'embedding' of 6, 'html' of 6" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    with Run(config) as run:
        results = run.all()["ekfac"]
    assert results.manifest["corpus"]["metadata_not_kept"] == dict.fromkeys(
        ("embedding", "html", "image"), 6
    )
    # A key in an object is found without a choice, too.
    groups = {row["value"]: row["n_sequences"] for row in results.groups.to_pylist()}
    assert groups == {"Github": 3, "ArXiv": 3}


@pytest.mark.parametrize(
    ("corpus", "scan", "said"),
    [
        ({"metadata": ["meta.pile_set"]}, {}, r"corpus\.metadata: none of .* 'meta\.pile_set'"),
        ({}, {"group_by": ["meta.name"]}, r"scan\.group_by: none of .* 'meta\.name'"),
        ({}, {"group_by": ["html"]}, r"scan\.group_by: 'html' is not kept .* corpus\.metadata"),
    ],
)
def test_a_key_that_no_document_has_is_refused(
    tmp_path: Path, corpus: dict[str, Any], scan: dict[str, Any], said: str
) -> None:
    written(tmp_path / "data/d.parquet", NESTED)
    with pytest.raises(ConfigError, match=said):
        tokenized(configured(tmp_path, corpus, scan=scan))


def test_partitions_are_columns_and_keep_documents_apart(tmp_path: Path) -> None:
    for lang in ("de", "en"):
        rows = [{"text": f"w{n} w2"} for n in range(3)]
        written(tmp_path / f"data/lang={lang}/year=2024/part-0.parquet", rows)
    rows = tokenized(configured(tmp_path, {}, scan={"group_by": ["lang"]}))
    assert [row["metadata"] for row in rows] == [{"lang": "de", "year": 2024}] * 3 + [
        {"lang": "en", "year": 2024}
    ] * 3
    ids = [row["document_id"] for row in rows]
    assert len(set(ids)) == 6
    assert ids[3] == "lang=en/year=2024/part-0.parquet:1"


def test_a_pattern_of_paths_gives_columns_to_templates_too(tmp_path: Path) -> None:
    written(tmp_path / "data/jane-austen_emma_notes/1.jsonl", [{"text": "w1 w2"}] * 2)
    corpus = {
        "path_columns": "{author}_{title}/*.jsonl",
        "template": "{{ title == 'emma_notes' and 'w7' }} {{ text }}",
        "metadata": ["author"],
    }
    [first, _] = tokenized(configured(tmp_path, corpus))
    assert first["text"] == "w7 w1 w2"
    assert first["metadata"] == {"author": "jane-austen"}


def test_what_stands_at_the_ends_is_printed_and_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "data/d.jsonl", [{"text": f"w{n} w2 w3 w4 w5"} for n in range(20)])
    config = configured(tmp_path, {"overlap": 1, "context": 4}, scan={"top": 3})
    with Run(config) as run:
        results = run.all()["ekfac"]
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing before each document (corpus.bos: auto), nothing after each document" in said
    assert "chunks have 1 tokens in common" in said
    found = {key: results.manifest["corpus"][key] for key in ("bos", "eos", "overlap")}
    assert found == {"bos": "auto", "eos": "auto", "overlap": 1}
    assert [row["n_tokens"] for row in tokenized(config)[:2]] == [4, 2]


def test_a_document_is_shown(tmp_path: Path, say: Callable[..., tuple[int, str, str]]) -> None:
    rows = [
        {"id": f"d{n}", "q": f"w{n} w1\u202e", "a": "w2 w3 w4 w5 w6", "src": "x"} for n in range(3)
    ]
    path = written(tmp_path / "data/d.jsonl", rows)
    template = "{{ q }} {% generation %}{{ a }}{% endgeneration %}"
    config = configured(tmp_path, {"template": template}, objective={"loss": "completion"})
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump()))
    code, printed, _ = say("corpus", "show", file, "--id", "d1", "--context", 4)
    assert code == 0
    assert printed.splitlines()[0] == f"document    d1  ({path}:2)"
    assert "metadata    src: x" in printed
    assert "\u202e" not in printed
    assert "sequence    2 of" in printed
    shown = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    assert shown[0][0] == "given"
    assert shown[-1][0] == "counts"
    code, printed, _ = say("corpus", "show", file, "--row", 3, "--json")
    found = json.loads(printed)
    tokens = [token for one in found["sequences"] for token in one["tokens"]]
    assert found["document_id"] == "d2"
    assert [token["text"].strip() for token in tokens if token["counts"]] == [
        "w2",
        "w3",
        "w4",
        "w5",
        "w6",
    ]
    assert ["not cut" in note for note in found["notes"]] == [True]
    code, printed, _ = say("corpus", "show", file, "--row", 3, "--context", 3)
    assert "its last token is in no sequence" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--id", "nobody"], 4, "there is no document 'nobody' in"),
        (["--row", "99"], 4, "there is no row 99 in"),
        (["--row", "2"], 4, "d.jsonl:2 is no document: 'text' is not a string"),
        (["--file", "other.jsonl"], 4, "none of 1 files of documents ends so"),
    ],
)
def test_what_cannot_be_shown_is_said(
    tmp_path: Path,
    say: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    path = written(tmp_path / "data/d.jsonl", [{"text": "w1 w2"}, {"text": 7}])
    model = configured(tmp_path, {}).model
    found = say("corpus", "show", path, "--tokenizer", model, *arguments)
    assert found[0] == code
    assert said in found[2]
    found = say("corpus", "show", path)
    assert found[0] == 2
    assert "name the folder of a tokenizer by --tokenizer" in found[2]
    found = say("corpus", "show", tmp_path / "nothing")
    assert found[0] == 4
    assert "nothing names no file" in found[2]


def test_a_probe_is_framed_as_documents_are(tmp_path: Path) -> None:
    words = [f"w{n} w{n + 1} w3" for n in range(20)]
    written(tmp_path / "data/d.jsonl", [{"id": text, "text": text} for text in words])
    model = {"dtype": "float64", "scan": {"top": 4}}
    config = configured(tmp_path, {"bos": "chunk", "eos": "document"}, **model)
    made = tiny_tokenizer()
    made.bos_token, made.eos_token = "▁w40", "▁w41"  # which the tiny model knows
    made.save_pretrained(config.model)
    rows = tokenized(config)
    assert rows[2]["text"] == "w40 w2 w3 w3 w41"
    with Run(config) as run:
        results = run.all()["ekfac"]
    known = results.proponents("q0")
    probed = rayinfluence.probe(config, [one.document_id for one in known], queries=["q0"])
    for place, one in enumerate(known):
        assert probed.texts[place].tokens == one.tokens
        assert probed.scores["q0"][place].score == pytest.approx(one.scan_score, rel=1e-9)
