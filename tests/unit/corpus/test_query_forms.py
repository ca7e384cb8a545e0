import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.queries import EncodedQuery, encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.query_lines import read_queries
from rayinfluence.errors import ConfigError, QueryError
from rayinfluence.named_function import NamedFunction
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

CHAT = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3 w4"}]
TEMPLATE = (
    "{% for m in messages %}w9 {{ m.content }} w8 {% endfor %}"
    "{% if add_generation_prompt %}w9 {% endif %}"
)
HOSTILE = "w1\u202e\x1b[31m</script>\u2028\x00 w2"


def read(folder: Path, *rows: dict[str, Any]) -> list[Query]:
    path = folder / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_queries(Store(str(path)))


def encoded(
    folder: Path, row: dict[str, Any], tokenizer: PreTrainedTokenizerFast | None = None
) -> list[EncodedQuery]:
    queries = read(folder, {"query_id": "a", **row})
    return encode_queries(queries, tokenizer or tiny_tokenizer(), 16)


def letters() -> PreTrainedTokenizerFast:
    """A token a letter, and ``b c`` is one."""
    vocabulary = {c: i for i, c in enumerate(["a", "b", "c", " ", "b ", "b c"])}
    backend = Tokenizer(models.BPE(vocabulary, [("b", " "), ("b ", "c")]))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_measurements_are_of_answers_and_a_margin_of_two_is_their_contrast(tmp_path: Path) -> None:
    row = {"prompt": "w1", "completion": " w2"}
    [logit] = encoded(tmp_path, {**row, "measurement": "logit", "reduction": "mean"})
    assert (logit.unit, logit.predicts) == ("logits per token", False)
    [margin] = encoded(tmp_path, {**row, "measurement": "margin"})
    assert (margin.unit, margin.predicts, margin.measurement) == ("nats", True, "margin")
    of_two = {**row, "rather_than": " w3"}
    [between], [contrast] = (
        encoded(tmp_path, one) for one in ({**of_two, "measurement": "margin"}, of_two)
    )
    assert between.digest == contrast.digest
    assert (between.objective, between.measurement) == (contrast.objective, "log_probability")


def test_a_function_is_asked_of_classes(tmp_path: Path) -> None:
    [query] = read(tmp_path, {"query_id": "a", "prompt": "w1 w2", "completion": "fine"})
    function = NamedFunction("query_function", "module:function", "digest")
    [found] = encode_queries(
        [query], tiny_tokenizer(), 16, function=function, kind="classification",
        classes=("dull", "fine"),
    )  # fmt: skip
    assert found.function == function
    assert found.answers[0].asked == [2, 1]


def test_a_mean_is_over_the_tokens_that_count(tmp_path: Path) -> None:
    row = {"prompt": "w1", "completion": " w2 w3 w4 w5"}
    [query] = encoded(tmp_path, {**row, "reduction": "mean"})
    assert query.answers[0].shares == (0.25,) * 4
    assert (query.unit, query.predicts) == ("nats per token", False)
    [query] = encoded(tmp_path, {**row, "reduction": "mean", "spans": [[0, 3], [10, 12]]})
    assert query.answers[0].shares == (0.5, 0, 0, 0.5)
    [plain], [summed] = encoded(tmp_path, row), encoded(tmp_path, {**row, "reduction": "sum"})
    assert plain == summed
    assert (plain.unit, plain.predicts) == ("nats", True)


@pytest.mark.parametrize(
    ("spans", "counted"),
    [
        ([[0, 1]], (True, False, False)),
        ([[1, 2]], (False, True, False)),  # one character of "b c"
        ([[3, 4]], (False, True, False)),
        ([[3, 5]], (False, True, True)),
        ([[0, 1], [4, 5]], (True, False, True)),
        ([[0, 5], [1, 2]], (True, True, True)),
    ],
)
def test_tokens_count_that_have_a_character_of_a_span(
    tmp_path: Path, spans: list[list[int]], counted: tuple[bool, ...]
) -> None:
    row = {"prompt": "a", "completion": "ab ca", "spans": spans}
    [query] = encoded(tmp_path, row, letters())
    assert query.answers[0].tokens == (0, 0, 5, 0)
    assert query.answers[0].counted == counted


def test_a_span_counts_characters_after_the_prompt_also_where_a_token_begins_in_it(
    tmp_path: Path,
) -> None:
    row = {"prompt": "ab", "completion": " ca", "spans": [[0, 1]]}
    [query] = encoded(tmp_path, row, letters())
    assert (query.answers[0].tokens, query.answers[0].counted) == ((0, 5, 0), (True, False))


def test_a_contrast_is_one_completion_rather_than_another(tmp_path: Path) -> None:
    [query] = encoded(tmp_path, {"prompt": "w1", "completion": " w2 w3", "rather_than": " w4"})
    one, other = query.answers
    assert (one.completion, one.weight) == ((3, 4), 1)
    assert (other.completion, other.weight) == ((5,), -1)
    assert query.objective == "log-probability of the completion rather than of another"
    assert (query.unit, query.predicts) == ("nats", True)
    assert query.terms == one.tokens
    assert query.n_tokens == 5


def test_several_completions_are_queries_of_their_own(tmp_path: Path) -> None:
    row = {"query_id": "a", "prompt": "w1", "completions": [" w2", " w3"], "metadata": {"k": 1}}
    first, second = read(tmp_path, {**row, "rather_than": " w4"})
    assert (first.query_id, second.query_id) == ("a/0", "a/1")
    assert [one.answers[0].completion for one in (first, second)] == [" w2", " w3"]
    assert second.answers[1].completion == " w4"
    assert first.metadata == second.metadata == {"k": 1}
    with pytest.raises(QueryError, match=r"jsonl:2: query_id 'a/1' is already that of line 1"):
        read(tmp_path, row, {"query_id": "a/1", "prompt": "", "completion": "x"})


def test_a_set_is_a_weighted_sum(tmp_path: Path) -> None:
    members = [
        {"prompt": "w1", "completion": " w2", "weight": 2},
        {"prompt": "w1", "completion": " w2 w3", "weight": -0.5, "spans": [[4, 6]]},
        {"prompt": "", "completion": "w5 w6", "rather_than": "w5 w7"},
        {"messages": CHAT, "weight": 0},
    ]
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    [query] = encoded(tmp_path, {"set": members}, tokenizer)
    assert [one.weight for one in query.answers] == [2, -0.5, 1, -1, 0]
    assert query.answers[1].counted == (False, True)
    assert query.objective == "log-probability of 5 completions, summed by their weights"
    assert not query.predicts
    assert query.terms == sum((query.answers[i].tokens for i in (0, 2)), ())


@pytest.mark.parametrize(
    ("weights", "predicts"), [((1, 1), True), ((1, -1), True), ((1, 2), False)]
)
def test_of_a_set_a_change_is_predicted_where_it_is_one_of_log_probabilities(
    tmp_path: Path, weights: tuple[int, int], predicts: bool
) -> None:
    texts = ("w1 w2", "w3 w4")
    members = [
        {"prompt": "", "completion": text, "weight": weight}
        for text, weight in zip(texts, weights, strict=True)
    ]
    [query] = encoded(tmp_path, {"set": members})
    assert query.predicts is predicts


def test_a_set_that_asks_against_all_looks_for_the_words_of_all(tmp_path: Path) -> None:
    [query] = encoded(tmp_path, {"set": [{"prompt": "w1", "completion": " w2", "weight": -1}]})
    assert query.terms == query.answers[0].tokens


def test_messages_are_prompt_and_completion(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    [query] = encoded(tmp_path, {"messages": CHAT}, tokenizer)
    answer = query.query.answers[0]
    assert (answer.prompt, answer.completion) == ("w9 w1 w2 w8 w9 ", "w3 w4")
    assert query.answers[0].completion == (4, 5)
    [same] = encoded(tmp_path, {"prompt": CHAT[:1], "completion": "w3 w4"}, tokenizer)
    assert same.digest == query.digest
    [parted] = encoded(tmp_path, {"prompt": CHAT[:1], "completion": CHAT[1:]}, tokenizer)
    assert parted == query
    [contrast] = encoded(tmp_path, {"messages": CHAT, "rather_than": "w7"}, tokenizer)
    assert [one.completion for one in contrast.answers] == [(4, 5), (8,)]
    # What ends the turn is asked for where it is said to be.
    [ended] = encoded(tmp_path, {"prompt": CHAT[:1], "completion": "w3 w4 w8"}, tokenizer)
    assert ended.answers[0].completion == (4, 5, 9)


def test_spans_are_of_a_message_as_the_template_writes_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("m.content", "m.content | trim")
    messages = [CHAT[0], {"role": "assistant", "content": "w3 w4"}]
    [query] = encoded(tmp_path, {"messages": messages, "spans": [[3, 5]]}, tokenizer)
    assert query.answers[0].counted == (False, True)
    messages = [CHAT[0], {"role": "assistant", "content": " w3 w4"}]
    with pytest.raises(QueryError, match=r"query 'a': the chat template .* strips white space"):
        encoded(tmp_path, {"messages": messages, "spans": [[4, 6]]}, tokenizer)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, r"query 'a': the tokenizer has no chat template, .* `tokenizer`"),
        ("{{ raise_exception('no system here') }}", "query 'a': .* messages: no system here"),
    ],
)
def test_messages_that_are_not_rendered_are_told(
    tmp_path: Path, template: str | None, why: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(QueryError, match=why):
        encoded(tmp_path, {"messages": CHAT}, tokenizer)


PLAIN = {"prompt": "w1", "completion": " w2"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**PLAIN, "reduction": "median"}, "reduction must be sum or mean"),
        ({**PLAIN, "spans": [[0, 4]]}, "[0, 4] is not in the completion: that has 3 characters"),
        ({**PLAIN, "spans": [[-1, 2]]}, "[-1, 2] is not in the completion"),
        ({**PLAIN, "spans": [[2, 2]]}, "[2, 2] is empty: that has 3 characters"),
        ({**PLAIN, "spans": [[2, 1]]}, "[2, 1] is not in the completion"),
        ({**PLAIN, "spans": []}, "spans must be a list of [start, end], from 0 to 3"),
        ({**PLAIN, "spans": [[0, True]]}, "spans must be a list"),
        ({**PLAIN, "spans": [0, 1]}, "spans must be a list"),
        ({**PLAIN, "spans": [[0, 1]], "rather_than": "x"}, "spans and rather_than are both given"),
        ({**PLAIN, "rather_than": " w2"}, "rather_than is the completion itself"),
        ({**PLAIN, "rather_than": ""}, "rather_than must be a string that is not empty"),
        ({**PLAIN, "rather_than": ["x"]}, "rather_than must be a string that is not empty"),
        ({**PLAIN, "weight": 2}, "unknown key 'weight'"),
        ({**PLAIN, "completions": ["x"]}, "completion stands beside completions"),
        ({"prompt": "", "completions": []}, "completions must be a list of strings"),
        ({"prompt": "", "completions": ["x", 1]}, "completion must be a string"),
        ({"prompt": "", "completions": ["x", ""]}, "the completion of query 'a/1' is empty"),
        (
            {"prompt": "", "completions": ["x"], "spans": [[0, 1]]},
            "spans stands beside completions",
        ),
        ({**PLAIN, "set": [PLAIN]}, "completion stands beside set; put it into its members"),
        ({"set": []}, "set must be a list of {prompt, completion, weight}"),
        ({"set": PLAIN}, "set must be a list"),
        ({"set": ["x"]}, "set[0] must be an object"),
        ({"set": [PLAIN, {"prompt": "x"}]}, "set[1]: a member of a set needs the keys prompt and"),
        ({"set": [{**PLAIN, "weight": "2"}]}, "set[0]: weight must be a finite number"),
        ({"set": [{**PLAIN, "weight": True}]}, "weight must be a finite number"),
        ({"set": [{**PLAIN, "weight": 1e999}]}, "weight must be a finite number"),
        ({"set": [{**PLAIN, "weight": 10**400}]}, "weight must be a finite number"),
        (
            {"set": [PLAIN, {**PLAIN, "weight": 1e300}]},
            "set[1]: weight is 1e+300, and weights other than 0 are of a size from 1e-06 to 1e+06",
        ),
        ({"set": [{**PLAIN, "weight": -1e300}]}, "weight is -1e+300, and weights"),
        ({"set": [{**PLAIN, "weight": 1e-300}]}, "weight is 1e-300, and weights"),
        ({"set": [{**PLAIN, "weight": -1.1e6}]}, "weight is -1.1e+06, and weights"),
        ({"set": [{**PLAIN, "weight": 0}]}, "all weights of the set are 0"),
        ({"set": [{**PLAIN, "id": 0}]}, "set[0]: unknown key 'id'"),
        ({"set": [{**PLAIN, "completion": ""}]}, "the completion of query 'a' is empty"),
        ({"set": [PLAIN, {**PLAIN, "reduction": "mean"}]}, "are in nats and nats per token"),
        ({"set": [PLAIN, {**PLAIN, "measurement": "logit"}]}, "are in nats and logits, which do"),
        ({**PLAIN, "measurement": "odds"}, "must be one of log_probability, logit, margin"),
        ({**PLAIN, "measurement": ["logit"]}, "must be one of log_probability, logit, margin"),
        ({"set": [PLAIN], "metadata": [1]}, "metadata must be an object"),
        ({"messages": CHAT, "completion": "x"}, "completion stands beside messages"),
        ({"messages": CHAT[:1]}, "the last of messages is from 'user'"),
        ({"prompt": "x", "completion": CHAT[1:]}, "completion is a list of 1 messages, which is"),
        ({"prompt": CHAT, "completion": [*CHAT, *CHAT]}, "completion is a list of 4 messages"),
        ({"prompt": CHAT[1:], "completion": CHAT[:1]}, "the last of completion is from 'user'"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": [*CHAT[:1], {"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "whose content is no string"),
        (
            {"prompt": [{"role": "user"}], "completion": "x"},
            "prompt has a message 0 without content",
        ),
        ({"prompt": "x", "mesages": CHAT}, "needs the keys query_id, prompt and completion (or"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    line = json.dumps({"query_id": "a", **row}).replace("Infinity", "1e999")
    (tmp_path / "queries.jsonl").write_text(f"\n{line}")
    with pytest.raises(QueryError) as caught:
        read_queries(Store(str(tmp_path / "queries.jsonl")))
    said = str(caught.value)
    assert "queries.jsonl:2" in said
    assert why in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            # Both of no known word.
            {"prompt": "w1", "completion": " x", "rather_than": " y"},
            r"query 'a' asks for nothing: its completion and its `rather_than` are the same tokens",
        ),
        (
            {"set": [PLAIN, {**PLAIN, "weight": -2}, PLAIN]},
            "query 'a' asks for nothing: its answers are the same tokens, whose weights add up",
        ),
        (
            # Whose sum is 5.6e-17.
            {"set": [{**PLAIN, "weight": weight} for weight in (0.1, 0.2, -0.3)]},
            "query 'a' asks for nothing: its answers are the same tokens, whose weights add up",
        ),
        (
            {"prompt": "", "completion": "w1 w2", "spans": [[0, 2]]},
            "query 'a' leaves no token to predict: no token that is predicted has a character of",
        ),
        (
            {"prompt": "w1", "completion": " w2", "rather_than": " w3" * 20},
            "whose completion is its `rather_than`, has 21 tokens, and the model's context is 16",
        ),
        (
            {"set": [PLAIN, {"prompt": "w5", "completion": " w2" * 20}]},
            "query 'a', in its set after 'w5', has 21 tokens",
        ),
    ],
)
def test_what_only_tokens_tell_is_a_sentence_too(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    with pytest.raises(QueryError, match=why.replace("(", r"\(")):
        encoded(tmp_path, row)


@pytest.mark.parametrize("weights", [(1, -1 + 1e-6), (1e-6, 1e-6)])
def test_weights_that_nearly_cancel_ask_for_something(
    tmp_path: Path, weights: tuple[float, ...]
) -> None:
    [query] = encoded(tmp_path, {"set": [{**PLAIN, "weight": weight} for weight in weights]})
    assert [one.weight for one in query.answers] == list(weights)


def test_weights_of_both_signs_may_add_up_to_nothing(tmp_path: Path) -> None:
    """Of two prompts, which of them makes the completion more likely."""
    members = [{**PLAIN, "weight": 1}, {**PLAIN, "prompt": "w5", "weight": -1}]
    [query] = encoded(tmp_path, {"set": members})
    assert query.predicts


def test_texts_that_act_on_terminals_are_texts(tmp_path: Path) -> None:
    row = {"prompt": HOSTILE, "completion": HOSTILE, "rather_than": HOSTILE + "w3"}
    [query] = encoded(tmp_path, row)
    assert query.query.answers[1].completion == HOSTILE + "w3"
    with pytest.raises(QueryError) as caught:
        read(tmp_path, {"query_id": HOSTILE, "set": [{**row, HOSTILE: 1}]})
    assert "\x1b" not in str(caught.value)


def test_a_function_is_found_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "asked_for_by_a_test.py"
    path.write_text("raise RuntimeError('run')\ndef f(logits, tokens, first): ...\nx = 1\n")
    found = NamedFunction.of("query_function", "asked_for_by_a_test:f")
    with pytest.raises(ConfigError, match="cannot be imported: RuntimeError: run"):
        found.load()
    path.write_text(path.read_text() + "# changed\n")
    assert NamedFunction.of("query_function", "asked_for_by_a_test:f") != found
    with pytest.raises(ConfigError, match="another one here than where the run was started"):
        found.load()
    with pytest.raises(ConfigError, match="defines no function x; write `def x"):
        NamedFunction.of("query_function", "asked_for_by_a_test:x")
    path.write_text("def f(:\n")
    with pytest.raises(ConfigError, match="asked_for_by_a_test is no Python"):
        NamedFunction.of("query_function", "asked_for_by_a_test:f")
    with pytest.raises(
        ConfigError, match=r"no module nowhere_at_all\.f\. Put the folder .*PYTHONPATH"
    ):
        NamedFunction.of("query_function", "nowhere_at_all.f:g")
    with pytest.raises(ConfigError, match="the module itertools has no source file"):
        NamedFunction.of("query_function", "itertools:chain")
