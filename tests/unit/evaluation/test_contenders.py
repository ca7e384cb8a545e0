"""Who is measured: the methods of a configuration, its variants, and baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.dampings import damped


def configured(scan: dict[str, Any], **evaluation: Any) -> RunConfig:
    return RunConfig.parse(
        {"run": "r", "model": "m", "queries": "q.jsonl", "scan": scan, "evaluation": evaluation}
    )


def test_baselines_stand_beside_methods_each_once() -> None:
    found = contenders(configured({"methods": ["bm25", "ekfac", "self_influence"]}))
    assert [one.name for one in found] == [
        *("bm25", "ekfac", "gradient_product", "cosine", "hidden_state", "random"),
    ]
    assert [one.needs for one in found] == [
        ("texts",),
        ("factors", "gradients"),
        ("gradients",),
        ("gradients",),
        ("hidden states",),
        (),
    ]
    assert [one.predicts(None) for one in found] == [False, True, False, False, False, False]
    assert not found[1].predicts("mine:function")


def test_a_variant_is_a_method_with_other_settings() -> None:
    variants = {
        "low": {"damping_scale": 0.01},
        "product at 4": {"methods": ["gradient_product"], "rank": 4},
    }
    found = {
        one.name: one
        for one in contenders(configured({"methods": ["ekfac"], "rank": 8}, variants=variants))
    }
    low, product = found["low"], found["product at 4"]
    assert low.scan is not None
    assert (low.method, low.scan.damping_scale, low.scan.rank) == ("ekfac", 0.01, 8)
    assert product.scan is not None
    assert (product.method, product.scan.rank) == ("gradient_product", 4)


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"a": {"dampng_scale": 1}}, "evaluation.variants.a: unknown key 'scan.dampng_scale'"),
        ({"a": {"damping_scale": -1}}, "evaluation.variants.a: scan.damping_scale"),
        (
            {"a": {"methods": ["ekfac", "bm25"]}},
            "evaluation.variants.a: it is scored by ekfac, bm25",
        ),
        ({"a": {"damping_scale": [1, 0.1]}}, "evaluation.variants.a: .* ekfac@1, ekfac@0.1"),
        ({"a": {"methods": ["self_influence"]}}, "method that asks queries"),
        ({"random": {"damping_scale": 1}}, "'random' is what a method or a baseline is called"),
    ],
)
def test_a_variant_that_is_none_is_refused(variants: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        contenders(configured({"methods": ["ekfac"]}, variants=variants))


def test_each_damping_of_a_list_is_measured() -> None:
    config = configured({"methods": ["ekfac", "bm25"], "damping_scale": [1, 0.01]})
    found = {one.name: one for one in contenders(config)}
    assert list(found)[:3] == ["ekfac@1", "ekfac@0.01", "bm25"]
    alone = found["ekfac@0.01"].scan
    assert alone is not None
    assert (alone.methods, alone.damping_scale) == (["ekfac"], 0.01)


def test_dampings_are_the_run_s_and_others() -> None:
    config = configured(
        {"methods": ["bm25", "kfac"], "damping_scale": 0.01}, dampings=[1, 0.01, 0.1], removal={}
    )
    asked, found = damped(config)
    assert [one.name for one in found] == ["kfac at 0.01", "kfac at 1", "kfac at 0.1"]
    assert [one.scan.damping_scale for one in found if one.scan] == [0.01, 1, 0.1]
    # Each by one method at one damping, as scores of a contender are those of one.
    assert [len(one.scan.scored) for one in found if one.scan] == [1, 1, 1]
    assert asked.evaluation is not None
    assert asked.evaluation.removal is None


def test_a_run_with_a_list_of_dampings_has_all_of_them_tried() -> None:
    scan = {"methods": ["self_influence", "ekfac", "kfac"], "damping_scale": [0.01, 10]}
    _, found = damped(configured(scan, dampings=[1, 10]))
    # Not self-influence, which asks no query.
    assert [one.name for one in found] == ["ekfac at 0.01", "ekfac at 10", "ekfac at 1"]
    assert [one.method for one in found] == ["ekfac"] * 3
    assert [one.scan.damping_scale for one in found if one.scan] == [0.01, 10, 1]


def test_dampings_that_differ_have_different_names() -> None:
    _, found = damped(configured({"methods": ["ekfac"]}, dampings=[0.1, 0.10000001]))
    assert [one.name for one in found] == ["ekfac at 0.1", "ekfac at 0.10000001"]


@pytest.mark.parametrize(
    ("scan", "said"),
    [
        ({"methods": ["bm25", "cosine"]}, r"none of scan.methods \(bm25, cosine\) asks queries"),
        ({"methods": ["self_influence"]}, r"none of scan.methods \(self_influence\) asks"),
        ({"methods": ["ekfac"], "damping": 1e-3}, "scan.damping: it is absolute"),
        ({"methods": ["ekfac"], "solver": "unrolled"}, "scan.solver: unrolled has no lambda"),
    ],
)
def test_without_a_damping_there_is_nothing_to_try(scan: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        damped(configured(scan))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"dampings": [0.1, 0.1]}, "dampings have to be different"),
        ({"dampings": [0.1, 0]}, "evaluation.dampings.1"),
        ({"dampings": [0.1, float("inf")]}, "evaluation.dampings.1"),
        ({"dampings": [float("nan"), 0.1]}, "evaluation.dampings.0"),
        ({"removal": {"share": 1}}, "evaluation.removal.share"),
        ({"groups": {"key": "source", "most": 1}}, "evaluation.groups.most"),
        ({"groups": {}}, "evaluation.groups.key"),
        ({"tail_path": 3}, "did you mean 'tail_patch'"),
    ],
)
def test_a_section_that_asks_for_nothing_sound_is_refused(
    section: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        configured({"methods": ["ekfac"]}, **section)


def test_rows_of_features_have_no_words(tmp_path: Path) -> None:
    config = configured({"methods": ["ekfac"]}).model_copy(update={"model_function": "a:b"})
    assert "bm25" not in [one.name for one in contenders(config)]
