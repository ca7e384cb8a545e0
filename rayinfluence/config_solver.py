"""What refines EK-FAC's inverse for queries: a part of the section of the scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rayinfluence.config_places import Section
from rayinfluence.config_sentences import shown

#: Products that a query takes at most, where nothing is said: of Arnoldi the dimension of the
#: space, of Neumann series with parts of the sample.
_STEPS = {
    "explicit": 0,
    "cg": 100,
    "pcg": 50,
    "astra": 200,
    "lissa": 1000,
    "arnoldi": 100,
    "unrolled": 100,
}
_SERIES = ("astra", "lissa", "unrolled")
_TOLERANCE = 0.01
#: Those of them that know nothing of EK-FAC.
_KOH_LIANG = ("explicit", "cg", "lissa")


class SolverConfig(Section):
    """How (G + lambda I)^-1 of a query's gradient is brought nearer to that than EK-FAC has it.

    Its name stands for it with the rest as it is by default.
    """

    name: Literal["explicit", "cg", "pcg", "astra", "lissa", "arnoldi", "unrolled"] = "pcg"
    """``pcg``: conjugate gradients, preconditioned by EK-FAC; ``cg``: without.

    ``astra``: stochastic Neumann steps from EK-FAC's solution on, preconditioned by EK-FAC;
    ``lissa``: without, from nothing on. ``arnoldi``: in one Krylov space of all queries.
    ``explicit``: the whole matrix, of at most 5,000 tracked weights. ``unrolled``: no inverse, but
    so many steps of a training, gone back through at the weights as they are."""
    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    """Of which products are made. A Hessian with negative curvature that lambda does not make up
    for is refused."""
    sequences: int = Field(default=10_000, ge=1)
    """The sample of the corpus that G is the mean over, drawn at random once for all queries."""
    steps: int | None = Field(default=None, ge=1)
    """Of a query, at most; of ``arnoldi`` the dimension of the space, of ``lissa`` the depth.

    None is 50 of pcg, 100 of cg, arnoldi and unrolled, 200 of astra and 1,000 of lissa."""
    tolerance: float = Field(default=_TOLERANCE, gt=0, lt=1)
    """Of |v - (G + lambda I) x| / |v|: cg and pcg end below it, and a query that ends above it is
    named in a warning."""
    scale: float | None = Field(default=None, gt=0)
    """What steps of ``astra``, ``lissa`` and ``unrolled`` are divided by; None is measured."""
    repeats: int = Field(default=1, ge=1)
    """Runs of ``lissa`` that are averaged."""

    @model_validator(mode="after")
    def _keys_are_of_the_solver(self) -> SolverConfig:
        for key, none, solvers in (("scale", None, _SERIES), ("repeats", 1, ("lissa",))):
            if getattr(self, key) != none and self.name not in solvers:
                raise ValueError(f"{key}: it is of {', '.join(solvers)}, not of {self.name}.")
        if self.name == "unrolled" and self.tolerance != _TOLERANCE:
            raise ValueError("tolerance: steps of unrolled end at none; leave the key out.")
        if self.name == "explicit" and self.steps is not None:
            raise ValueError("steps: an explicit solve has none; leave the key out.")
        return self

    @property
    def most_steps(self) -> int:
        """Of a query."""
        return self.steps or _STEPS[self.name]


def named(solver: Any) -> Any:
    """A solver by its name alone, or as it is."""
    return {"name": solver} if isinstance(solver, str) else solver


def of_koh_liang(solver: Any) -> Any:
    """A solver as :func:`named`, with what Koh and Liang have where nothing is said.

    Raises:
        ValueError: it is none of theirs.
    """
    found = named(solver)
    if not isinstance(found, dict):
        return found
    if (name := found.get("name", "cg")) not in _KOH_LIANG:
        raise ValueError(
            f"name: must be {', '.join(_KOH_LIANG)}, which begin from nothing, not {shown(name)}; "
            "scan.solver has the others."
        )
    return {"name": "cg", "curvature": "hessian", **found}


def refuse_unrefinable(scan: Mapping[str, Any], function: str | None) -> None:
    """See that there is something to refine.

    Args:
        scan: its section, as plain values.
        function: that training maximised, where it is the user's own.

    Raises:
        ValueError: what is missing.
    """
    if "koh_liang" in scan["methods"] and function is not None:
        raise ValueError(
            f"scan.methods: koh_liang solves with products of curvature, which are of "
            f"distributions, and {function} (objective.kind) has none that is known. Take it out."
        )
    if scan["solver"] is None:
        return
    if "ekfac" not in scan["methods"]:
        raise ValueError(
            "scan.solver: it refines ekfac, which is not among scan.methods. Add it, or leave the "
            "solver out."
        )
    if function is not None:
        raise ValueError(
            f"scan.solver: products of curvature are of distributions, and {function} "
            "(objective.kind) has none that is known. Leave the solver out."
        )
    if scan["solver"]["name"] == "unrolled" and isinstance(scan["damping_scale"], list):
        raise ValueError(
            "scan.damping_scale: it is a list, and unrolled (scan.solver) has no lambda, so that "
            "ekfac would have the same scores at each, solved for once for each. Give one value; "
            "other methods have their dampings in a run of their own."
        )
