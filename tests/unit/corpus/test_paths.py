"""What addresses say of documents: partitions, named parts, globs."""

import pytest

from rayinfluence.corpus.paths import (
    columns_of_path,
    matches,
    named_parts,
    partitions,
    why_no_pattern,
)


@pytest.mark.parametrize(
    ("url", "columns"),
    [
        ("/data/lang=en/part-0.parquet", {"lang": "en"}),
        ("s3://b/data/lang=en/year=2024/part-0.jsonl", {"lang": "en", "year": 2024}),
        ("/d/id=007/x.jsonl", {"id": "007"}),
        ("/d/temperature=-3/x.jsonl", {"temperature": -3}),
        ("/d/who=A%2FB%20c/x.jsonl", {"who": "A/B c"}),
        ("/d/lang=__HIVE_DEFAULT_PARTITION__/x.jsonl", {}),
        ("/d/a=b=c/lang=en.jsonl", {"a": "b=c"}),
        ("/d/plain/x.jsonl", {}),
    ],
)
def test_partitions_are_columns(url: str, columns: dict[str, object]) -> None:
    assert partitions(url) == columns


@pytest.mark.parametrize(
    ("url", "pattern", "columns"),
    [
        (
            "/b/marcus-aurelius_meditations_george-long/chapter-1.xhtml",
            "{author}_{title}/*.xhtml",
            {"author": "marcus-aurelius", "title": "meditations_george-long"},
        ),
        ("/c/en/2023/07/x.jsonl", "{lang}/{year}/*/*.jsonl", {"lang": "en", "year": 2023}),
        ("/c/en/a/b/x.jsonl", "c/{lang}/**/*.jsonl", {"lang": "en"}),
        ("/c/en/x.jsonl", "c/{lang}/**/*.jsonl", {"lang": "en"}),
        ("s3://bucket/c/x-en.jsonl", "x-{lang}.jsonl", {"lang": "en"}),
        ("/c/x.jsonl", "{lang}_{title}/*.jsonl", None),
        ("/c/a_b/x.txt", "{lang}_{title}/*.jsonl", None),
        ("/c/(a).b/x.jsonl", "({k}).b/x.jsonl", {"k": "a"}),
    ],
)
def test_parts_that_are_named_are_columns(
    url: str, pattern: str, columns: dict[str, object] | None
) -> None:
    assert named_parts(url, pattern) == columns


def test_a_pattern_goes_before_partitions() -> None:
    assert columns_of_path("/d/lang=en/x.jsonl", "lang={lang}/*.jsonl") == {"lang": "en"}
    assert columns_of_path("/d/k=1/en/x.jsonl", "{lang}/*.jsonl") == {"k": 1, "lang": "en"}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*.jsonl", "names no column"),
        ("{}/*.jsonl", "names no column"),
        ("{a}/{a}/*", "names 'a' twice"),
        ("{a/*.jsonl", "names no column"),
        ("{b}/{a/*.jsonl", "brace that is not closed"),
    ],
)
def test_what_names_no_columns_is_refused(pattern: str, said: str) -> None:
    assert said in (why_no_pattern(pattern) or "")
    assert why_no_pattern("{author}_{title}/*.xhtml") is None


@pytest.mark.parametrize(
    ("glob", "url", "is_so"),
    [
        ("*.csv", "/a/b/x.csv", True),
        ("*.csv", "/a/b/x.csv.gz", False),
        ("b/*.csv", "/a/b/x.csv", True),
        ("b/*.csv", "/a/bb/x.csv", False),
        ("a/**", "/a/b/c/x.csv", True),
        ("x[0-9].csv", "/x1.csv", True),
        ("x[!0-9].csv", "/x1.csv", False),
        ("x[^0-9].csv", "/x1.csv", False),
        ("x[^0-9].csv", "/xy.csv", True),
        ("x[^0-9].csv", "/x/.csv", False),
        ("x[.-a].csv", "/x/.csv", False),
        ("x[[]1].csv", "/x[1].csv", True),
        ("x[]a].csv", "/x].csv", True),
        ("x[a&&b].csv", "/x&.csv", True),
        ("x[!--a].csv", "/x5.csv", False),
        ("x[a-].csv", "/x-.csv", True),
        ("x?.csv", "/x/.csv", False),
        ("s3://b/*/x.csv", "s3://b/c/x.csv", True),
    ],
)
@pytest.mark.filterwarnings("error")
def test_globs_are_of_the_end_of_an_address(glob: str, url: str, is_so: bool) -> None:
    assert matches(url, glob) == is_so
