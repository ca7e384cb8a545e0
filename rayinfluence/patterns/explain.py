"""Questions to a model: the pattern of each token, and what groups of questions have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import QueryError
from rayinfluence.guest import own_arithmetic
from rayinfluence.model.foreign import in_words
from rayinfluence.patterns.anatomy import Anatomy
from rayinfluence.patterns.baselines import (
    attention_of,
    attention_paths,
    by_chance,
    by_conductance,
)
from rayinfluence.patterns.compression import Kept, averages, compressed_values, values
from rayinfluence.patterns.found import Compressed, Flowing, Found, Group, entropies
from rayinfluence.patterns.line import Line, Shares
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.refine import refined
from rayinfluence.patterns.trace import ends, value_of

#: How often nodes are drawn by chance, and the seed of the draws.
_DRAWS, _SEED = 5, 0
#: What to do where a model's own code fails.
_ADVICE = "Fewer `--points` take less memory; or name another model."
#: Prints a line.
Say = Callable[[str], None]


@own_arithmetic()
def explain(
    model: nn.Module,
    anatomy: Anatomy,
    questions: Sequence[Question],
    baseline: tuple[Tensor, str],
    points: int,
    is_causal: bool,
    say: Say,
) -> Found:
    """Patterns of all questions, and the compression test over those that are alike.

    Args:
        model: frozen, in evaluation mode.
        anatomy: of it.
        questions: that are asked.
        baseline: what lines begin at [D], and what that is in words.
        points: of each line.
        is_causal: whether tokens see those before them alone.
        say: is told when a question is done.

    Raises:
        QueryError: nothing of a text differs from the baseline.
        NumericsError: ways through a block do not add up.
    """
    flowing: list[Flowing] = []
    shares: list[Shares] = []
    for number, question in enumerate(questions, start=1):
        found, parted = flow_of(model, anatomy, question, baseline[0], points)
        flowing.append(found)
        shares.append(parted)
        say(f"query {number} of {len(questions)}: {question.query_id}")
    alike: dict[tuple[int, int, tuple[int, ...]], list[int]] = defaultdict(list)
    for number, one in enumerate(flowing):
        starts = tuple(pattern.start for pattern in one.patterns)
        alike[len(one.question.tokens), one.question.position, starts].append(number)
    groups = [
        _group(
            model,
            anatomy,
            [flowing[one] for one in numbers],
            [shares[one] for one in numbers],
            is_causal,
        )
        for numbers in alike.values()
    ]
    return Found(type(model).__name__, baseline[1], points, tuple(flowing), tuple(groups))


def flow_of(
    model: nn.Module, anatomy: Anatomy, question: Question, baseline_D: Tensor, points: int
) -> tuple[Flowing, Shares]:
    """What flows in one question, and how it is parted at each depth."""
    with in_words(model, "be followed along a line", _ADVICE):
        line = Line(model, anatomy, question, baseline_D, points)
    if not line.starts:
        raise QueryError(
            f"query {question.query_id!r} holds no token but those that stay as they are, and "
            "those that are the baseline: nothing flows. Give it a text."
        )
    start_TD, step_TD = ends(model, question, baseline_D)
    with torch.no_grad(), in_words(model, "be followed along a line", _ADVICE):
        at_ends = torch.stack([start_TD, start_TD + step_TD])
        before, after = value_of(model, question, at_ends).tolist()
        patterns = refined(line)
    shares = line.shares
    by_skip = shares.skips_LT.sum(1)
    by_heads = shares.heads_LTH.sum((1, 2))
    of_skip, of_heads = np.abs(shares.skips_LT).sum(1), np.abs(shares.heads_LTH).sum((1, 2))
    flowing = Flowing(
        question,
        after,
        before,
        patterns,
        tuple(by_skip.tolist()),
        tuple(by_heads.tolist()),
        tuple(
            float(a / (a + b)) if a + b else None for a, b in zip(of_skip, of_heads, strict=True)
        ),
    )
    return flowing, shares


def _group(
    model: nn.Module,
    anatomy: Anatomy,
    flowing: Sequence[Flowing],
    shares: Sequence[Shares],
    is_causal: bool,
) -> Group:
    first = flowing[0].question
    whole, tokens = entropies(flowing)
    return Group(
        len(first.tokens),
        first.position,
        tuple(one.question.query_id for one in flowing),
        float(np.mean([one.value > 0 for one in flowing])),
        len({(one.question.right, one.question.wrong) for one in flowing}) == 1,
        whole,
        tokens,
        tuple(_compressed(model, anatomy, flowing, shares, is_causal)) if len(flowing) > 1 else (),
    )


def _compressed(
    model: nn.Module,
    anatomy: Anatomy,
    flowing: Sequence[Flowing],
    shares: Sequence[Shares],
    is_causal: bool,
) -> list[Compressed]:
    """The compression test of a group: by each method, at both levels, with both stand-ins."""
    group = [one.question for one in flowing]
    with torch.no_grad():
        whole = values(model, group) > 0
    on_average = averages(model, anatomy, group)
    found: list[Compressed] = []
    for method, draws in _kept(model, anatomy, flowing, shares, is_causal).items():
        for level in ("tokens", "ways"):
            kept = [
                [one.with_all_ways() if level == "tokens" else one for one in draw]
                for draw in draws
            ]
            nodes = np.mean([_nodes(one, level) for draw in draws for one in draw])
            for name, others in (("averages", on_average), ("zeros", on_average.zeros())):
                right = np.stack(
                    [compressed_values(model, anatomy, group, one, others) > 0 for one in kept]
                )
                accuracy, agreement = float(right.mean()), float((right == whole).mean())
                found.append(Compressed(method, level, name, float(nodes), accuracy, agreement))
    return found


def _nodes(kept: Kept, level: str) -> int:
    n_ways = 0 if level == "tokens" else int(kept.n_ways_L.sum())
    return int(kept.n_positions_L.sum()) + n_ways


def _kept(
    model: nn.Module,
    anatomy: Anatomy,
    flowing: Sequence[Flowing],
    shares: Sequence[Shares],
    is_causal: bool,
) -> dict[str, list[list[Kept]]]:
    """The nodes of each question by each method; several draws where chance says which."""
    n_heads = anatomy.n_heads
    patterns, attention, conductance = [], [], []
    chance: list[list[Kept]] = [[] for _ in range(_DRAWS)]
    for number, (one, parted) in enumerate(zip(flowing, shares, strict=True)):
        question = one.question
        n_tokens = len(question.tokens)
        kept = Kept.of_paths([(p.positions, p.ways) for p in one.patterns], n_tokens, n_heads)
        patterns.append(kept)
        paths = attention_paths(
            attention_of(model, question),
            question.position,
            [pattern.start for pattern in one.patterns],
        )
        attention.append(Kept.of_paths(paths, n_tokens, n_heads))
        conductance.append(by_conductance(kept, question, parted))
        for draw, drawn in enumerate(chance):
            generator = np.random.default_rng([_SEED, draw, number])
            drawn.append(by_chance(kept, question, is_causal, generator))
    return {
        "pattern": [patterns],
        "conductance": [conductance],
        "attention": [attention],
        "chance": chance,
    }
