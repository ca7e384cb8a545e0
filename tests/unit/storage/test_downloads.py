"""What downloads leave in the place of a model's files, and kinds of models that are not known."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.errors import ModelError
from rayinfluence.model.load import load_model
from rayinfluence.storage.downloads import StoredTensor, read_header
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_llama, tiny_tokenizer

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16777216\n"
PAGE = b"<!DOCTYPE html><html><body>Access to this model is restricted</body></html>"
IN_PLACE = {
    f"is a pointer of git-lfs ({len(LFS)} bytes) and not the file itself; run `git lfs pull`": LFS,
    "is empty; download it again": b"",
    "is a page of a web server, perhaps about an error; download it again": PAGE,
}


def model(folder: Path, **how: Any) -> Path:
    tiny_llama(dtype=torch.float32).save_pretrained(folder, **how)  # type: ignore[operator]
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return model(tmp_path / "model")


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    return model(tmp_path / "model", max_shard_size="6KB")


def refusal(folder: Path, trust_remote_code: bool = False) -> str:
    with pytest.raises(ModelError, match=f"model: {folder} cannot be loaded: ") as caught:
        load_model(str(folder), torch.float32, trust_remote_code=trust_remote_code)
    said = str(caught.value)
    assert len(re.sub("`.*?`", "", said)) < 400  # but for commands
    assert said.endswith((".", "`."))
    return said


def configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_stands_in_a_file_s_place_is_named(whole: Path, name: str, what: str) -> None:
    (whole / name).write_bytes(IN_PLACE[what])
    assert f"{name} {what}" in refusal(whole)


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize(
    "name", ["model-00002-of-00004.safetensors", "model.safetensors.index.json"]
)
def test_what_stands_in_the_place_of_one_of_several_files_is_named(
    pieces: Path, name: str, what: str
) -> None:
    (pieces / name).write_bytes(IN_PLACE[what])
    assert f"{name} {what}" in refusal(pieces)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (5, "is cut short within its header, at 5 bytes"),
        (500, "is cut short within its header, at 500 bytes"),
        (-1, "is cut short: it has "),
        (-9000, "is cut short: it has "),
    ],
)
def test_weights_of_which_the_download_was_cut_off_are_named(
    whole: Path, keep: int, said: str
) -> None:
    path = whole / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"model.safetensors {said}" in refusal(whole)
    assert refusal(whole).endswith("download it again.")


def test_weights_that_are_longer_than_they_say_or_no_safetensors_are_named(whole: Path) -> None:
    path = whole / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    assert "so it is damaged; download it again" in refusal(whole)
    path.write_bytes(b"PK\x03\x04" + bytes(5000))
    assert "is no safetensors file (it begins with b'PK" in refusal(whole)
    path.write_bytes((20).to_bytes(8, "little") + b'{"a": {"dtype": 1}} ')
    assert "has a damaged header" in refusal(whole)


def test_a_missing_shard_is_named(pieces: Path) -> None:
    (pieces / "model-00002-of-00004.safetensors").unlink()
    said = refusal(pieces)
    assert "names 4 files, and 1 of them is not there, such as model-00002-of-00004" in said
    (pieces / "model-00003-of-00004.safetensors").unlink()
    assert "2 of them are not there" in refusal(pieces)


def test_a_missing_or_empty_index_is_named(pieces: Path) -> None:
    (pieces / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json names no file (weight_map)" in refusal(pieces)
    (pieces / "model.safetensors.index.json").unlink()
    said = refusal(pieces)
    assert "it holds weights in pieces, such as model-00001-of-00004.safetensors, and" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", "pytorch_model.bin is a pickle, which is not opened"),
        ("pytorch_model-00001-of-00002.bin", "is a pickle, which is not opened"),
        ("model.gguf", "model.gguf is not what is read: save the model as safetensors"),
        ("weights.00.safetensors", "weights.00.safetensors is not what is read"),
        ("model.safetensors.incomplete", "model.safetensors.incomplete is: its download has not"),
        ("README.md", "there is no model.safetensors in it; download its weights too, or name a"),
    ],
)
def test_what_is_there_in_place_of_weights_is_named(whole: Path, name: str, said: str) -> None:
    (whole / "model.safetensors").rename(whole / name)
    assert said in refusal(whole)


def test_the_command_that_a_refusal_of_pickles_names_converts_them(whole: Path) -> None:
    tiny_tokenizer().save_pretrained(whole)
    expected = dict(load_model(str(whole), torch.float32).named_parameters())
    torch.save(load_file(whole / "model.safetensors"), whole / "pytorch_model.bin")
    (whole / "model.safetensors").unlink()
    (command,) = re.findall("`(.*)`", refusal(whole))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    subprocess.run(shlex.split(command), cwd=whole.parent, env=environment, check=True)
    converted = whole.parent / "model-converted"
    found = dict(load_model(str(converted), torch.float32).named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(load_tokenizer(str(converted))) == len(tiny_tokenizer())


def test_weights_that_are_a_link_to_nothing_are_named(whole: Path) -> None:
    (whole / "model.safetensors").unlink()
    (whole / "model.safetensors").symlink_to(whole / "blobs" / "4d7a")
    assert "model.safetensors is a link to nothing" in refusal(whole)


def test_weights_in_a_file_that_the_configuration_names_are_checked_too(whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "own.safetensors")
    configure(whole, transformers_weights="own.safetensors")
    load_model(str(whole), torch.float32)
    (whole / "own.safetensors").write_bytes(LFS)
    assert "own.safetensors is a pointer of git-lfs" in refusal(whole)


@pytest.mark.parametrize("body", ["{", "[]", "not JSON", '"llama"'])
def test_a_configuration_that_is_no_json_object_is_named(whole: Path, body: str) -> None:
    (whole / "config.json").write_text(body)
    assert "config.json is damaged, as it " in refusal(whole)


def test_a_header_says_what_is_stored_without_a_number_being_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3), "b": torch.tensor(True)}, tmp_path / "x.safetensors")
    assert read_header(Store(str(tmp_path)), "x.safetensors") == {
        "a": StoredTensor("F32", (2, 3)),
        "b": StoredTensor("BOOL", ()),
    }


# --- kinds of models ---


def test_a_type_that_transformers_does_not_know_is_one_sentence(whole: Path) -> None:
    configure(whole, model_type="llama9")
    said = refusal(whole)
    assert f"the installed transformers {transformers.__version__} knows no model of" in said
    assert "the type 'llama9', which its config.json names; install a newer one" in said
    assert "trust_remote_code" not in said
    (whole / "modeling_llama9.py").write_text("")
    assert "or, if modeling_llama9.py is its code" in refusal(whole)


def test_a_configuration_without_a_type_is_one_sentence(whole: Path) -> None:
    configure(whole, model_type=None)
    assert "its config.json names no model_type" in refusal(whole)


@pytest.mark.parametrize("kind", ["ours", "vit"])
def test_a_folder_s_own_code_is_named_with_the_setting_that_lets_it_run(
    whole: Path, kind: str
) -> None:
    code = {"AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model"}
    configure(whole, model_type=kind, auto_map=code)
    said = refusal(whole)
    assert f"of the type {kind!r}, is Python code that the folder brings (ours.Model)" in said
    assert "set `trust_remote_code: true` to let it run" in said
    assert "ours.py" in refusal(whole, trust_remote_code=True)  # which is not there


# --- tokenizers ---


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_what_stands_in_the_place_of_a_tokenizer_s_file_is_named(
    tmp_path: Path, name: str, what: str
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(IN_PLACE[what])
    with pytest.raises(ModelError, match="tokenizer: none can be loaded from") as caught:
        load_tokenizer(str(tmp_path))
    assert f"{name} {what}" in str(caught.value)


def test_a_tokenizer_that_was_cut_off_is_named(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    body = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(body[:200])
    with pytest.raises(ModelError, match=r"tokenizer\.json is cut short, at 200 bytes; download"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "qwen.tiktoken", "merges.txt"])
def test_a_vocabulary_counts_where_there_is_no_tokenizer_json(tmp_path: Path, name: str) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(LFS)
    load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=f"{name} is a pointer of git-lfs"):
        load_tokenizer(str(tmp_path))
