"""Every command takes a run directory or its configuration, and refuses what is neither."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.places import run_config
from rayinfluence.errors import ConfigError
from rayinfluence.testing import tiny_run

Say = Callable[..., tuple[int, str, str]]
Done = tuple[Path, RunConfig]
#: Commands that take a run directory, with what else they need.
OF_DIRECTORIES = (["status"], ["report"], ["clean", "--stage", "results", "--yes"])
OF_CONFIGURATIONS = (["tokenize"], ["fit"], ["scan"], ["run"], ["plan"], ["submit"])


def write_yaml(folder: Path, config: RunConfig) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump()), "utf-8")
    return path


@pytest.mark.parametrize("command", OF_DIRECTORIES, ids=lambda command: command[0])
def test_a_configuration_names_its_run_directory(done: Done, say: Say, command: list[str]) -> None:
    folder, config = done
    shutil.copytree(folder / "run" / "results", folder / "copy")
    of_directory = say(command[0], folder / "run", *command[1:])
    shutil.copytree(folder / "copy", folder / "run" / "results", dirs_exist_ok=True)
    of_file = say(command[0], write_yaml(folder, config), *command[1:])
    assert of_directory[0] == of_file[0] == 0, of_file
    assert of_directory[1].splitlines()[:-1] == of_file[1].splitlines()[:-1]


@pytest.mark.parametrize("command", [*OF_DIRECTORIES, *OF_CONFIGURATIONS], ids=lambda c: c[0])
@pytest.mark.parametrize("place", ["typo", "no-run", "typo.yaml", "no-run/notes.txt"])
def test_what_is_neither_is_refused_in_a_sentence(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch, command: list[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "no-run" / "notes.txt").write_text("notes")
    code, printed, errors = say(command[0], place, *command[1:])
    assert (code, printed) == (2, "")
    assert len(errors.splitlines()) == 1
    assert place in errors
    assert "redentials" not in errors
    assert [p.name for p in tmp_path.rglob("*")] == ["no-run", "notes.txt"]


@pytest.mark.parametrize("command", OF_DIRECTORIES, ids=lambda command: command[0])
@pytest.mark.parametrize("options", [(), ("--endpoint-url", "http://127.0.0.1:9")])
@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("run/../model", "is no run directory: its config.json is not that of a run"),
        ("queries.jsonl", "queries.jsonl cannot be read as YAML"),
        ("one.jsonl", "one.jsonl is not the configuration of a run"),
        ("other.yaml", "other.yaml is not the configuration of a run"),
        ("model/config.json", "model/config.json is not the configuration of a run"),
        ("damaged", "damaged is no run directory: its config.json is not that of a run"),
    ],
)
def test_what_is_there_and_something_else_is_called_by_what_it_is_not(
    finished: Done,
    tmp_path: Path,
    say: Say,
    command: list[str],
    options: Any,
    place: str,
    what: str,
) -> None:
    folder = tmp_path / "done"
    shutil.copytree(finished[0], folder)
    (folder / "one.jsonl").write_text('{"query_id": "a", "prompt": "b", "completion": "c"}\n')
    (folder / "other.yaml").write_text("name: a workflow\non: push\n")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.json").write_text("[")
    before = sorted(folder.rglob("*"))
    code, printed, errors = say(command[0], folder / place, *command[1:], *options)
    assert (code, printed) == (2, "")
    assert what in errors
    assert "run directory" in errors
    assert sorted(folder.rglob("*")) == before


def test_an_environment_without_an_endpoint_may_say_so_with_nothing(
    done: Done, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    assert say("status", done[0] / "run")[0] == 0


def test_what_others_keep_in_a_run_directory_is_no_stage(done: Done, say: Say) -> None:
    before = say("status", done[0] / "run")
    for name in ("factors/notes/x.txt", "scan/mine/manifest.json", "factors/mine/manifest.json"):
        (done[0] / "run" / name).parent.mkdir(exist_ok=True)
        (done[0] / "run" / name).write_text("mine")
    assert say("status", done[0] / "run") == before


def test_watching_a_mistyped_path_ends(tmp_path: Path, say: Say) -> None:
    code, _, errors = say("status", tmp_path / "typo", "--watch")
    assert code == 2
    assert "typo does not exist" in errors


def test_watching_a_run_that_is_complete_but_for_some_splits_ends(done: Done, say: Say) -> None:
    run = done[0] / "run"
    partial = next(run.glob("scan/*/partials/*"))
    aside = partial.parent.with_name("aside") / f"{partial.name.split('.')[0]}.json"
    aside.parent.mkdir()
    aside.write_text("{}")
    partial.unlink()
    code, printed, _ = say("status", run, "--watch")
    assert code == 0
    assert "1 set aside" in printed


@pytest.mark.parametrize("command", ["tokenize", "fit", "scan", "run"])
def test_a_run_directory_is_run_again_with_what_it_was_made_with(
    done: Done, say: Say, command: str
) -> None:
    moved = done[0] / "moved"
    (done[0] / "run").rename(moved)
    code, _, errors = say(command, moved)
    assert code == 0, errors
    assert "covariance" not in errors  # all of it was done
    assert json.loads((moved / "config.json").read_text())["run"] == str(moved)
    assert not (done[0] / "run").exists()


def test_a_run_directory_without_a_configuration_asks_for_the_file(done: Done, say: Say) -> None:
    (done[0] / "run" / "config.json").unlink()
    code, _, errors = say("run", done[0] / "run")
    assert code == 2
    assert "name its YAML file" in errors
    assert say("status", done[0] / "run")[0] == 0


def test_tokenising_alone_makes_a_run_directory_that_status_knows(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, corpus={"path": str(tmp_path / "corpus")})
    assert say("tokenize", write_yaml(tmp_path, config))[0] == 0
    code, printed, _ = say("status", tmp_path / "run")
    assert code == 0
    assert "60 sequences" in printed or "sequences," in printed


def test_status_of_a_run_that_has_not_begun_says_so_of_its_configuration(
    tmp_path: Path, say: Say
) -> None:
    code, printed, _ = say("status", write_yaml(tmp_path, tiny_run(tmp_path)))
    assert code == 0
    assert "not begun" in printed


def test_a_configuration_says_how_its_storage_is_reached(
    done: Done, say: Say, s3: dict[str, Any]
) -> None:
    from rayinfluence.storage.store import Store

    folder, config = done
    local, remote = Store(config.run), Store("s3://bucket/run", s3)
    for key in local.list():
        remote.write(key, local.read(key))
    values = config.model_dump() | {"run": "s3://bucket/run", "storage": s3}
    file = write_yaml(folder, RunConfig.parse(values))
    by_file, by_address = (
        say("status", file),
        say("status", "s3://bucket/run", "--endpoint-url", s3["endpoint_url"]),
    )
    assert by_file == by_address
    assert "3 queries by ekfac" in by_file[1]
    code, _, errors = say("status", "s3://bucket/typo", "--endpoint-url", s3["endpoint_url"])
    assert code == 2
    assert "s3://bucket/typo does not exist" in errors


@pytest.mark.parametrize("how", ["flag", "environment", "address"])
def test_a_password_in_an_address_of_the_command_line_is_refused(
    say: Say, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = "http://me:hidden@127.0.0.1:9"
    if how == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    place = "s3://me:hidden@bucket/run" if how == "address" else "s3://bucket/run"
    code, _, errors = say("status", place, *(["--endpoint-url", url] if how == "flag" else []))
    assert code == 2
    assert "password or a token in this address" in errors
    assert "hidden" not in errors


def test_a_run_directory_that_is_mistyped_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mistyped does not exist\. Name the run directory"):
        run_config(str(tmp_path / "mistyped"))
