"""`rayinfluence corpus stats|head|sample|show|validate|duplicates` on a small corpus."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from rayinfluence.cli import main
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looked-into")
    config = tiny_run(folder, 12, corpus={"bad_rows": 0.1})
    path = folder / "documents.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[5]["text"] = " ".join(f"w{n}" for n in range(30))
    rows += [
        {**rows[5], "id": "again"},
        {**rows[1], "source": None, "language": "de"},
        {"id": "empty", "text": ""},
        {"id": "esc\x1b[2J", "text": "w1 w2 w3", "source": "al\x1bpha"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    with Run(config) as run:
        run.tokenize()
    values = config.model_dump(mode="json", include={"run", "model"}) | {
        "corpus": {"documents": [str(path)], "row_group_tokens": 48},
        "runner": {"name": "inline"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder


def rows_of(folder: Path) -> list[dict[str, object]]:
    shards = sorted((folder / "run/corpus/shards").iterdir())
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["corpus", *map(str, arguments)])
    found = capsys.readouterr()
    assert (end.value.code or 0) == code, found.err
    return found.out if code in (0, 4) and found.out else found.err


def test_statistics_are_those_of_the_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(folder)
    found = json.loads(said(capsys, "stats", folder / "run.yaml", "--json"))
    assert found["documents"] == 15
    assert found["sequences"] == len(rows)
    assert found["tokens"] == sum(len(row["tokens"]) for row in rows)
    lengths = sorted(len(row["tokens"]) for row in rows)
    assert found["lengths"]["p0"] == lengths[0]
    assert found["lengths"]["p100"] == lengths[-1]
    assert found["lengths"]["p50"] == lengths[(len(lengths) + 1) // 2 - 1]
    for one in found["lengths"]["histogram"]:
        assert one["sequences"] == sum(one["from"] <= n <= one["to"] for n in lengths)
    documents = map(json.loads, (folder / "documents.jsonl").read_text().splitlines())
    # A token a word, and 16 to a sequence.
    n_short = sum(len(one["text"].split()) % 16 == 1 for one in documents)
    expected = {"documents without text": 1, "last chunks of one token": n_short}
    assert found["left_out"] == expected
    assert found["reasons"] == {"its text is empty or white space": 1}
    languages = {one["value"]: one for one in found["by"]["language"]["values"]}
    assert languages["de"]["documents"] == 1
    assert languages[None]["documents"] == 14
    sources = {one["value"]: one for one in found["by"]["source"]["values"]}
    of_beta = [row for row in rows if json.loads(row["metadata"]).get("source") == "beta"]
    assert sources["beta"]["sequences"] == len(of_beta)
    assert sources["beta"]["tokens"] == sum(len(row["tokens"]) for row in of_beta)


def test_a_corpus_is_named_by_its_folder_its_run_or_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (folder / "run/corpus", folder / "run", folder / "run.yaml")
    assert len({said(capsys, "stats", place) for place in places}) == 1
    assert "has a log/00000000.json" in said(capsys, "stats", folder / "model", code=2)
    assert "did you mean 'source'" in said(capsys, "stats", places[0], "--by", "sorce", code=2)


def test_what_others_wrote_does_not_act_on_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["stats"], ["head", "-n", 99], ["sample", "-n", 99]):
        shown = said(capsys, *command, folder / "run")
        assert "\x1b" not in shown
        assert "al␛pha" in shown


def test_the_first_sequences_and_documents(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(folder)
    found = json.loads(said(capsys, "head", folder / "run", "-n", 3, "--json"))["documents"]
    assert [one["sequences"][0]["sequence_id"] for one in found] == [0, 1, 2]
    assert [[t["id"] for t in one["sequences"][0]["tokens"]] for one in found] == [
        row["tokens"] for row in rows[:3]
    ]
    whole = said(capsys, "head", folder / "run", "-n", 6, "--documents", "--json")
    documents = json.loads(whole)["documents"]
    assert [one["document_id"] for one in documents] == [f"documents-{n}" for n in range(6)]
    for one in documents:
        expected = [row["tokens"] for row in rows if row["document_id"] == one["document_id"]]
        if one["document_id"] != "documents-1":  # which comes twice
            assert [[t["id"] for t in s["tokens"]] for s in one["sequences"]] == expected


def test_samples_are_of_their_seed_and_reach_everything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(seed: int, *more: str) -> list[int]:
        arguments = ["sample", folder / "run", "-n", 12, "--seed", seed, "--json", *more]
        found = json.loads(said(capsys, *arguments))["documents"]
        return [one["sequences"][0]["sequence_id"] for one in found]

    n_rows = len(rows_of(folder))
    assert drawn(1) == drawn(1) != drawn(2)
    assert {one for seed in range(9) for one in drawn(seed)} == set(range(n_rows))
    starts = {n for n, row in enumerate(rows_of(folder)) if row["token_start"] == 0}
    assert {one for seed in range(9) for one in drawn(seed, "--documents")} == starts


def test_a_document_and_a_sequence_are_shown_from_shards(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, corpus, model = rows_of(folder), folder / "run/corpus", folder / "model"
    arguments = ["show", corpus, "--id", "documents-5", "--tokenizer", model, "--json"]
    found = json.loads(said(capsys, *arguments))
    expected = [row["tokens"] for row in rows if row["document_id"] == "documents-5"]
    assert [[t["id"] for t in one["tokens"]] for one in found["sequences"]] == expected
    assert len(expected) > 1
    one = json.loads(said(capsys, "show", folder / "run.yaml", "--sequence", 4, "--json"))
    assert [token["id"] for token in one["sequences"][0]["tokens"]] == rows[4]["tokens"]
    assert one["row"] == rows[4]["document_row"]
    assert "has no sequence 9999" in said(
        capsys, "show", folder / "run", "--sequence", 9999, code=4
    )
    assert "by --tokenizer" in said(capsys, "head", corpus, code=2)
    refused = said(capsys, "show", corpus, "--row", 3, "--tokenizer", model, code=2)
    assert refused.startswith("error: --row")


def test_copies_are_grouped_and_written(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "near.parquet"
    found = json.loads(said(capsys, "duplicates", folder / "run", "--output", output, "--json"))
    rows = rows_of(folder)
    first: dict[tuple[int, ...], int] = {}
    copy_of = [first.setdefault(tuple(row["tokens"]), n) for n, row in enumerate(rows)]
    table = pq.read_table(output).to_pylist()
    assert {row["sequence_id"]: row["copy_of"] for row in table}.items() >= {
        (n, one) for n, one in enumerate(copy_of) if n != one
    }
    assert found["counts"]["exact_copies"] == sum(n != one for n, one in enumerate(copy_of)) > 1
    assert found["counts"]["in_groups"] == len(table)
    refused = said(capsys, "duplicates", folder / "run", "--output", output, code=2)
    assert "name a file that is not there yet" in refused


def test_all_that_is_wrong_is_listed(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    listed = json.loads(said(capsys, "validate", folder / "run.yaml", "--json", code=4))
    assert listed["format"] == 1
    [again] = listed["findings"]
    assert again["document_id"] == "documents-1"
    assert "its id is that of another document, which begins with sequence" in again["reason"]
    assert again["document_row"] == 14
    other = tiny_run(tmp_path, 1).model
    tokenizer = Path(other) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('w1"', 'v1"'))
    config = Path(other) / "config.json"
    values = json.loads(config.read_text()) | {"vocab_size": 20, "n_positions": 4}
    config.write_text(json.dumps(values))
    shown = said(capsys, "validate", folder / "run/corpus", "--model", other, code=4)
    assert "is not the one that the corpus was tokenised with" in shown
    assert "tokens, and the model's context is 4" in shown
    assert "is outside the model's vocabulary of 20" in shown


def test_a_damaged_shard_does_not_hide_another_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(tmp_path, 40)
    with Run(config) as run:
        run.tokenize()
    place = tmp_path / "run/corpus"
    assert said(capsys, "validate", place).strip() == "nothing is wrong"
    [shard] = (place / "shards").iterdir()
    body = bytearray(shard.read_bytes())
    body[200] ^= 255
    shard.write_bytes(body)
    damaged = said(capsys, "validate", place, code=4)
    assert "rows 0 to" in damaged
    assert damaged.strip().endswith("1 findings")
    shard.write_bytes(body[:-1])
    assert "bytes, and" in said(capsys, "validate", place, code=4)
    shard.unlink()
    assert "it is not there" in said(capsys, "validate", place, code=4)


def test_rows_that_are_no_documents_are_shown_as_their_files_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(tmp_path, 5, corpus={"bad_rows": 2000})
    path = tmp_path / "documents.jsonl"
    rows = '{"text": 7, "what": "\x1b[2J"}\n' + '{"text": ""}\n' * 3 + "[1]\n" * 1200
    path.write_text(path.read_text() + rows)
    with Run(config) as run:
        run.tokenize()
    shown = said(capsys, "validate", tmp_path / "run", code=4)
    first = f"{path}:6: no document: not JSON: Invalid control character"
    assert shown.splitlines()[0].startswith(first)
    assert shown.splitlines()[0].endswith('{"text": 7, "what": "␛[2J"}')
    assert f"201 more rows of {path} are no documents, and are not kept" in shown
    found = json.loads(said(capsys, "validate", tmp_path / "run", "--json", code=4))
    second = found["findings"][1]
    assert (second["file"], second["document_row"]) == (str(path), 10)
    assert (second["reason"], second["raw"]) == ("not a JSON object", "[1]\n")


def test_tokenising_again_names_a_shard_that_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(tmp_path, 12)
    with Run(config) as run:
        run.tokenize()
    values = config.model_dump(mode="json", include={"run", "model", "queries"}) | {
        "corpus": {"documents": [str(tmp_path / "documents.jsonl")], "row_group_tokens": 48},
        "runner": {"name": "inline"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    [shard] = (tmp_path / "run/corpus/shards").iterdir()
    for damage, said_of_it in ((b"PAR1", "it has 4 bytes"), (None, "it is not there")):
        shard.unlink() if damage is None else shard.write_bytes(damage)
        with pytest.raises(SystemExit) as end:
            main(["tokenize", str(tmp_path / "run.yaml"), "--quiet"])
        assert end.value.code == 4
        assert said_of_it in capsys.readouterr().err
