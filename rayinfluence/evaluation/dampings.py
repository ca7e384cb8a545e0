"""``rayinfluence evaluate damping``: one method at several dampings, by the same referees."""

from __future__ import annotations

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.contenders import Contender
from rayinfluence.methods.registry import factors_of


def damped(config: RunConfig) -> tuple[RunConfig, list[Contender]]:
    """The first method that has a damping, as the run has it and at each of some others.

    What is measured is what damping changes: linear datamodeling scores, the size of predicted
    changes, and ranks beside those of the run's damping.

    Args:
        config: with a section ``evaluation``.

    Returns:
        The configuration of that evaluation, and who is measured.

    Raises:
        ConfigError: no method has a damping, or it is an absolute one.
    """
    assert config.evaluation is not None
    scan = config.scan
    method = next((one for one in scan.methods if factors_of(one)), None)
    if method is None:
        raise ConfigError(
            f"evaluate damping: none of scan.methods ({', '.join(scan.methods)}) has factors, and "
            "so a damping. Name one that has, such as ekfac."
        )
    if scan.damping is not None:
        raise ConfigError(
            "scan.damping: it is absolute, and `evaluate damping` tries values of "
            "scan.damping_scale. Leave scan.damping out."
        )
    names = {scale: f"{method} at {scale:g}" for scale in config.evaluation.dampings}
    own = Contender(f"{method} at {scan.damping_scale:g}", method, scan)
    others = [
        Contender(name, method, scan.model_copy(update={"damping_scale": scale}))
        for scale, name in names.items()
        if scale != scan.damping_scale
    ]
    section = config.evaluation.model_copy(
        update={"removal": None, "groups": None, "known": None, "tail_patch": 0}
    )
    return config.model_copy(update={"evaluation": section}), [own, *others]
