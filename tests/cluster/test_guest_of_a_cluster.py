"""A run on Ray in somebody else's process, of a model whose folder brings code; GPUs elsewhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folder_code import bring_code

from rayinfluence.config import RunConfig
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.cluster

#: Starts and ends a Ray as a run does; prints what has changed of the process.
STARTED = """
import ray, ray.data  # what imports set up is their own
from process_state import changed, state
from rayinfluence.config_places import RunnerConfig
from rayinfluence.dataflow.runners.ray.connection import Connection

before = state()
connection = Connection(RunnerConfig())
started = "started" if ray.is_initialized() else "not started"
connection.close()
after = state()
levels = [one for one in after.keys() - before.keys() if "logger ray" in one and after[one][0]]
print(started, changed(before, after, imported=True), levels)
"""
#: A cluster that counts GPUs which are none.
PRETENDED = """
import io, sys
import ray
from rich.console import Console
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.run import Run
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
config = RunConfig.load(sys.argv[1])
with Run(config, ProgressLog(Console(file=sys.stdout, width=1000))) as run:
    print(run.numerics.device, run.numerics.dtype)
    try:
        run.all()
    except Exception as error:
        print(type(error).__name__, error)
ray.shutdown()
"""


def program(text: str, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_USAGE")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # with the tests' own modules
    command = [sys.executable, "-c", text, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_ray_that_is_started_leaves_the_caller_s_process_as_it_was(ray_token: Path) -> None:
    assert program(STARTED).splitlines()[-1] == "started {} []"


def test_code_of_a_folder_runs_on_ray_as_inline(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute: Any
) -> None:
    config = tiny_run(tmp_path, 20, trust_remote_code=True, scan={"methods": ["gradient_product"]})
    bring_code(tmp_path / "model")
    # Two files, so that they are tokenised in tasks, by a tokenizer of the folder's.
    (tmp_path / "more.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    values = config.model_dump()
    values["corpus"]["documents"].append(str(tmp_path / "more.jsonl"))
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    [inline] = execute(RunConfig.parse(values)).values()
    values |= {"run": str(tmp_path / "on ray"), "runner": {"name": "ray"}}
    [on_ray] = execute(RunConfig.parse(values)).values()
    assert on_ray.manifest["model"]["architecture"] == "OwnModel"
    assert on_ray.table.equals(inline.table)


def test_workers_decide_the_device_and_one_without_cuda_says_so(
    ray_token: Path, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["gradient_product"]}, runner={"name": "ray"})
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    decided, told, *_, refused = program(PRETENDED, str(tmp_path / "run.yaml")).splitlines()
    assert told == "device cuda, bfloat16 (workers have GPUs; this process has none)"
    assert decided == "cuda bfloat16"
    assert refused.startswith("ConfigError device: cuda, and a worker on the node ")
    assert "sees no CUDA device" in refused
