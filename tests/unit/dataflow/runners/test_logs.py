import io
import json
import logging

import pytest

from rayinfluence.dataflow.jobs.watch import LocalWatch, timed_phase
from rayinfluence.dataflow.runners.ray import logs


def test_workers_log_json_lines_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(logs.sys, "stderr", said)
    ours = logging.getLogger("rayinfluence")
    before = ours.handlers[:], ours.level, ours.propagate
    try:
        logs.log_as_json("mine")
        logs.log_as_json("mine")  # again, in the same worker: no second handler
        with timed_phase(LocalWatch(lambda tokens: None), "score", "abc"):
            pass
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("rayinfluence.storage").exception("split %s failed", "abc")
    finally:
        ours.handlers[:], ours.propagate = before[0], before[2]
        ours.setLevel(before[1])
    first, second = map(json.loads, said.getvalue().splitlines())
    assert (first["run"], first["level"], first["phase"], first["work"]) == (
        "mine",
        "INFO",
        "score",
        "abc",
    )
    assert first["seconds"] >= 0
    assert first["time"].endswith("Z")
    assert second["message"] == "split abc failed"
    assert "ValueError: broken" in second["exception"]
