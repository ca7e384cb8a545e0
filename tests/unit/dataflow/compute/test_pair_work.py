"""Completions have as many parts as a share of the job's multiplications allows."""

from __future__ import annotations

from dataclasses import replace

from rayinfluence.dataflow.compute.pair_work import QueryWork, most_parts
from rayinfluence.model.modules import ModuleShape

SHAPES = [ModuleShape("up", 1024, 4096, True, "up"), ModuleShape("down", 4096, 1024, True, "down")]
#: Of 40 tokens, with ten hits of 512.
QUERY = QueryWork(60, 40, 5120, [5120])


def test_a_large_corpus_allows_all_of_them_and_a_small_one_none() -> None:
    by_size = [most_parts([QUERY] * 10, SHAPES, n, n) for n in (10**3, 10**5, 10**6, 10**8)]
    assert by_size[0] == 0
    assert by_size[-1] == 32
    assert by_size == sorted(by_size)
    assert set(by_size) <= {0, 2, 4, 8, 16, 32}


def test_more_queries_and_more_methods_have_fewer() -> None:
    by_queries = [most_parts([QUERY] * n, SHAPES, 10**7, 0) for n in (1, 20, 60, 1000)]
    assert by_queries == sorted(by_queries, reverse=True)
    assert by_queries[0] > by_queries[-1]
    twice = replace(QUERY, scored=[5120] * 4)
    assert most_parts([twice] * 20, SHAPES, 10**7, 0) < by_queries[1]


def test_what_survived_is_a_part_of_the_job() -> None:
    some = [most_parts([QUERY] * 10, SHAPES, 10**6, 0, n) for n in (0, 10**7, 10**8)]
    assert some == sorted(some)
    assert some[0] < some[-1]


def test_tiny_models_have_all_of_them_whatever_the_corpus() -> None:
    little = [ModuleShape("up", 16, 32, True, "up")]
    assert most_parts([QUERY], little, 1, 0) == 32


def test_a_short_completion_costs_what_its_tokens_do() -> None:
    """What could be more parts than it has tokens is no reason for fewer."""
    short = replace(QUERY, n_counted=2)
    tokens = next(n for n in range(10**5, 10**8, 10**5) if most_parts([short], SHAPES, n, 0))
    assert most_parts([short], SHAPES, tokens, 0) == 32
    assert most_parts([QUERY], SHAPES, tokens, 0) < 32


def test_a_vocabulary_is_not_rotated() -> None:
    wide = ModuleShape("head", 64, 50_000, False, "head")
    diagonal = replace(wide, diagonal="outputs")
    assert most_parts([QUERY], [diagonal], 10**6, 0) > most_parts([QUERY], [wide], 10**6, 0)
