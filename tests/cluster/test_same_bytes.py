"""One actor, two actors and no Ray at all give the same bytes, in factors and in results."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run
from rayinfluence.testing.runs import write_documents

pytestmark = pytest.mark.cluster

SCAN = {
    "methods": [
        "ekfac",
        "kfac",
        "diagonal",
        "gradient_product",
        "cosine",
        "bm25",
        "tfidf",
        "self_influence",
    ]
}
#: Runs a configuration with Ray unimportable.
WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
with Run(RunConfig.load(sys.argv[1])) as run:
    run.all()
"""


def committed(config: RunConfig) -> dict[str, bytes]:
    """Everything that a run commits and that holds numbers, by key."""
    root = Path(config.run)
    kept = (
        "modules/",
        "eigen/",
        "lane-",
        "counts/",
        "partials/",
        "queries/",
        "rescored/",
        "results/",
    )
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".safetensors", ".parquet") and any(k in str(path) for k in kept)
    }


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("inline")
    config = tiny_run(folder, scan=SCAN)
    (folder / "run.yaml").write_text(config.model_dump_json())
    command = [sys.executable, "-c", WITHOUT_RAY, str(folder / "run.yaml")]
    subprocess.run(command, check=True, timeout=120)
    return committed(config)


#: Below these the driver does by itself what workers do otherwise.
FEW = (
    "counts._FEW_TOKENS",
    "gathering._FEW_TOKENS",
    "pair_pass._FEW_ITEMS",
    "second_pass._FEW_ITEMS",
    "tables._FEW_ROWS",
)


@pytest.mark.parametrize("actors", [1, 2])
def test_ray_equals_inline(
    actors: int,
    inline: dict[str, bytes],
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if actors == 2:
        for name in FEW:
            monkeypatch.setattr(f"rayinfluence.dataflow.stages.{name}", -1)
    config = tiny_run(tmp_path, scan=SCAN, runner={"name": "ray", "actors": actors})
    with Run(config) as run:
        run.all()
    found = committed(config)
    assert found.keys() == inline.keys()
    assert sum(key.count("partials/") for key in found) >= len(SCAN["methods"]) * 4
    assert any(key.startswith("counts/") for key in found)
    assert any(key.endswith(".pairs.safetensors") for key in found)
    different = [key for key in found if found[key] != inline[key]]
    assert different == []


def test_files_that_ray_tokenises_side_by_side_have_the_ordinals_of_one_process(
    ray_cluster: None, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path)
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(8):
        # The first take the longest.
        write_documents(folder / f"{number}.jsonl", np.random.default_rng(number), 400 // 2**number)
    found = []
    for name, runner in (("inline", {}), ("ray", {"name": "ray", "actors": 2})):
        values = config.model_dump()
        values["run"] = str(tmp_path / name)
        values["corpus"] |= {"documents": [str(folder)], "shard_tokens": 400}
        values["runner"] |= runner
        with Run(RunConfig.parse(values)) as run:
            corpus = run.tokenize()
        assert len(corpus.manifest.files) == 8
        assert len(corpus.manifest.shards) > 20
        found.append(
            (corpus.manifest, {k: corpus.store.read(k) for k in corpus.store.list("shards")})
        )
    assert found[0] == found[1]


def test_a_worker_s_error_comes_home_as_itself(ray_cluster: None, tmp_path: Path) -> None:
    from rayinfluence.errors import StageError, StorageError

    config = tiny_run(tmp_path, runner={"name": "ray"})
    with Run(config) as run:
        run.tokenize()
        shard = next((tmp_path / "run" / "corpus" / "shards").iterdir())
        whole = shard.read_bytes()
        run.fit()
        shard.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(
            StageError, match=r"4 of \d+ splits could not be scored.*cannot be used"
        ):
            run.scan()
        shard.unlink()
        with pytest.raises(StorageError, match=f"{shard.name} does not exist"):
            run.scan()


def test_workers_that_die_before_they_are_ready_end_the_stage(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayinfluence.dataflow.runners.ray import runner as cluster
    from rayinfluence.errors import StageError

    # All of it is inside, since workers cannot import this module.
    class Heavy:
        stage = "covariance"

        def prepare(self, replica: object) -> None:
            import os

            os._exit(1)  # as one that is out of memory

    monkeypatch.setattr(cluster, "_FALSE_STARTS", 1)
    config = tiny_run(tmp_path, runner={"name": "ray"})
    with Run(config) as run, pytest.raises(StageError, match="covariance: 2 workers in a row died"):
        list(run.runner.replicas(Heavy(), [1], lambda tokens: None))
