"""``rayinfluence evaluate damping``: one method at several dampings, by the same referees."""

from __future__ import annotations

from rayinfluence.config import RunConfig
from rayinfluence.config_scored import plain
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.contenders import Contender, alone
from rayinfluence.methods.registry import SELF_METHODS


def damped(config: RunConfig) -> tuple[RunConfig, list[Contender]]:
    """The first method that has a damping, at those that the run has and at each of some others.

    Methods of sequences by themselves are none, as they ask no query.

    What is measured is what damping changes: linear datamodeling scores, the size of predicted
    changes, and ranks beside those of the run's first damping.

    Args:
        config: with a section ``evaluation``.

    Returns:
        The configuration of that evaluation, and who is measured.

    Raises:
        ConfigError: no method has a damping, or it is an absolute one, or a solver has none.
    """
    assert config.evaluation is not None
    scan = config.scan
    asking = [
        (one.method, one.damping_scale)
        for one in scan.scored
        if one.damping_scale is not None and one.method not in SELF_METHODS
    ]
    if not asking:
        raise ConfigError(
            f"evaluate damping: none of scan.methods ({', '.join(scan.methods)}) asks queries and "
            "has a damping. Name one that does, such as ekfac."
        )
    method = asking[0][0]
    if scan.damping is not None:
        raise ConfigError(
            "scan.damping: it is absolute, and `evaluate damping` tries values of "
            "scan.damping_scale. Leave scan.damping out."
        )
    if method == "ekfac" and scan.solver is not None and scan.solver.name == "unrolled":
        raise ConfigError(
            "scan.solver: unrolled has no lambda, so that all dampings would have the same scores. "
            "Leave the solver out, or try numbers of its steps as `evaluation.variants`."
        )
    own = [scale for one, scale in asking if one == method]
    rivals = [
        Contender(f"{method} at {plain(scale)}", method, alone(scan, method, scale))
        for scale in dict.fromkeys([*own, *config.evaluation.dampings])
    ]
    section = config.evaluation.model_copy(
        update={"removal": None, "groups": None, "known": None, "tail_patch": 0}
    )
    return config.model_copy(update={"evaluation": section}), rivals
