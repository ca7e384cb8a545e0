import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rayinfluence import config as config_module
from rayinfluence.config import CandidatesConfig, RunConfig
from rayinfluence.config_places import Section, StorageConfig
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.storage.store import Store

MINIMAL = {"run": "runs/a", "model": "models/a"}
SECTIONS = [s for s in vars(config_module).values() if inspect.isclass(s) and s is not Section]
SECTIONS = [section for section in SECTIONS if issubclass(section, Section)]


def refusal(values: dict[Any, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse({**MINIMAL, **values}, "here.yaml")
    message = str(caught.value)
    assert message.startswith("here.yaml: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"modle": "x"}, "unknown key 'modle'; did you mean 'modules' or 'model'?"),
        ({"scan": {"dampning": 1}}, "unknown key 'scan.dampning'; did you mean 'damping'"),
        ({"fit": {"lane": 1}}, "unknown key 'fit.lane'; did you mean 'lanes'"),
        ({"storage": {"endpoint": "x"}}, "did you mean 'endpoint_url'?"),
        ({"runner": {"zzz": 1}}, "unknown key 'runner.zzz'; the keys here are name, actors, max"),
        ({"qqq": 1}, "the keys here are run, model, queries"),
        ({1: 2}, "unknown key '1'"),
    ],
)
def test_unknown_keys_are_refused_with_a_suggestion(values: dict[Any, Any], expected: str) -> None:
    assert expected in refusal(values)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"run": None}, "run: "),
        ({"run": ""}, "run: "),
        ({"model": ""}, "model: "),
        ({"model": 3}, "model: "),
        ({"dtype": "float16"}, "dtype: "),
        ({"device": "tpu"}, "device: "),
        ({"seed": -1}, "seed: "),
        ({"seed": 2**63}, "seed: "),
        ({"batch_tokens": 0}, "batch_tokens: "),
        ({"modules": "*.mlp.*"}, "modules: "),
        ({"corpus": {"documents": "a.jsonl"}}, "corpus.documents: "),
        ({"corpus": {"context": 1}}, "corpus.context: "),
        ({"corpus": "a.jsonl"}, "corpus: "),
        ({"fit": {"sequences": 0}}, "fit.sequences: "),
        ({"fit": {"sequences": "many"}}, "fit.sequences: "),
        ({"fit": {"labels": "true"}}, "fit.labels: "),
        ({"fit": {"lanes": 0}}, "fit.lanes: "),
        ({"scan": {"methods": []}}, "scan.methods: "),
        ({"scan": {"methods": ["ekfac", "magic"]}}, "scan.methods.1: "),
        ({"scan": {"methods": ["ekfac", "ekfac"]}}, "scan.methods: 'ekfac' is listed twice"),
        ({"scan": {"group_by": ["source", "source"]}}, "scan.group_by: 'source' is listed twice"),
        ({"scan": {"group_by": "source"}}, "scan.group_by: "),
        ({"scan": {"group_by": [""]}}, "scan.group_by: an entry is blank ('')"),
        ({"scan": {"group_by": ["source", " \t"]}}, "scan.group_by: an entry is blank (' \\t')"),
        ({"corpus": {"documents": [""]}}, "corpus.documents: an entry is blank"),
        ({"modules": ["*.mlp.*", ""]}, "modules: an entry is blank"),
        ({"run": " "}, "run: ' ' is blank; write a value, or leave the key out"),
        ({"queries": ""}, "queries: '' is blank"),
        ({"tokenizer": ""}, "tokenizer: '' is blank"),
        ({"corpus": {"path": ""}}, "corpus.path: '' is blank"),
        ({"corpus": {"text_column": ""}}, "corpus.text_column: '' is blank"),
        ({"corpus": {"id_column": "\n"}}, "corpus.id_column: '\\n' is blank"),
        ({"runner": {"address": ""}}, "runner.address: '' is blank"),
        ({"storage": {"endpoint_url": ""}}, "storage.endpoint_url: '' is blank"),
        ({"storage": {"region": ""}}, "storage.region: '' is blank"),
        ({"scan": {"rank": 0}}, "scan.rank"),
        ({"scan": {"rank": -1}}, "scan.rank"),
        ({"scan": {"rank": "full"}}, "scan.rank"),
        ({"scan": {"damping": 0}}, "scan.damping: "),
        ({"scan": {"damping_scale": -0.1}}, "scan.damping_scale: "),
        ({"scan": {"damping_scale": float("inf")}}, "scan.damping_scale: "),
        ({"scan": {"damping": float("nan")}}, "scan.damping: "),
        ({"scan": {"damping_scale": []}}, "scan.damping_scale: must hold at least 1, not []"),
        ({"scan": {"damping_scale": [0.1, 0]}}, "scan.damping_scale.1: must be more than 0, not 0"),
        ({"scan": {"damping_scale": "much"}}, "scan.damping_scale: must be a number, not 'much'"),
        ({"scan": {"damping_scale": [1, 1.0]}}, "scan.damping_scale: 1.0 is listed twice."),
        (
            {"scan": {"damping_scale": [0.1], "damping": 2}},
            "scan.damping: 2 would take the place of each of damping_scale, which is a list.",
        ),
        ({"scan": {"candidates": {"method": "bm52"}}}, "scan.candidates.method: must be ekfac, "),
        ({"scan": {"top": 0}}, "scan.top: "),
        ({"runner": {"name": "spark"}}, "runner.name: "),
        ({"runner": {"actors": 0}}, "runner.actors: "),
    ],
)
def test_wrong_values_are_refused_at_their_place(values: dict[str, Any], place: str) -> None:
    assert f"here.yaml: {place}" in refusal(values)


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        (0.1, ["ekfac", "bm25"]),
        (1, ["ekfac", "bm25"]),
        ([0.1], ["ekfac@0.1", "bm25"]),
        ([1, 0.25, 1e-7, 3e4], ["ekfac@1", "ekfac@0.25", "ekfac@0.0000001", "ekfac@30000", "bm25"]),
    ],
)
def test_of_a_list_results_are_named_by_their_damping(scales: Any, names: list[str]) -> None:
    values = {"run": "r", "model": "m", "scan": {"damping_scale": scales}}
    scored = RunConfig.parse(values).scan.scored
    assert [one.name for one in scored] == names
    dampings = scales if isinstance(scales, list) else [scales]
    assert [one.damping_scale for one in scored] == [*dampings, None]
    assert [one.method for one in scored] == [*["ekfac"] * len(dampings), "bm25"]


def test_what_is_missing_and_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"model: is missing; set it"):
        RunConfig.parse({"run": "x"})
    message = refusal({"seed": -1, "fit": {"lanes": 0}})
    assert "seed: " in message
    assert "fit.lanes: " in message


def test_a_config_is_read_from_yaml_and_overridden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text("run: a\nmodel: b\nscan:\n  rank: dense\n  # top: 5\nfit:\n", "utf-8")
    config = RunConfig.load(path, seed=3)
    assert (config.run, config.scan.rank, config.scan.top, config.seed) == ("a", "dense", 100, 3)
    assert config.fit.lanes == 8  # a section whose keys are all commented out is null in YAML
    assert RunConfig.parse(config.model_dump()) == config


def test_a_config_does_not_change() -> None:
    config = RunConfig.parse(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run: [1\n", "cannot be read as YAML"),
        ("run: a\n\tmodel: b\n", "cannot be read as YAML"),
        ("run: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        ("", "is not the configuration of a run: neither run nor model"),
        ("- run\n", "is not the configuration of a run"),
        ("just text", "is not the configuration of a run"),
        ("name: a\nseed: 3\n", "is not the configuration of a run"),
        ('{"query_id": "a", "prompt": "b"}\n', "is not the configuration of a run"),
        ('{"query_id": "a"}\n{"query_id": "b"}\n', "cannot be read as YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=expected) as caught:
        RunConfig.load(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("on the command line the run directory will do too.")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: there is no such config file"):
        RunConfig.load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunConfig.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"run: caf\xe9\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunConfig.load(tmp_path / "latin.yaml")


def test_every_field_is_documented() -> None:
    tree = ast.parse(inspect.getsource(config_module))
    undocumented = []
    for section in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        for node, following in zip(section.body, [*section.body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign):
                continue
            documented = (
                isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
                and len(following.value.value) > 10
            )
            name = f"{section.name}.{ast.unparse(node.target)}"
            undocumented += [] if documented else [name]
    assert undocumented == []


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_default_is_valid(section: type[BaseModel]) -> None:
    required = {RunConfig: {"run": "x", "model": "x"}, CandidatesConfig: {"method": "tfidf"}}.get(
        section, {}
    )
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in section.model_fields.items()
        if name not in required
    }
    assert PydanticUndefined not in defaults.values()
    as_values = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in defaults.items()}
    assert section.model_validate({**required, **as_values}) == section(**required)


def test_a_baseline_stands_beside_by_default_where_there_are_words() -> None:
    assert RunConfig.parse({"run": "r", "model": "m"}).scan.methods == ["ekfac", "bm25"]
    rows = {"model_function": "net:build", "objective": {"kind": "regression"}}
    for scan in ({}, {"scan": None}, {"scan": {"top": 5}}):
        config = RunConfig.parse({"run": "r", "model": "m", **rows, **scan})
        assert config.scan.methods == ["ekfac"]
    with pytest.raises(ConfigError, match="bm25 compares words of texts"):
        RunConfig.parse({"run": "r", "model": "m", **rows, "scan": {"methods": ["ekfac", "bm25"]}})


def test_storage_options_are_those_of_s3_and_of_s3_alone() -> None:
    storage = StorageConfig(endpoint_url="http://minio:9000", region="eu-1", path_style=True)
    assert storage.options("s3://bucket/x") == {
        "endpoint_url": "http://minio:9000",
        "client_kwargs": {"region_name": "eu-1"},
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    assert storage.options("/local/path") == {}
    checksums = StorageConfig(checksums="when_required").options("s3://bucket")
    assert checksums == {
        "config_kwargs": {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    }
    assert StorageConfig().options("s3://bucket") == {}


def test_path_style_options_reach_the_server(s3: dict[str, Any]) -> None:

    storage = StorageConfig(endpoint_url=s3["endpoint_url"], region="us-east-1", path_style=True)
    store = Store("s3://bucket/a", storage.options("s3://bucket/a"))
    store.write("key", b"body")
    assert store.read("key") == b"body"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"storage": {"endpoint_url": "http://user:hidden@minio:9000"}}, "storage.endpoint_url"),
        ({"storage": {"endpoint_url": "https://hidden@minio"}}, "storage.endpoint_url"),
        ({"storage": {"endpoint_url": "user:hidden@minio:9000"}}, "storage.endpoint_url"),
        ({"run": "s3://key:hidden@bucket/run"}, "run: "),
        ({"queries": "https://me:hidden@host/q.jsonl"}, "queries: "),
        ({"corpus": {"documents": ["x", "s3://key:hidden@bucket/*"]}}, "corpus.documents.1: "),
        ({"runner": {"address": "ray://me:hidden@head:10001"}}, "runner.address: "),
        ({"storage": {"endpoint_url": " https://me:hidden@minio"}}, "storage.endpoint_url"),
        ({"storage": {"endpoint_url": "https://minio?token=hidden"}}, "storage.endpoint_url"),
        ({"run": "s3://bucket/r?X-Amz-Signature=hidden"}, "run: "),
        ({"corpus": {"documents": ["https://hidden@host/x.jsonl"]}}, "corpus.documents.0: "),
        ({"corpus": {"documents": ["https://h/x?a=1&sig=hidden"]}}, "corpus.documents.0: "),
        ({"model": " https://me:hidden@host/m"}, "model: "),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(
    values: dict[str, Any], place: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"password or a token.*environment \(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ) as refused:
        RunConfig.parse({"run": "r", "model": "m", **values})
    assert place in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("address", ["http://minio:9000", "http://[::1]:9000/x@y", "https://s3.eu"])
def test_an_endpoint_without_credentials_is_taken(address: str) -> None:
    values = {"run": "s3://bucket/a:b@c", "model": "m", "storage": {"endpoint_url": address}}
    assert RunConfig.parse(values).storage.endpoint_url == address


@pytest.mark.parametrize(
    "address", ["minio:9000", "s3://minio", " http://minio", "http://", "http://minio/\n"]
)
def test_an_endpoint_is_the_address_of_a_server(address: str) -> None:
    values = {"run": "s3://b/r", "model": "m", "storage": {"endpoint_url": address}}
    with pytest.raises(ConfigError, match=r"endpoint_url: must be the address of a server"):
        RunConfig.parse(values)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hidden@host/x", "https://***@host/x"),
        ("https://hidden@host/x", "https://***@host/x"),
        ("s3://b/x?versionId=1&X-Amz-Security-Token=hidden", None),
        ("sftp://me@host/x", "sftp://me@host/x"),
        ("s3://bucket/part-?.jsonl", "s3://bucket/part-?.jsonl"),
    ],
)
def test_what_shows_an_address_hides_its_credentials(address: str, shown: str | None) -> None:
    shown = shown or "s3://b/x?versionId=***&X-Amz-Security-Token=***"
    assert str(StorageError(f"cannot read {address}: no")) == f"cannot read {shown}: no"
    assert repr(Store(address, {"key": "hidden"})) == f"Store(url='{shown}')"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"corpus": {"documents": ["a"], "tokens": {}}},
        {"corpus": {"documents": ["a"], "tokens": {"column": "ids", "packing": "separate"}}},
        {"corpus": {"documents": ["a"], "tokens": {"separator": 0, "packing": "attend_across"}}},
        {"corpus": {"documents": ["a"], "template": "{{ a }}", "metadata": ["b.c"]}},
        {"corpus": {"documents": ["a"], "text_column": {"*.csv": ["a", "b"]}}},
        {"corpus": {"documents": ["a"], "select": "a == 1", "exclude": {"ids": "b.txt"}}},
        {
            "model_function": "a:b",
            "objective": {"kind": "regression"},
            "corpus": {"documents": ["a"], "feature_columns": ["x"], "label_column": "y"},
            "scan": {"methods": ["ekfac"]},
        },
        {"scan": {"candidates": {"method": "tfidf", "top": 10}}},
    ],
)
def test_a_configuration_is_read_again_from_what_a_run_directory_keeps(
    values: dict[str, Any],
) -> None:
    config = RunConfig.parse({**MINIMAL, **values})
    kept = json.loads(json.dumps(config.model_dump()))
    assert RunConfig.parse(kept) == config
