"""Workers of a cluster tokenise the parts of a file into the corpus that one process makes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus.parts import PARTS
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.runners.ray.runner import RayRunner
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.testing import tiny_run
from rayinfluence.testing.cluster import local_ray
from rayinfluence.testing.runs import write_documents

pytestmark = pytest.mark.cluster


def test_parts_that_ray_tokenises_give_the_corpus_of_one_process(
    ray_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(tokenize_files, part_bytes=4000)
    monkeypatch.setattr("rayinfluence.dataflow.run.tokenize_files", small)
    told: list[int] = []
    take = RayRunner.told_tasks

    def listening(self, stage, function, items, advance):
        def heard(n_tokens: int) -> None:
            told.append(n_tokens)
            advance(n_tokens)

        return take(self, stage, function, items, heard)

    monkeypatch.setattr(RayRunner, "told_tasks", listening)
    config = tiny_run(tmp_path)
    file = tmp_path / "large.jsonl"
    write_documents(file, np.random.default_rng(0), 300)
    with file.open("a") as end:
        end.write('{"text": 7}\n{"text": " "}\n')
    found = []
    with local_ray(num_cpus=3):
        for name, runner in (("inline", {}), ("ray", {"name": "ray", "actors": 2})):
            values = config.model_dump()
            values["run"] = str(tmp_path / name)
            values["corpus"] |= {"documents": [str(file)], "shard_tokens": 400}
            values["runner"] |= runner
            with Run(RunConfig.parse(values)) as run:
                corpus = run.tokenize()
            folders = (PARTS, "shards", "fragments", "surveys", "quarantine")
            keys = [key for folder in folders for key in corpus.store.list(folder)]
            found.append((corpus.manifest, {key: corpus.store.read(key) for key in keys}))
    manifest, objects = found[0]
    assert found[0] == found[1]
    assert len([key for key in objects if key.startswith(PARTS)]) > 4
    assert (manifest.total("n_bad"), manifest.total("empty_documents")) == (1, 1)
    # All tokens are told of, though two workers tell.
    assert sum(told) == sum(g.n_tokens for s in manifest.shards for g in s.row_groups)
