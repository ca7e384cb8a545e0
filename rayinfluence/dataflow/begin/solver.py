"""What a solver needs of model, modules and numbers: refused before a document is read."""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.config import ScanConfig
from rayinfluence.config_solver import SolverConfig
from rayinfluence.curvature.iterative.explicit import MOST_WEIGHTS
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.errors import ConfigError
from rayinfluence.methods.registry import REFINABLE
from rayinfluence.model.product_checks import refuse_no_products


def solvers_of(config: ScanConfig) -> dict[str, SolverConfig]:
    """What queries are refined by, of those methods whose are."""
    found: dict[str, SolverConfig | None] = {
        method: getattr(config, key)
        for method, key in REFINABLE.items()
        if method in config.fitted_for
    }
    return {method: one for method, one in found.items() if one is not None}


def without_pairs(config: ScanConfig) -> str | None:
    """That methods whose queries are refined have no scores by pairs of tokens, where any would."""
    refined = solvers_of(config)
    if not (config.pair_scores and refined):
        return None
    keys = " and ".join(f"scan.{REFINABLE[method]}" for method in refined)
    return (
        f"pair scores  none by {' and '.join(refined)}: queries are refined ({keys}), and each "
        "part of a completion would take a solve of its own; their column is null"
    )


def refuse_unsolvable(
    method: str, settings: SolverConfig, replica: Replica, ordinary: Sequence[int]
) -> None:
    """See that products of curvature can be made, and that a solver can take so many weights.

    Args:
        method: whose queries are solved for.
        settings: of the solver.
        replica: the model, with its numerics.
        ordinary: token ids without a meaning of their own to it.

    Raises:
        ConfigError: products would have too few digits, or there are too many weights.
        ModelError: the model has no such products.
    """
    key = f"scan.{REFINABLE[method]}"
    if replica.numerics.dtype == "bfloat16":
        raise ConfigError(
            f"{key}: products of curvature in bfloat16 have two digits, and a solve needs "
            "more. Set `dtype: float32`, or leave the solver out."
        )
    by_products = "pcg" if method == "ekfac" else "cg"
    weights = sum(shape.n_parameters for shape in replica.shapes.values())
    if settings.name == "explicit" and weights > MOST_WEIGHTS:
        raise ConfigError(
            f"{key}: an explicit solve takes {MOST_WEIGHTS:,} tracked weights, and there are "
            f"{weights:,}. Take {by_products}, which solves the same by products, or track fewer "
            "`modules`."
        )
    refuse_no_products(replica.model, replica.modules, replica.shapes, ordinary, settings.curvature)
