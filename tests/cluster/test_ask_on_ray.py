"""A question of a run, asked on a local Ray."""

import json
import sys
from pathlib import Path

import pytest

import rayinfluence
from rayinfluence import cli
from rayinfluence.testing import tiny_run


@pytest.mark.usefixtures("ray_cluster")
def test_a_question_is_asked_on_ray_as_it_is_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name in ("inline", "ray"):
        (tmp_path / name).mkdir()
        config = tiny_run(tmp_path / name, n_documents=20)
        rayinfluence.run(config)
        capfd.readouterr()
        command = ["ask", config.run, "w1 w2", "--generate", "--runner", name, "--json"]
        monkeypatch.setattr(sys, "argv", ["rayinfluence", *command])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed, errors = capfd.readouterr()
        assert not end.value.code, errors
        answer = json.loads(printed)
        for hits in answer["methods"]["ekfac"].values():
            assert hits
            for hit in hits:
                del hit["document_file"]
        found.append(answer)
    assert found[0] == found[1]
