"""Solvers against each other and against a dense solve, on a tiny model, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from cases import MLP, Case, token_sequences
from harness import encoded, fit_factors, make_replica, operator_of
from torch import Tensor

from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver as Solver
from rayinfluence.curvature.iterative.solvers import solve
from rayinfluence.curvature.iterative.system import State, System, advance, begin, wanted
from rayinfluence.curvature.iterative.vectors import Vectors, flat, unflat
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.errors import NumericsError
from rayinfluence.model.batches import make_batch
from rayinfluence.model.curvature_products import Curvature, curvature_products
from rayinfluence.model.targets import NextTokens

#: Of which every six sequences are a part.
SAMPLE = token_sequences(4, (9, 5, 7, 3, 8, 6) * 4)
EXACT = ["explicit", "cg", "pcg", "arnoldi"]


@dataclass
class Problem:
    """G + lambda I of a model, gradients of queries, and how often products were asked for."""

    matrices: list[Tensor]
    gradients: list[dict[str, Tensor]]
    operator: dict[str, EKFAC]

    @property
    def system(self) -> System:
        inverses = {name: one.inverse() for name, one in self.operator.items()}
        return System(
            {name: one.damping for name, one in self.operator.items()},
            lambda v: {name: self.operator[name] @ one for name, one in v.items()},
            lambda v: {name: inverses[name] @ one for name, one in v.items()},
            n_parts=len(self.matrices),
            sizes={name: 1 + place for place, name in enumerate(sorted(inverses))},
        )

    def products(self, directions: Sequence[Vectors], part: int | None) -> list[Vectors]:
        some = self.matrices if part is None else [self.matrices[part]]
        mean_DD = torch.stack(some).mean(dim=0)
        return [unflat(mean_DD @ flat(one), one) for one in directions]

    @property
    def damped(self) -> Tensor:
        """[D, D]."""
        like = self.gradients[0]
        lambdas = {k: torch.full_like(v, self.operator[k].damping) for k, v in like.items()}
        return torch.stack(self.matrices).mean(dim=0) + torch.diag(flat(lambdas))

    def solved(self) -> list[Tensor]:
        return [torch.linalg.solve(self.damped, flat(one)) for one in self.gradients]

    def solve(self, solver: Solver) -> list[State]:
        return solve(solver, self.system, self.gradients, self.products)


def made(folder: Path, curvature: Curvature, damping: float | None = None) -> Problem:
    replica = make_replica(Case("mlp", MLP.model, ("inner", "plain")))
    factors = fit_factors(replica, SAMPLE, folder)
    gradients = []
    for tokens, first in zip(token_sequences(1, (6, 8)), (1, 5), strict=True):
        rows = query_gradient(replica, encoded(tokens, first)).tokens
        gradients.append(
            {
                name: torch.cat(
                    [
                        grads_TO.T @ inputs_TI,
                        *([grads_TO.sum(0)[:, None]] * replica.shapes[name].bias),
                    ],
                    dim=1,
                )
                for name, (inputs_TI, grads_TO) in rows.items()
            }
        )
    size = len(flat(gradients[0]))
    units = [unflat(unit_D, gradients[0]) for unit_D in torch.eye(size, dtype=torch.float64)]
    matrices = []
    for start in range(0, len(SAMPLE), 6):
        batch = make_batch(SAMPLE[start : start + 6], range(6), replica.device)
        targets = NextTokens().targets(batch)
        told = replica.model, replica.modules, batch, targets, units, curvature
        matrices.append(torch.stack([flat(one) for one in curvature_products(*told)]) / 6)
    operator = {
        name: one if damping is None else EKFAC(one.factors, name, damping=damping)
        for name, one in operator_of(factors).items()
    }
    return Problem(matrices, gradients, operator)


@pytest.fixture(scope="module")
def gauss_newton(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return made(tmp_path_factory.mktemp("gauss_newton"), "gauss_newton")


def error(found: State, expected_D: Tensor) -> float:
    return float((flat(found.vector("solution")) - expected_D).norm() / expected_D.norm())


@pytest.mark.parametrize("name", EXACT)
def test_they_give_what_a_dense_solve_gives(gauss_newton: Problem, name: str) -> None:
    """Arnoldi at the dimension of all weights."""
    found = gauss_newton.solve(Solver(name, steps=2000, tolerance=1e-9))
    for one, expected_D in zip(found, gauss_newton.solved(), strict=True):
        assert error(one, expected_D) <= 1e-6
        assert 0 < one.history[-1] <= 1e-8 < 1e-3 < one.history[0]


def test_the_residual_that_comes_first_is_of_ekfac_s_solution(gauss_newton: Problem) -> None:
    (first, _) = gauss_newton.solve(Solver("pcg", steps=3, tolerance=1e-9))
    gradient = gauss_newton.gradients[0]
    solution = {k: gauss_newton.operator[k].inverse() @ one for k, one in gradient.items()}
    residual_D = flat(gradient) - gauss_newton.damped @ flat(solution)
    assert first.history[0] == pytest.approx(float(residual_D.norm() / flat(gradient).norm()))
    assert first.steps == 3
    # One of EK-FAC's solution, three steps, and the one that ends it.
    assert (len(first.history), first.passes) == (5, 5)
    residual_D = flat(gradient) - gauss_newton.damped @ flat(first.vector("solution"))
    assert first.history[-1] == pytest.approx(float(residual_D.norm() / flat(gradient).norm()))


def test_ekfac_as_a_preconditioner_brings_the_first_steps_further(gauss_newton: Problem) -> None:
    plain, preconditioned = (gauss_newton.solve(Solver(name, steps=10)) for name in ("cg", "pcg"))
    for one, other in zip(preconditioned, plain, strict=True):
        assert one.history[-1] < 0.7 * other.history[-1]


def test_the_residual_of_astra_falls(gauss_newton: Problem) -> None:
    expected = gauss_newton.solved()
    for one, expected_D in zip(gauss_newton.solve(Solver("astra", 200)), expected, strict=True):
        assert one.history[-1] < 0.25 * one.history[0]
        assert error(one, expected_D) < 0.25


def test_astra_with_one_part_goes_to_the_solution(gauss_newton: Problem) -> None:
    whole = Problem(
        [torch.stack(gauss_newton.matrices).mean(dim=0)],
        gauss_newton.gradients,
        gauss_newton.operator,
    )
    for one, expected_D in zip(whole.solve(Solver("astra", 2000)), whole.solved(), strict=True):
        assert error(one, expected_D) <= 1e-4


@pytest.mark.parametrize("parts", ["one", "all"])
def test_unrolled_steps_are_those_of_a_descent_from_the_gradient(
    gauss_newton: Problem, parts: str
) -> None:
    """(I - C^-1 G_j / s) ... C^-1 v / s, summed over so many steps and one, without lambda."""
    matrices = gauss_newton.matrices
    if parts == "one":
        matrices = [torch.stack(matrices).mean(dim=0)]
    problem = Problem(matrices, gauss_newton.gradients, gauss_newton.operator)
    system = replace(problem.system, damping=dict.fromkeys(problem.operator, 0.0))
    gradient = problem.gradients[0]
    metric_D = flat(
        system.times_metric("sizes", {k: torch.ones_like(v) for k, v in gradient.items()})
    )
    assert len(metric_D.unique()) > 1
    order: list[int] = []

    def products(directions: Sequence[Vectors], part: int | None) -> list[Vectors]:
        order.extend([] if part is None else [part])
        return problem.products(directions, part)

    solver = Solver("unrolled", steps=7, scale=3.0)
    assert not solver.is_damped
    (found,) = solve(solver, system, [gradient], products)
    step_D = flat(gradient) / metric_D / 3.0
    expected_D = step_D
    for part in order:
        expected_D = expected_D + step_D - matrices[part] @ expected_D / metric_D / 3.0
    assert len(order) == 7
    assert set(order) == set(range(len(matrices)))
    assert error(found, expected_D) <= 1e-12
    left_D = flat(gradient) - torch.stack(matrices).mean(dim=0) @ expected_D
    assert found.history[-1] == pytest.approx(float(left_D.norm() / flat(gradient).norm()))


def test_a_part_without_curvature_is_no_trouble_to_steps_without_lambda(
    gauss_newton: Problem,
) -> None:
    """The scale is that of the others; where no part has any, there is none, and it is said."""
    nothing = torch.zeros_like(gauss_newton.matrices[0])
    for matrices in ([nothing, *gauss_newton.matrices], [nothing]):
        problem = Problem(matrices, gauss_newton.gradients, gauss_newton.operator)
        system = replace(problem.system, damping=dict.fromkeys(problem.operator, 0.0))
        steps = Solver("unrolled", steps=12)
        if len(matrices) > 1:
            (found, _) = solve(steps, system, problem.gradients, problem.products)
            assert 0 < found.history[-1] < 1
        else:
            with pytest.raises(NumericsError, match="curvature of 0 in some direction"):
                solve(steps, system, problem.gradients, problem.products)


def test_of_a_hessian_steps_are_not_told_to_be_damped(tmp_path: Path) -> None:
    problem = made(tmp_path, "hessian", damping=1e-3)
    system = replace(problem.system, damping=dict.fromkeys(problem.operator, 0.0))
    with pytest.raises(NumericsError, match=r"of a Hessian take `curvature: gauss_newton`"):
        solve(Solver("unrolled", steps=2000), system, problem.gradients, problem.products)


@pytest.mark.runs
def test_unrolled_steps_without_end_are_the_inverse_where_there_is_one(
    gauss_newton: Problem,
) -> None:
    """Of G + lambda I in the place of G, whose scale is measured in C."""
    whole = Problem(
        [torch.stack(gauss_newton.matrices).mean(dim=0)],
        gauss_newton.gradients,
        gauss_newton.operator,
    )
    (first, _) = whole.solve(Solver("unrolled", steps=6000))
    assert error(first, whole.solved()[0]) <= 1e-5


def test_lissa_diverges_loudly_with_a_scale_that_is_too_small(gauss_newton: Problem) -> None:
    largest = float(torch.linalg.eigvalsh(gauss_newton.damped)[-1])
    with pytest.raises(NumericsError, match=r"lissa diverges: at step \d+ .* Raise `scale`"):
        gauss_newton.solve(Solver("lissa", steps=500, scale=0.3 * largest))


def test_a_series_of_a_measured_scale_that_diverges_is_not_told_to_measure(
    tmp_path: Path,
) -> None:
    problem = made(tmp_path, "hessian", damping=1e-3)
    with pytest.raises(NumericsError, match=r"diverges: .* That was measured, .* `scale: [0-9]"):
        problem.solve(Solver("lissa", steps=2000))


@pytest.mark.parametrize("measured", [True, False])
def test_lissa_converges_with_a_right_scale(gauss_newton: Problem, measured: bool) -> None:
    """As far as its steps are random; runs that are averaged come nearer."""
    scale = None if measured else 2 * float(torch.linalg.eigvalsh(gauss_newton.damped)[-1])
    expected_D = gauss_newton.solved()[0]
    once, often = (
        error(gauss_newton.solve(Solver("lissa", 600, scale=scale, repeats=n))[0], expected_D)
        for n in (1, 4)
    )
    assert often < once < 0.15


def test_lissa_on_all_of_the_sample_goes_to_the_solution(gauss_newton: Problem) -> None:
    whole = Problem(
        [torch.stack(gauss_newton.matrices).mean(dim=0)],
        gauss_newton.gradients,
        gauss_newton.operator,
    )
    (first, _) = whole.solve(Solver("lissa", steps=4000))
    assert error(first, whole.solved()[0]) <= 1e-6


def test_a_small_krylov_space_does_not_make_it_worse(gauss_newton: Problem) -> None:
    """In the norm of G + lambda I, which it minimises in."""
    damped_DD, expected_D = gauss_newton.damped, gauss_newton.solved()[0]

    def energy(solution_D: Tensor) -> float:
        away_D = solution_D - expected_D
        return float(away_D @ damped_DD @ away_D)

    gradient = gauss_newton.gradients[0]
    start = {k: gauss_newton.operator[k].inverse() @ one for k, one in gradient.items()}
    energies = [energy(flat(start))]
    for steps in (5, 40, 150):
        (first, _) = gauss_newton.solve(Solver("arnoldi", steps=steps))
        energies.append(energy(flat(first.vector("solution"))))
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize("name", EXACT)
def test_negative_curvature_is_refused_with_what_would_do(tmp_path: Path, name: str) -> None:
    """Of a Hessian with little damping; with enough of it all agree."""
    problem = made(tmp_path, "hessian", damping=1e-3)
    lowest = float(torch.linalg.eigvalsh(problem.damped)[0])
    assert lowest < 0
    with pytest.raises(NumericsError, match=r"curvature: gauss_newton.*scan\.damping"):
        problem.solve(Solver(name, steps=2000, tolerance=1e-9))
    enough = 1e-3 - 2 * lowest
    operator = {k: EKFAC(one.factors, k, damping=enough) for k, one in problem.operator.items()}
    problem = Problem(problem.matrices, problem.gradients, operator)
    found = problem.solve(Solver(name, steps=2000, tolerance=1e-9))
    for one, expected_D in zip(found, problem.solved(), strict=True):
        assert error(one, expected_D) <= 1e-6


@pytest.mark.parametrize("name", [*EXACT, "astra", "lissa", "unrolled"])
def test_the_solution_of_nothing_is_nothing(gauss_newton: Problem, name: str) -> None:
    nothing = {name: torch.zeros_like(one) for name, one in gauss_newton.gradients[0].items()}
    (found,) = Problem(gauss_newton.matrices, [nothing], gauss_newton.operator).solve(
        Solver(name, steps=5)
    )
    assert (found.steps, found.passes, found.history) == (0, 0, (0, 0))
    assert float(flat(found.vector("solution")).norm()) == 0


@pytest.mark.parametrize("name", [*EXACT, "astra", "lissa", "unrolled"])
def test_a_solve_goes_on_from_what_was_stored(gauss_newton: Problem, name: str) -> None:
    """With the bits that it would have had."""
    solver = Solver(name, steps=12, tolerance=1e-9, repeats=2 if name == "lissa" else 1)
    system, gradient = gauss_newton.system, gauss_newton.gradients[0]
    expected = solve(solver, system, [gradient], gauss_newton.products)[0]

    def through(phases, state: State) -> State:  # type: ignore[no-untyped-def]
        state = begin(system, phases, state)
        while (asked := wanted(system, phases, state)) is not None:
            made = gauss_newton.products(asked.directions, asked.part)
            state = State.stored(dict(state.tensors), state.header())
            state = advance(system, phases, state, made)
        return state

    first = State().vectors(gradient=gradient)
    prepared = through(phases, first) if (phases := solver.preparation()) else None
    found = through(solver.phases(system, prepared), first)
    assert found.header() == expected.header()
    assert all(torch.equal(found.tensors[key], expected.tensors[key]) for key in expected.tensors)
