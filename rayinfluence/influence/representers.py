"""Representer points: a last layer that is a sum over what it was fitted to (Yeh et al. 2018).

The last layer is fitted again, with a penalty, to points (f_i, y_i): what it sees at a target, and
the label there.

    J(W) = (1/n) sum_i w_i (-log p(y_i | W f_i)) + l |W|^2

Where the gradient of J is zero, W = sum_i alpha_i f_i^T with

    alpha_i = w_i (e_{y_i} - p_i) / (2 l n)

(their theorem 3.1), so that every logit is a sum over points:

    (W f)_v = sum_i alpha_iv <f_i, f>

Positive: training on the point made the logit larger. Short of stationarity the sum is of another
matrix, W - R with R = grad J / (2 l): so |R| / |W| says how far the sum may be trusted, and R f
exactly how far it is off for one f. A bias is the weight of one more feature, which is 1.

Labels add up to one and so do probabilities: sum_v alpha_iv = 0, and logits are those whose mean
over the classes is zero.

N point, V class, D feature, K asked target, Q query, B sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rayinfluence.curvature.products import accumulation_dtype

#: Numbers of a temporary [n, V].
_TILE_NUMBERS = 1 << 22
#: Steps between two places where a fit may be taken up again, and of how many of these curvature is
#: remembered, at most and at least. All decide bits.
ROUND, _MOST, _LEAST = 50, 50, 5
#: Bytes that it may be remembered in; of a step these are two matrices as large as the weights.
_MEMORY = 1 << 33


@dataclass(frozen=True)
class Points:
    """What the last layer sees.

    Attributes:
        features_ND: f.
        labels_N: y.
        weights_N: w, of each log-probability in what training maximised; None where all are one.
    """

    features_ND: Tensor
    labels_N: Tensor
    weights_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def at(self, chosen_N: Tensor) -> Points:
        """Some of them, by a mask."""
        weights_N = None if self.weights_N is None else self.weights_N[chosen_N]
        return Points(self.features_ND[chosen_N], self.labels_N[chosen_N], weights_N)

    def to(self, device: torch.device) -> Points:
        """The same on a device."""
        weights_N = None if self.weights_N is None else self.weights_N.to(device)
        return Points(self.features_ND.to(device), self.labels_N.to(device), weights_N)

    @property
    def n_bytes(self) -> int:
        """In memory."""
        parts = (self.features_ND, self.labels_N, self.weights_N)
        return sum(one.nbytes for one in parts if one is not None)

    def tiles(
        self, n_classes: int, dtype: torch.dtype = torch.float64
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some at a time, in a dtype: features, labels and weights."""
        step = max(1, _TILE_NUMBERS // n_classes)
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            features_nD, labels_n = self.features_ND[part].to(dtype), self.labels_N[part]
            ones_n = torch.ones_like(features_nD[:, 0])
            weights_n = ones_n if self.weights_N is None else self.weights_N[part].to(dtype)
            yield features_nD, labels_n, weights_n


@dataclass(frozen=True)
class Progress:
    """Where a fit stands.

    Attributes:
        place_VD: the weights, in the coordinates that it works in.
        steps: that it took.
        dtype: that tiles are made in from here on.
    """

    place_VD: Tensor
    steps: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Refit:
    """A last layer that was fitted again.

    Attributes:
        weight_VD: W.
        residual_VD: R.
        l2: l.
        n_points: n.
        steps: that it took.
        loss, loss_before: (1/n) sum_i w_i (-log p), by this layer and by the model's own.
        correlation: of all its logits at all points with the model's own, each less their mean over
            the classes.
    """

    weight_VD: Tensor
    residual_VD: Tensor
    l2: float
    n_points: int
    steps: int
    loss: float
    loss_before: float
    correlation: float

    @property
    def residual(self) -> float:
        """|R| / |W|."""
        return float(self.residual_VD.norm() / self.weight_VD.norm())

    def told(self) -> dict[str, float]:
        """What is said of it."""
        return {
            "l2": self.l2,
            "points": self.n_points,
            "steps": self.steps,
            "residual": self.residual,
            "loss": self.loss,
            "loss_before": self.loss_before,
            "logit_correlation": self.correlation,
        }


def remembered(n_classes: int, width: int) -> int:
    """Of how many steps curvature is remembered, of a layer of so many classes and features."""
    return min(_MOST, max(_LEAST, _MEMORY // (2 * 8 * n_classes * width)))


class LastLayerFit:
    """The fit of a last layer, by L-BFGS in coordinates in which its curvature is about one.

    The Hessian of J is (1/n) sum_i w_i (diag p_i - p_i p_i^T) x f_i f_i^T + 2 l. About it is known
    what is cheap: the eigenbasis of the mean f f^T, and how often each class is a label.

    Args:
        points: some at a time, on one device: gone through once for each value, in the same order
            and parts, which decide bits. They need not be in memory together.
        before_VD: the model's own weights, which it begins from.
        l2: l; None is ``l2_scale`` times half the mean of the Hessian's diagonal without it, as far
            as that is known, so that it depends on no size of features and of the vocabulary.
        l2_scale: the same, relative.
    """

    def __init__(
        self,
        points: Iterable[Points],
        before_VD: Tensor,
        l2: float | None,
        l2_scale: float,
    ) -> None:
        self._points = points
        self.n_points, self._dtype = 0, before_VD.dtype
        # Softmax does not see a number that is added to all classes, and the penalty does.
        self._before_VD = before_VD.double() - before_VD.double().mean(dim=0)
        n_classes, width = before_VD.shape
        gram_DD = self._before_VD.new_zeros(width, width)
        counts_V = self._before_VD.new_zeros(n_classes)
        for some in points:
            self.n_points, self._dtype = self.n_points + len(some), some.features_ND.dtype
            for features_nD, labels_n, weights_n in some.tiles(n_classes):
                gram_DD += features_nD.T @ (features_nD * weights_n[:, None])
                counts_V += torch.bincount(labels_n, minlength=n_classes)
        values_D, self._basis_DD = torch.linalg.eigh(gram_DD / self.n_points)
        # A class that was never a label is one that is seldom thought of.
        shares_V = (counts_V + 1) / (self.n_points + n_classes)
        curvature_VD = (shares_V * (1 - shares_V))[:, None] * values_D.clamp(min=0)
        self.l2 = l2_scale * float(curvature_VD.mean()) / 2 if l2 is None else l2
        self._scale_VD = (curvature_VD + 2 * self.l2).sqrt()

    def begin(self) -> Progress:
        """At the model's own weights, as exactly as features are."""
        place_VD = (self._before_VD @ self._basis_DD) * self._scale_VD
        return Progress(place_VD, 0, accumulation_dtype(self._dtype))

    def run(
        self,
        progress: Progress,
        steps: int,
        tolerance: float,
        keep: Callable[[Progress], None] = lambda progress: None,
        advance: Callable[[int], None] = lambda points: None,
    ) -> Progress:
        """Go on until |R| <= tolerance |W|, or for so many steps in all.

        Args:
            progress: where it stands.
            steps: that it may have taken at the end, at most.
            tolerance: as above.
            keep: told where it stands, whenever it may be taken up again.
            advance: told of points, of each pass over all of them.
        """
        best, residual = self._measured(progress)
        while progress.steps < steps and residual > tolerance:
            place_VD = self._round(progress, advance)
            progress = Progress(place_VD, progress.steps + ROUND, progress.dtype)
            found, residual = self._measured(progress)
            if not found < best:  # no digit is left to be better by
                if progress.dtype == torch.float64:
                    break
                progress = replace(progress, dtype=torch.float64)
                found, residual = self._measured(progress)
            best = found
            keep(progress)
        return progress

    def _round(self, progress: Progress, advance: Callable[[int], None]) -> Tensor:
        """Some steps of L-BFGS that knows nothing of those before."""
        place_VD = torch.nn.Parameter(progress.place_VD.clone())
        optimiser = torch.optim.LBFGS(
            [place_VD],
            max_iter=ROUND,
            max_eval=2 * ROUND,
            history_size=remembered(*place_VD.shape),
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def value() -> float:
            found, gradient_VD = self.value(self._weight(place_VD.detach()), progress.dtype)
            place_VD.grad = (gradient_VD @ self._basis_DD) / self._scale_VD
            advance(self.n_points)
            return found

        optimiser.step(value)
        return place_VD.detach()

    def value(self, weight_VD: Tensor, dtype: torch.dtype = torch.float64) -> tuple[float, Tensor]:
        """J and its gradient [V, D], summed in float64 over tiles that are made in a dtype."""
        n_classes, of_tiles_VD = len(weight_VD), weight_VD.to(dtype)
        total, gradient_VD = 0.0, torch.zeros_like(weight_VD)
        for some in self._points:
            for features_nD, labels_n, weights_n in some.tiles(n_classes, dtype):
                loss_n, errors_nV = _errors(features_nD @ of_tiles_VD.T, labels_n)
                total += float(loss_n.double() @ weights_n.double())
                gradient_VD += (errors_nV * weights_n[:, None]).T @ features_nD
        penalty = self.l2 * float(weight_VD.square().sum())
        return (
            total / self.n_points + penalty,
            gradient_VD / self.n_points + 2 * self.l2 * weight_VD,
        )

    def end(self, progress: Progress, dtype: torch.dtype) -> Refit:
        """The layer, rounded to a dtype, and what it is worth as it is then."""
        weight_VD = self._weight(progress.place_VD).to(dtype).double()
        found, gradient_VD = self.value(weight_VD)
        loss = found - self.l2 * float(weight_VD.square().sum())
        before, _ = self.value(self._before_VD)
        return Refit(
            weight_VD,
            gradient_VD / (2 * self.l2),
            self.l2,
            self.n_points,
            progress.steps,
            loss,
            before - self.l2 * float(self._before_VD.square().sum()),
            self._correlation(weight_VD),
        )

    def _weight(self, place_VD: Tensor) -> Tensor:
        weight_VD: Tensor = (place_VD / self._scale_VD) @ self._basis_DD.T
        return weight_VD

    def _measured(self, progress: Progress) -> tuple[float, float]:
        """J, and |R| / |W|."""
        weight_VD = self._weight(progress.place_VD)
        found, gradient_VD = self.value(weight_VD, progress.dtype)
        length = 2 * self.l2 * float(weight_VD.norm())
        return found, float(gradient_VD.norm()) / length if length else math.inf

    def _correlation(self, weight_VD: Tensor) -> float:
        """By sums over all logits, without any of them: they are W f, and both means are zero."""
        gram_DD = sum(
            features_nD.T @ features_nD
            for some in self._points
            for features_nD, _, _ in some.tiles(len(weight_VD))
        )
        ours_VD, theirs_VD = weight_VD - weight_VD.mean(dim=0), self._before_VD

        def product(left_VD: Tensor, right_VD: Tensor) -> float:
            return float(((left_VD @ gram_DD) * right_VD).sum())

        lengths = product(ours_VD, ours_VD) * product(theirs_VD, theirs_VD)
        return product(ours_VD, theirs_VD) / math.sqrt(lengths) if lengths > 0 else math.nan


def _errors(logits_nV: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(label) [n] and p - e_label [n, V]; takes the logits' memory."""
    normaliser_n1 = logits_nV.logsumexp(dim=1, keepdim=True)
    labels_n1 = labels_n[:, None]
    loss_n = (normaliser_n1 - logits_nV.gather(1, labels_n1))[:, 0]
    errors_nV = logits_nV.sub_(normaliser_n1).exp_()
    errors_nV.scatter_add_(1, labels_n1, -torch.ones_like(normaliser_n1))
    return loss_n, errors_nV


class RepresenterBank:
    """Targets of all queries, beside what their logits are sums of.

    A query asks for a weighted sum of the logits of some of the K targets; values are summed
    likewise.

    Args:
        query_digests: what the queries are, in the order of the Q axis.
        tensors: as :func:`stack_representers` made them, on the device of the points.
        weight_VD: W, there, too.
        l2: l.
        n_points: n.
    """

    def __init__(
        self,
        query_digests: Sequence[str],
        tensors: Mapping[str, Tensor],
        weight_VD: Tensor,
        l2: float,
        n_points: int,
    ) -> None:
        self.query_digests = list(query_digests)
        self._features_KD, self._labels_K = tensors["features"].double(), tensors["labels"]
        self._coefficients_K = tensors["coefficients"].double() / (2 * l2 * n_points)
        self._queries_K = tensors["queries"].cpu()
        self._weight_VD = weight_VD.double()

    def __len__(self) -> int:
        return len(self.query_digests)

    def values(self, points: Points) -> Tensor:
        """Sum over a query's targets k of c_k alpha_{i, v_k} <f_i, f_k> [N, Q], in float64."""
        found = [torch.zeros(0, len(self), dtype=torch.float64)]
        for features_nD, labels_n, weights_n in points.tiles(len(self._weight_VD)):
            logits_nV = features_nD @ self._weight_VD.T
            log_p_nK = logits_nV[:, self._labels_K] - logits_nV.logsumexp(dim=1, keepdim=True)
            errors_nK = (labels_n[:, None] == self._labels_K).double() - log_p_nK.exp()
            values_nK = errors_nK * (features_nD @ self._features_KD.T) * self._coefficients_K
            values_nK *= weights_n[:, None]
            # In one order, whatever the device: on a CPU.
            values_nQ = torch.zeros(len(values_nK), len(self), dtype=torch.float64)
            found.append(values_nQ.index_add_(1, self._queries_K, values_nK.cpu()))
        return torch.cat(found)


def stack_representers(queries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join targets of queries that were made one by one.

    Args:
        queries: of each ``features`` [K, D], ``labels`` [K] and ``coefficients`` [K].

    Returns:
        The same of all, and ``queries``: which they are of.
    """
    joined = {part: torch.cat([one[part] for one in queries]) for part in queries[0]}
    counts = torch.tensor([len(one["labels"]) for one in queries])
    return {**joined, "queries": torch.arange(len(queries)).repeat_interleave(counts)}
