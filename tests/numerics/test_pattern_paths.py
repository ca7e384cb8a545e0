"""Patterns of a small network against the list of all its paths, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from two_blocks import N_BLOCKS, N_HEADS, Path, all_paths, influence_of, two_blocks

from rayinfluence.errors import NumericsError
from rayinfluence.patterns.line import SKIP, Line, quadrature
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.refine import refined
from rayinfluence.patterns.trace import ends, value_of

POINTS, POSITION, RIGHT, WRONG = 80, 1, 3, 5
QUESTION = Question("q", (2, 7, 4), ("a", "b", "c"), POSITION, RIGHT, WRONG, (False,) * 3, "", "")


@pytest.fixture(scope="module", params=[0, 1, 2])
def listed(request: pytest.FixtureRequest) -> tuple[Line, dict[Path, float], float]:
    """A network's line, the influence of each of its paths, and by how much Q differs."""
    model, anatomy = two_blocks(request.param)
    baseline = model.embedding.weight.mean(0)
    line = Line(model, anatomy, QUESTION, baseline, POINTS)
    start, step = ends(model, QUESTION, baseline)
    places, weights = quadrature(POINTS)
    along = start + torch.from_numpy(places)[:, None, None] * step
    difference = torch.zeros(model.head.out_features, dtype=torch.float64)
    difference[RIGHT], difference[WRONG] = 1.0, -1.0
    paths = all_paths(model, along, weights, step, POSITION, difference)
    before, after = value_of(model, QUESTION, torch.stack([start, start + step])).tolist()
    return line, paths, after - before


def test_all_paths_add_up_to_the_difference(listed: tuple[Line, dict[Path, float], float]) -> None:
    line, paths, difference = listed
    assert len(paths) == 3**N_BLOCKS * (1 + N_HEADS) ** N_BLOCKS
    assert sum(paths.values()) == pytest.approx(difference, abs=1e-9)
    assert line.shares.positions_LT.sum(1) == pytest.approx([difference] * (N_BLOCKS + 1), abs=1e-9)


def test_every_pattern_is_its_path(listed: tuple[Line, dict[Path, float], float]) -> None:
    line, paths, _ = listed
    largest = max(map(abs, paths.values()))
    for (positions, ways), influence in paths.items():
        assert influence_of(line, positions, ways) == pytest.approx(influence, abs=1e-12 * largest)


def test_tokens_are_all_paths_through_them(listed: tuple[Line, dict[Path, float], float]) -> None:
    line, paths, _ = listed
    for positions in {positions for positions, _ in paths}:
        through = sum(paths[path] for path in paths if path[0] == positions)
        assert influence_of(line, positions) == pytest.approx(through, abs=1e-11)


def test_shares_are_sums_of_paths(listed: tuple[Line, dict[Path, float], float]) -> None:
    """Over all paths that go through a token at a depth, or into one by a way."""
    line, paths, _ = listed
    shares = line.shares
    for depth, position in np.ndindex(shares.positions_LT.shape):
        through = sum(paths[path] for path in paths if path[0][depth] == position)
        assert shares.positions_LT[depth, position] == pytest.approx(through, abs=1e-11)
    for block, position, head in np.ndindex(shares.heads_LTH.shape):
        for way, share in ((head, shares.heads_LTH[..., head]), (SKIP, shares.skips_LT)):
            by_way = sum(
                paths[path]
                for path in paths
                if path[0][block + 1] == position and path[1][block] == way
            )
            assert share[block, position] == pytest.approx(by_way, abs=1e-11)


def test_refinement_is_greedy_over_the_list(listed: tuple[Line, dict[Path, float], float]) -> None:
    line, paths, _ = listed
    for start, found in enumerate(refined(line)):
        here = {path: value for path, value in paths.items() if path[0][0] == start}
        whole = sum(here.values())
        sign = np.sign(whole)
        sums = [
            sign * sum(value for path, value in here.items() if path[0][1] == position)
            for position in range(3)
        ]
        positions = (start, int(np.argmax(sums)), POSITION)
        assert found.positions == positions
        along = {ways: value for (tokens, ways), value in here.items() if tokens == positions}
        ways: tuple[int, ...] = ()
        for block in range(N_BLOCKS):
            by_way = {
                way: sign * sum(v for w, v in along.items() if w[: block + 1] == (*ways, way))
                for way in range(-1, N_HEADS)
                if way != SKIP or positions[block] == positions[block + 1]
            }
            ways += (max(by_way, key=lambda way: by_way[way]),)
        assert found.ways == ways
        assert found.whole == pytest.approx(whole, abs=1e-11)
        assert found.by_positions == pytest.approx(sum(along.values()), abs=1e-11)
        assert found.influence == pytest.approx(along[ways], abs=1e-11)
        # With the sign of the whole, at every step more than the mean: never nothing.
        assert sign * found.by_positions > 0
        assert sign * found.influence > 0


@pytest.mark.parametrize("n", [2, 7, 50])
def test_points_are_exact_for_polynomials(n: int) -> None:
    points, weights = quadrature(n)
    for power in range(2 * n):
        assert weights @ points**power == pytest.approx(1 / (power + 1), rel=1e-12)


def test_what_flows_past_both_ways_is_refused() -> None:
    """As where an MLP beside attention reads what attention reads."""
    model, anatomy = two_blocks()
    block = model.blocks[1]
    block.norm.register_forward_hook(lambda _module, _args, output: setattr(block, "read", output))
    block.behind = lambda middle: middle + 0.5 * block.read
    with pytest.raises(NumericsError, match="through the heads and the skip connection of block 2"):
        Line(model, anatomy, QUESTION, model.embedding.weight.mean(0), POINTS)
