"""Questions of a run, asked on a local Ray."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import rayinfluence
from rayinfluence import cli
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.cluster

QUESTIONS = {"answered": ["w1 w2", "--generate"], "given": ["w3", " w4 w5"]}


def asked(
    run: str, runner: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    found = {}
    for name, question in QUESTIONS.items():
        command = ["rayinfluence", "ask", run, *question, "--runner", runner, "--json"]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed, errors = capfd.readouterr()
        assert not end.value.code, errors
        found[name] = json.loads(printed)
        for hits in found[name]["methods"]["ekfac"].values():
            assert hits
            for hit in hits:
                del hit["document_file"]  # of another folder
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_questions_are_answered_on_ray_as_they_are_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = {}
    for runner in ("inline", "ray"):
        (tmp_path / runner).mkdir()
        config = tiny_run(tmp_path / runner, n_documents=20)
        rayinfluence.run(config)
        runs[runner] = config.run
    inline = asked(runs["inline"], "inline", monkeypatch, capfd)

    def refuse(*_: object) -> None:
        raise AssertionError("asked inline")

    monkeypatch.setattr(InlineRunner, "__init__", refuse)
    assert asked(runs["ray"], "ray", monkeypatch, capfd) == inline
