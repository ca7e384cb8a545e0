"""Laws that the largest of many scores may follow, each of what lies above a start.

Scores are counted in units of the start, so that they are 1 and more, and each law is cut off
below: its density there is its own over its share above 1. The Weibull law is the stretched
exponential of Clauset, Shalizi & Newman 2009: its share above y is exp(-(y / scale)^shape).
Grosse et al. 2023 compare with its exponentiated form, whose share below y is a power of that of
the Weibull law. GEV is the generalised extreme value law.

N score, P parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
#: Of scores and the parameters, a number for each score.
_Of = Callable[..., Vector]
#: Below it 1 - exp(-t) is t, to 16 digits of its logarithm with the next term.
_SMALL = -18.0


@dataclass(frozen=True)
class Law:
    """A law of positive numbers.

    Attributes:
        name: as people read it.
        starts: parameters from which its fit begins, one after the other; of what is positive
            (rates, scales, shapes but that of GEV, powers and the width) its logarithm.
        log_density: the logarithm of its density, without the cut.
        log_above: the logarithm of its share above, without the cut.
        extends: how many parameters it has beyond a power law, which is a limit of it; 0 where no
            choice of its parameters comes near one.
    """

    name: str
    starts: tuple[tuple[float, ...], ...]
    log_density: _Of
    log_above: _Of
    extends: int = 0


def _exp(log: float) -> float:
    """A parameter of which the logarithm is fitted, infinite where that is too large."""
    return float(np.exp(log))


def _exponential_density(y_N: Vector, rate: float) -> Vector:
    return rate - _exp(rate) * y_N


def _exponential_above(y_N: Vector, rate: float) -> Vector:
    return -_exp(rate) * y_N


def _rayleigh_density(y_N: Vector, scale: float) -> Vector:
    return np.log(y_N) - 2 * scale + _rayleigh_above(y_N, scale)


def _rayleigh_above(y_N: Vector, scale: float) -> Vector:
    return -(y_N**2) * (_exp(-2 * scale) / 2)


def _raised(y_N: Vector, scale: float, shape: float) -> Vector:
    """(y / scale)^shape."""
    return np.exp(_exp(shape) * (np.log(y_N) - scale))


def _weibull_density(y_N: Vector, scale: float, shape: float) -> Vector:
    log_N = np.log(y_N)
    return shape + _exp(shape) * (log_N - scale) - log_N - _raised(y_N, scale, shape)


def _weibull_above(y_N: Vector, scale: float, shape: float) -> Vector:
    return -_raised(y_N, scale, shape)


def _weibull_below(y_N: Vector, scale: float, shape: float) -> Vector:
    u_N = _raised(y_N, scale, shape)
    return np.where(u_N < 0.5, np.log(-np.expm1(-u_N)), np.log1p(-np.exp(-u_N)))


def _exponentiated_density(y_N: Vector, scale: float, shape: float, power: float) -> Vector:
    powers_N = (_exp(power) - 1) * _weibull_below(y_N, scale, shape)
    return _weibull_density(y_N, scale, shape) + power + powers_N


def _exponentiated_above(y_N: Vector, scale: float, shape: float, power: float) -> Vector:
    # 1 - (1 - s)^a of the Weibull law's share s above; a s where that is small.
    above_N = _weibull_above(y_N, scale, shape)
    log_t_N = power + np.log(-_weibull_below(y_N, scale, shape))
    return _one_minus_exp(np.where(above_N < 2 * _SMALL, power + above_N, log_t_N))


def _lognormal_density(y_N: Vector, middle: float, width: float) -> Vector:
    log_N = np.log(y_N)
    z_N = (log_N - middle) / _exp(width)
    return -0.5 * z_N**2 - width - log_N - 0.5 * math.log(2 * math.pi)


def _lognormal_above(y_N: Vector, middle: float, width: float) -> Vector:
    z_N = (np.log(y_N) - middle) / _exp(width)
    import torch  # a report reads what is in this module, and torch takes seconds

    return np.asarray(torch.special.log_ndtr(torch.from_numpy(-z_N)).numpy(), np.float64)


def _gumbel_density(y_N: Vector, place: float, scale: float) -> Vector:
    log_t_N = -(y_N - place) / _exp(scale)
    return log_t_N - np.exp(log_t_N) - scale


def _gumbel_above(y_N: Vector, place: float, scale: float) -> Vector:
    return _one_minus_exp(-(y_N - place) / _exp(scale))


def _log_t(y_N: Vector, place: float, scale: float, shape: float) -> Vector:
    """Of GEV with its share exp(-t) below; NaN outside of its support."""
    z_N = (y_N - place) / _exp(scale)
    return -z_N if abs(shape) < 1e-8 else -np.log1p(shape * z_N) / shape


def _gev_density(y_N: Vector, place: float, scale: float, shape: float) -> Vector:
    log_t_N = _log_t(y_N, place, scale, shape)
    return (1 + shape) * log_t_N - np.exp(log_t_N) - scale


def _gev_above(y_N: Vector, place: float, scale: float, shape: float) -> Vector:
    return _one_minus_exp(_log_t(y_N, place, scale, shape))


def _one_minus_exp(log_t_N: Vector) -> Vector:
    """log(1 - exp(-t)) of the logarithm of t."""
    near = np.minimum(log_t_N, _SMALL)
    far = np.log(-np.expm1(-np.exp(np.maximum(log_t_N, _SMALL))))
    return np.where(log_t_N < _SMALL, near - np.exp(near) / 2, far)


#: What a power law is compared with.
OTHERS = (
    Law("exponential", ((0.0,), (-2.0,)), _exponential_density, _exponential_above),
    Law(
        "stretched exponential (Weibull)",
        ((0.0, 0.0), (-3.0, -1.0), (-8.0, -1.5)),
        _weibull_density,
        _weibull_above,
        1,
    ),
    Law(
        "exponentiated Weibull",
        ((0.0, 0.0, 0.0), (-3.0, -1.0, 0.0), (-1.0, -1.0, 1.0)),
        _exponentiated_density,
        _exponentiated_above,
        2,
    ),
    Law(
        "lognormal",
        ((0.0, 0.0), (-3.0, 0.5), (-12.0, 1.2)),
        _lognormal_density,
        _lognormal_above,
        1,
    ),
    Law("Rayleigh", ((0.0,), (1.0,)), _rayleigh_density, _rayleigh_above),
    Law("Gumbel", ((0.0, 0.0), (-1.0, -1.0)), _gumbel_density, _gumbel_above),
    Law("GEV", ((0.5, -0.5, 0.3), (0.0, -1.0, 0.5), (0.0, 0.0, 0.05)), _gev_density, _gev_above, 2),
)


def power_law_log_density(y_N: Vector, exponent: float) -> Vector:
    """The logarithm of the density of a power law that begins at 1."""
    return math.log(exponent - 1) - exponent * np.log(y_N)
