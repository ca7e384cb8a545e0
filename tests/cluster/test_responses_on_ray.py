"""Responses are items like others: on Ray they have the bytes that one process gives them."""

from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.layout import EVALUATION
from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.pbrf.report import pbrf_report
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.cluster


def test_responses_have_the_same_bytes_on_ray(ray_cluster: None, tmp_path: Path) -> None:
    config = tiny_run(
        tmp_path,
        20,
        scan={"methods": ["ekfac"], "damping_scale": 1000.0},
        modules=["transformer.h.0.mlp.*"],
    )
    found = []
    for runner in ("inline", "ray"):
        values = config.model_dump() | {"run": str(tmp_path / runner)}
        values["runner"] |= {"name": runner}
        other = RunConfig.parse(values)
        with Run(other) as run:
            report = pbrf_report(run, 5, 2)
        store = Store(other.run) / EVALUATION
        found.append({key: store.read(key) for key in store.list()})
        assert report.responses_ZQ.shape == (5, 2)
    assert len(found[0]) == 5
    assert found[0] == found[1]
