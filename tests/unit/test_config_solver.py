"""The solver's section of a configuration."""

from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError

MINIMAL = {"run": "runs/a", "model": "models/a"}


def parsed(scan: Any, **more: Any) -> RunConfig:
    return RunConfig.parse({**MINIMAL, "scan": scan, **more})


def test_there_is_none_unless_it_is_asked_for() -> None:
    assert RunConfig.parse(MINIMAL).scan.solver is None
    assert parsed({"solver": None}).scan.solver is None


@pytest.mark.parametrize("name", ["explicit", "cg", "pcg", "astra", "lissa", "arnoldi", "unrolled"])
def test_its_name_stands_for_it(name: str) -> None:
    """And all that it stands for is read again, as where `--set` changes another key."""
    assert (found := parsed({"solver": name})) == parsed({"solver": {"name": name}})
    assert RunConfig.parse(found.model_dump(mode="json")) == found


def test_steps_are_the_solver_s_own_unless_they_are_set() -> None:
    found = [parsed({"solver": name}).scan.solver for name in ("pcg", "cg", "lissa")]
    assert [one and one.most_steps for one in found] == [50, 100, 1000]
    (solver,) = [parsed({"solver": {"name": "pcg", "steps": 3}}).scan.solver]
    assert solver is not None
    assert solver.most_steps == 3


@pytest.mark.parametrize(
    ("scan", "said"),
    [
        ({"solver": "pgc"}, "scan.solver.name: must be 'explicit', 'cg', 'pcg'"),
        ({"solver": {"nmae": "cg"}}, "unknown key 'scan.solver.nmae'; did you mean 'name'"),
        (
            {"solver": {"name": "cg", "scale": 2}},
            "scale: it is of astra, lissa, unrolled, not",
        ),
        (
            {"solver": {"name": "pcg", "scale": 1}},
            "lissa, unrolled, not of pcg",
        ),
        ({"solver": {"name": "astra", "repeats": 2}}, "repeats: it is of lissa, not of astra"),
        ({"solver": {"name": "unrolled", "tolerance": 0.1}}, "tolerance: steps of unrolled end at"),
        ({"solver": {"name": "explicit", "steps": 2}}, "steps: an explicit solve has none"),
        ({"solver": {"tolerance": 1}}, "scan.solver.tolerance: must be less than 1"),
        (
            {"solver": "unrolled", "damping_scale": [0.1, 1]},
            "scan.damping_scale: it is a list, and unrolled (scan.solver) has no lambda",
        ),
        ({"solver": "pcg", "methods": ["kfac"]}, "refines ekfac, which is not among scan.methods"),
    ],
)
def test_what_is_wrong_is_said(scan: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(scan)
    assert said in str(caught.value)


def test_an_objective_of_one_s_own_has_no_products() -> None:
    with pytest.raises(ConfigError, match=r"mine:loss .* has none that is known"):
        parsed({"solver": "pcg"}, objective={"kind": "mine:loss"}, fit={"labels": "data"})
