"""The README's snippets, run as they are written."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import rayinfluence
from rayinfluence import cli
from rayinfluence.dataflow.begin.probes import read_probes
from rayinfluence.demo.facts import invent_facts
from rayinfluence.demo.variants import variants, write_variants
from rayinfluence.testing import tiny_run

ROOT = Path(__file__).parents[2]


def snippet(name: str) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"<!-- snippet: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"the README has no snippet {name}"
    return found.group(1)


def test_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run(tmp_path)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    monkeypatch.chdir(tmp_path)
    code = snippet("python")
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["q0"] * 3 + ["q1"] * 3 + ["q2"] * 3


def test_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = re.findall(r"^rayinfluence (inspect [^#]*)", (ROOT / "README.md").read_text(), re.M)
    config = tiny_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    *_, place = line.split()
    Path(place).parent.mkdir()
    Path(config.model).rename(place)
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "53.2% of 4,560 parameters are tracked, in 4 layers" in said
    assert "checks       passed" in said


def test_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [line] = snippet("probe").splitlines()
    command, run, option, path = line.removeprefix("rayinfluence ").split()
    monkeypatch.chdir(tmp_path)
    config = tiny_run(tmp_path, 20, run=run)
    rayinfluence.run(config)
    first, *others = invent_facts(4, seed=0)
    write_variants(Path(path), "q1", variants(first, others))
    written = set(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main([command, run, option, path])
    assert not ended.value.code
    assert set(tmp_path.rglob("*")) == written
    said = capsys.readouterr().out
    assert "q1  by ekfac" in said
    readme = (ROOT / "README.md").read_text()
    partition = r"  (\w+(?:,? \w+)*): mean of \d texts"
    assert len(re.findall(partition, said)) == 7
    assert re.findall(partition, said) == re.findall(partition, readme)
    shape = re.search(
        r"```yaml\n(queries: president.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert shape
    (tmp_path / "shape.yaml").write_text(shape.group(1))
    texts, queries = read_probes("shape.yaml", config)
    assert (len(texts), queries) == (2, ["president-000-trained"])


@pytest.mark.runs
def test_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, with the section of docs/quality.md at a smaller size."""
    [line] = re.findall(r"^rayinfluence (evaluate [^#\n]*)", (ROOT / "README.md").read_text(), re.M)
    section = {
        "options": {"start": str(tmp_path / "start"), "epochs": 1, "batch": 8},
        **{"half": 2, "removal": {"share": 0.1, "queries": 1}, "add": 2, "known": "query"},
        **{"groups": {"key": "source"}, "seeds": [0, 1]},
    }
    config = tiny_run(tmp_path, 20, evaluation=section)
    (tmp_path / "model").rename(tmp_path / "start")
    for name, key in (("queries", "query_id"), ("documents", "id")):
        path = tmp_path / f"{name}.jsonl"
        rows = [json.loads(row) for row in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            known = {"query": f"q{number % 3}"}
            row.update({"metadata": known} if key == "query_id" else known)
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    assert not ended.value.code
    said = capsys.readouterr().out
    for head in ("LDS half", "QLD without", "recall@10", "without a source", "seconds", "peak"):
        assert head in said, said
    for row in ("ekfac", "bm25", "gradient_product", "hidden_state", "random", "noise ceiling"):
        assert f"\n{row}" in said, said
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert len(found["methods"]) == 6
    assert (tmp_path / "run" / "evaluation.html").is_file()


def test_the_promises_name_tests_that_there_are() -> None:
    promises = (ROOT / "README.md").read_text().partition("## What it promises")[2]
    rows = promises.partition("Exit codes")[0].splitlines()[4:]
    named = [place for row in rows for place in re.findall(r"`(tests/[^`]+)`", row)]
    assert len(named) > 15
    assert [place for place in named if not list(ROOT.glob(place))] == []


@pytest.mark.deploy
@pytest.mark.timeout(300)
def test_job(tmp_path: Path) -> None:
    """Ray's ports and folders are moved aside, and its processes ended by their ids instead of
    by `ray stop`, which would end every Ray on the machine."""
    config = tiny_run(tmp_path, runner={"name": "ray"})
    (tmp_path / ".demo").mkdir()
    (tmp_path / ".demo" / "job.yaml").write_text(config.model_dump_json())
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    (tmp_path / ".gitignore").write_text(".venv\n.demo/\n")
    dashboard, gcs, agent, client = (free_port() for _ in range(4))
    # Names of Unix sockets are short, and pytest's folders are deep.
    ray_folder = tempfile.mkdtemp(prefix="ri-")
    commands = [line for line in snippet("job").splitlines() if line != "ray stop"]
    script = "\n".join(commands).replace("8265", str(dashboard))
    script = script.replace(
        "ray start --head",
        f"ray start --head --temp-dir={ray_folder} --port={gcs} --dashboard-port={dashboard} "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client}",
    )
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    # A job server that has just started may have no agent yet; Ray's client then gives up.
    script = script.replace("ray job submit", "for try in 1 2 3 4 5; do ray job submit") + (
        " && exit 0; sleep 3; done; exit 1"
    )
    try:
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        end_processes(str(token))
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert list((tmp_path / "run" / "results").glob("*/ekfac.parquet"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def end_processes(marker: str) -> None:
    """End the processes whose environment names our token, and only those."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    about = (process / "environ").read_bytes()
                except OSError:
                    continue
                if marker.encode() in about:
                    os.kill(int(process.name), number)
        time.sleep(2)
