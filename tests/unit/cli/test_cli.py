"""The command line as a user meets it: wrong inputs are one sentence and an exit code."""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from whole_runs import results_of

from rayinfluence import cli
from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError
from rayinfluence.testing import tiny_run

Say = Callable[..., tuple[int, str, str]]


def write_yaml(folder: Path, config: RunConfig | dict[str, Any]) -> Path:
    values = config.model_dump() if isinstance(config, RunConfig) else config
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def query(folder: Path, *rows: dict[str, Any]) -> None:
    standard = {"query_id": "a", "prompt": "w1", "completion": " w2"}
    lines = [json.dumps({**standard, **row}) for row in rows]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def documents(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def token_outside(folder: Path) -> None:
    """A tokenizer of 48 tokens, one of which has the id 60; the model embeds 48."""
    path = folder / "model" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["model"]["vocab"]["\u2581w46"] = 60
    path.write_text(json.dumps(definition))


def no_tokenizer(folder: Path) -> None:
    for path in (folder / "model").glob("tokenizer*"):
        path.unlink()


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.0.mlp.c_proj.weight"][0, 0] = float("nan")


#: What is done to a run that would work; what its configuration says else; exit code; sentence.
WRONG: dict[str, tuple[Callable[[Path], Any] | None, dict[str, Any], int, tuple[str, ...]]] = {
    "unknown key": (None, {"scann": {}}, 2, ("unknown key 'scann'", "did you mean 'scan'")),
    "nested unknown key": (None, {"fit": {"lane": 3}}, 2, ("'fit.lane'", "did you mean 'lanes'")),
    "wrong value": (None, {"scan": {"rank": 0}}, 2, ("run.yaml: scan.rank",)),
    "no queries": (None, {"queries": None}, 2, ("queries: name a queries.jsonl",)),
    "missing queries": (None, {"queries": "/no/q.jsonl"}, 2, ("queries: there is no file /no/q",)),
    "no cuda": (None, {"device": "cuda"}, 2, ("cuda is not available", "`device: cpu`")),
    "missing model": (
        None,
        {"model": "/no/model"},
        4,
        ("model: there is no folder /no/model", "config.json"),
    ),
    "missing documents": (
        None,
        {"corpus": {"documents": ["/no/d.jsonl"]}},
        4,
        ("corpus.documents: /no/d.jsonl names no file",),
    ),
    "no documents": (None, {"corpus": {"documents": []}}, 4, ("list files", "corpus.documents")),
    "empty documents": (
        lambda f: documents(f, {"text": ""}, {"text": "  "}),
        {},
        4,
        ("no document gave a sequence", "2 documents without text", "Check corpus.documents"),
    ),
    "no bytes": (lambda f: documents(f), {}, 4, ("is empty",)),
    "wrong text column": (
        None,
        {"corpus": {"text_column": "body"}},
        4,
        ("documents.jsonl has no key 'body' in any row", "text", "corpus.text_column"),
    ),
    "documents that are no Parquet": (
        lambda f: (f / "d.parquet").write_text("text"),
        {"corpus": {"documents": ["{folder}/d.parquet"]}},
        4,
        ("d.parquet cannot be read to its end", "Copy it again"),
    ),
    "sequences longer than the context": (
        None,
        {"corpus": {"context": 64}},
        2,
        ("corpus.context: 64 tokens", "the model's context is 16", "at most 16"),
    ),
    "tokens outside the vocabulary": (
        lambda f: (query(f, {}), token_outside(f)),
        {},
        4,
        ("have tokens outside the model's vocabulary of 48, such as 60", "Name the tokenizer"),
    ),
    "no tokenizer": (no_tokenizer, {}, 4, ("tokenizer: ", "Save it beside the model")),
    "pattern that matches nothing": (
        None,
        {"modules": ["*.experts.*"]},
        4,
        ("the pattern '*.experts.*' matches no linear layer", "transformer.h.0.mlp.c_fc"),
    ),
    "tied module": (None, {"modules": ["transformer.wte"]}, 4, (": write lm_head, under which",)),
    "NaN in a weight": (
        lambda f: weights(f, nan),
        {},
        6,
        ("transformer.h.0.mlp.c_proj.weight holds NaN", "load another checkpoint"),
    ),
    "missing weight": (
        lambda f: weights(f, lambda t: t.pop("transformer.h.0.mlp.c_fc.bias")),
        {},
        4,
        ("1 weights are missing, such as transformer.h.0.mlp.c_fc.bias", "save the whole model"),
    ),
    "no weights": (
        lambda f: (f / "model" / "model.safetensors").unlink(),
        {},
        4,
        ("model.safetensors",),
    ),
    "empty completion": (
        lambda f: query(f, {"completion": ""}),
        {},
        4,
        ("queries.jsonl:1: the completion of query 'a' is empty",),
    ),
    "duplicate query ids": (
        lambda f: query(f, {}, {"query_id": "b"}, {}),
        {},
        4,
        ("queries.jsonl:3: query_id 'a' is already that of line 1", "an id of its own"),
    ),
    "query that is no JSON": (
        lambda f: (f / "queries.jsonl").write_text("{"),
        {},
        4,
        ("queries.jsonl:1 is not JSON",),
    ),
    "query longer than the context": (
        lambda f: query(f, {"prompt": "w1" + " w1" * 19}),
        {},
        4,
        ("query 'a' has 21 tokens", "context is 16; shorten its prompt"),
    ),
    "a run directory that is a file": (
        lambda f: (f / "run").write_text(""),
        {},
        2,
        ("run: ", "/run is a file; name a folder"),
    ),
    "a run directory below a file": (
        lambda f: (f / "run").write_text(""),
        {"run": "{folder}/run/deep"},
        5,
        ("cannot write", "A part of this path is a file and has to be a folder"),
    ),
    "a kind of storage that is not there": (
        None,
        {"run": "nonsense://x/y"},
        5,
        ("use a local folder or s3://",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_sentence_before_anything_is_fitted(
    tmp_path: Path, say: Say, case: str
) -> None:
    spoil, values, expected_code, phrases = WRONG[case]
    config = tiny_run(tmp_path).model_dump()
    for key, value in values.items():
        value = json.loads(json.dumps(value).replace("{folder}", str(tmp_path)))
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    if spoil is not None:
        spoil(tmp_path)
    code, _, errors = say("run", write_yaml(tmp_path, config))
    [sentence] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.rstrip().endswith(sentence)  # it is the last thing that is said, and one line
    assert [phrase for phrase in phrases if phrase not in sentence] == []
    assert "Traceback" not in errors
    assert code == expected_code
    assert not (tmp_path / "run" / "factors").exists()


def test_a_query_outside_the_vocabulary_is_a_sentence(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, 300)
    token_outside(tmp_path)
    documents(tmp_path, *[{"text": f"w{i % 40} w1 w2"} for i in range(100)])
    query(tmp_path, {"completion": " w46"})
    code, _, errors = say("run", write_yaml(tmp_path, config))
    assert "error: query 'a'" in errors
    assert code == 4


@pytest.mark.parametrize("key", ["model", "tokenizer"])
def test_a_missing_folder_is_not_looked_for_on_the_network(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_run(tmp_path, **{key: "models/typo"})
    code, _, errors = say("run", write_yaml(tmp_path, config))
    assert code == 4
    [sentence] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert sentence.startswith(f"error: {key}: ")
    assert "models/typo" in errors
    assert "huggingface.co" not in errors


def test_a_shard_that_is_no_parquet_is_named(done: tuple[Path, RunConfig], say: Say) -> None:
    folder, config = done
    [shard] = (folder / "run" / "corpus" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1])
    for stage in ("factors", "scan", "results"):
        say("clean", folder / "run", "--stage", stage, "--yes")
    code, _, errors = say("run", write_yaml(folder, config))
    assert code == 4
    assert f"{shard.name} cannot be used: it has " in errors
    assert errors.count("error: ") == 1
    assert not (folder / "run" / "factors").exists()


def test_a_few_tokens_outside_the_vocabulary_are_quarantined(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path)
    rows = [{"id": f"d{i}", "text": f"w{i % 40} w{(i * 7) % 40} w3"} for i in range(250)]
    rows[100]["text"] += " w46"
    documents(tmp_path, *rows)
    query(tmp_path, {})
    token_outside(tmp_path)
    code, _, errors = say("run", write_yaml(tmp_path, config))
    assert code == 0, errors
    manifest = json.loads((tmp_path / "run" / "results" / "manifest.json").read_text())
    reason = "token id 60 is outside the model's vocabulary of 48"
    expected = [{"sequence_id": 100, "reason": reason}]
    assert manifest["corpus"]["bad_sequences"] == expected
    assert manifest["methods"]["ekfac"]["quarantined"] == expected
    assert manifest["methods"]["ekfac"]["scanned_sequences"] == 249
    assert manifest["n_sequences"] == 249
    assert manifest["factors"]["quarantined"] == [[100, reason]]
    assert manifest["factors"]["n_sequences"] == 249


def test_a_few_bad_documents_are_counted(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, 200)
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"text": 3}\nnot json\n')
    code, _, errors = say("run", write_yaml(tmp_path, config))
    assert code == 0, errors
    manifest = json.loads((tmp_path / "run" / "results" / "manifest.json").read_text())
    assert manifest["corpus"]["bad_documents"] == 2
    assert manifest["corpus"]["documents"] == 200
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"text": 3}\n')
    config = tiny_run(tmp_path / "again", 200)
    with (tmp_path / "again" / "documents.jsonl").open("a") as file:
        file.write('{"text": 3}\n' * 3)
    code, _, errors = say("run", write_yaml(tmp_path / "again", config))
    assert code == 4
    assert "3 of 203 rows" in errors
    assert "documents.jsonl:201" in errors


def test_the_stages_one_by_one_and_what_they_say(
    tmp_path: Path, say: Say, finished: tuple[Path, RunConfig]
) -> None:
    path = write_yaml(tmp_path, tiny_run(tmp_path))
    run = tmp_path / "run"
    code, _, errors = say("tokenize", path)
    assert code == 0
    assert "60 sequences" in errors or "sequences," in errors
    assert not (run / "factors").exists()
    code, _, errors = say("fit", path)
    assert code == 0
    assert f"factors in {run}/factors/" in errors
    assert not (run / "scan").exists()
    code, _, errors = say("scan", path)
    assert code == 0
    assert f"results in {run}/results" in errors
    code, printed, _ = say("report", run, "--top", 2)
    assert code == 0
    assert f"report: {run}/report.html" in printed
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert pq.read_table(results_of(run) / "ekfac.parquet").equals(
        pq.read_table(results_of(finished[0] / "run") / "ekfac.parquet")
    )
    code, printed, errors = say("run", path)
    assert code == 0
    assert "reused" in errors


def test_status_at_the_command_line(done: tuple[Path, RunConfig], say: Say) -> None:
    code, printed, _ = say("status", done[0] / "run")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()] == [
        "run", "stage", "corpus", "factors", "scan", "results"
    ]  # fmt: skip
    assert "3 queries" in printed


def test_status_finds_a_corpus_that_is_elsewhere(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, corpus={"path": str(tmp_path / "corpus")})
    assert say("run", write_yaml(tmp_path, config))[0] == 0
    _, printed, _ = say("status", tmp_path / "run")
    assert "sequences" in printed.splitlines()[2]


def test_clean_asks_and_deletes_only_what_it_was_told(
    done: tuple[Path, RunConfig], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = done[0] / "run"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, errors = say("clean", run, "--stage", "scan")
    assert code == 2
    assert "error: nothing was deleted" in errors
    assert (run / "scan").exists()
    code, printed, _ = say("clean", run, "--stage", "scan", "--stage", "results", "--yes")
    assert code == 0
    assert "objects deleted" in printed
    assert not any((run / name).exists() for name in ("scan", "queries", "results"))
    assert (run / "factors").exists()
    code, _, errors = say("clean", run, "--stage", "everything", "--yes")
    assert code == 2
    assert "the stages are corpus, factors, scan, results" in errors


def test_the_runner_can_be_chosen_at_the_command_line(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, runner={"name": "ray"})
    assert say("tokenize", write_yaml(tmp_path, config), "--runner", "inline")[0] == 0
    code, _, errors = say("fit", write_yaml(tmp_path, config), "--runner", "spark")
    assert code == 2
    assert "runner.name: must be 'ray' or 'inline', not 'spark'" in errors


@pytest.mark.parametrize(
    ("arguments", "expected_code", "phrase"),
    [
        (["fit", "/no/run.yaml"], 2, "error: /no/run.yaml: there is no such config file."),
        (["run", "/"], 2, "error: / is no run directory"),
        (["fit"], 2, "Missing argument 'CONFIG'"),
        (["nothing"], 2, "No such command 'nothing'"),
        (["report", "/no/run"], 2, "error: /no/run does not exist"),
        (["report", "nonsense://x"], 5, "use a local folder or s3://"),
        (["version"], 0, ""),
        (["--version"], 0, ""),
        (["--help"], 0, ""),
    ],
)
def test_exit_codes(say: Say, arguments: list[str], expected_code: int, phrase: str) -> None:
    code, _, errors = say(*arguments)
    assert code == expected_code
    assert phrase in errors
    assert "Traceback" not in errors


def test_a_multi_line_message_becomes_one_line(tmp_path: Path, say: Say) -> None:
    (tmp_path / "run.yaml").write_text("run: [1\nmodel: x\n")
    code, _, errors = say("fit", tmp_path / "run.yaml")
    assert code == 2
    assert len(errors.splitlines()) == 1


def test_an_interrupt_says_how_to_go_on(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunConfig, "load", interrupted)
    code, _, errors = say("fit", "run.yaml")
    assert code == 130
    assert errors == "interrupted; run the same command again to go on.\n"


def test_markup_in_a_message_is_text(tmp_path: Path, say: Say) -> None:
    (tmp_path / "run.yaml").write_text("run: x\nmodel: y\n'[bold]z[/]': 1\n")
    _, _, errors = say("fit", tmp_path / "run.yaml")
    assert "unknown key '[bold]z[/]'" in errors


def test_a_demo_in_a_home_is_in_that_home(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell writes out the home behind `--folder=`."""

    def given(folder: Path, runner: str, size: object) -> None:
        raise ConfigError(f"the folder is {folder}")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("rayinfluence.demo.run.run_demo", given)
    _, _, errors = say("demo", "--folder=~/demo")
    assert errors == f"error: the folder is {tmp_path}/demo\n"


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rayinfluence", "fit", str(tmp_path / "missing.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path}/missing.yaml: there is no such config file.\n"


def test_every_command_of_a_run_takes_settings_over_its_file() -> None:
    """As the reference says."""
    places = {"config", "run_directory", "runs", "model"}
    for command in set(cli._COMMANDS) - {cli.init, cli.merge}:
        names = inspect.signature(command).parameters.keys()
        assert not names & places or "settings" in names, command.__name__
