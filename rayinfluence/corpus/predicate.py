"""Conditions on metadata: ``license != 'x' and year >= 1990``, read safely and applied to rows.

The text is parsed as a Python expression, of which comparisons of a key with constants, and, or,
not and brackets are allowed and nothing is run. Values are compared by Python, to which integers
and floats of any size are what they are, and pyarrow's expressions join what that says. A
comparison with a key that a row lacks, or whose value there is of another kind than the constant,
is neither true nor false but unknown, as in SQL, and so is what hangs on it.
"""

from __future__ import annotations

import ast
import functools
import io
import keyword
import operator
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from rayinfluence.corpus.metadata import as_text
from rayinfluence.errors import ConfigError

#: Of constants, and of the values that they can be compared with.
Kind = Literal["text", "number", "truth", "any"]

#: More than anybody writes; what is read is nested no deeper than Python can.
_MOST_CHARACTERS = 10_000
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}
_HINT = (
    "Compare keys of the metadata with values, as in license != 'x' and year >= 1990; there are "
    "== (or =), !=, <, <=, >, >=, in [...], not in [...], is null, and, or, not and brackets, and "
    "field('a key') for a key that is no plain name"
)
#: Words of Python's that are none of a condition's, and texts, which may have them.
_RESERVED = {*keyword.kwlist} - {"and", "or", "not", "in", "is", "None", "True", "False"}
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
#: Texts as Python reads them, and signs of equality that stand alone, as SQL writes them.
_ALONE = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|(?<![=!<>:])=(?!=)")
_ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
#: What asks the same with its sides exchanged.
_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}


@dataclass(frozen=True)
class Leaf:
    """A comparison of a key.

    Attributes:
        key: of the metadata.
        kind: of value that is wanted of it.
        says: what the comparison says of a value of that kind and the constant.
        constant: that it is compared with.
    """

    key: str
    kind: Kind
    says: Callable[[Any, Any], bool]
    constant: Any

    def value(self, metadata: Mapping[str, Any]) -> Any:
        """That of a row; of a key with dots that is not there as it stands, the inner one."""
        if self.key in metadata:
            return metadata[self.key]
        found: Any = metadata
        for part in self.key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def suits(self, value: object) -> bool:
        """Whether a value is of the kind."""
        return self.kind in ("any", _kind_of(value))


@dataclass(frozen=True)
class Decision:
    """What a condition says of some rows.

    Attributes:
        holds_N, unknown_N: where it is true, and where it is neither true nor false.
        others: by key and the kind that was wanted, how many values were of another kind, and one.
    """

    holds_N: NDArray[np.bool_]
    unknown_N: NDArray[np.bool_]
    others: dict[tuple[str, str], tuple[int, str]]


class Predicate:
    """A condition on metadata.

    Args:
        text: the condition.
        place: the key of the configuration that has it, for messages.

    Raises:
        ConfigError: it is no such condition.
    """

    def __init__(self, text: str, place: str) -> None:
        self.text, self._place = text, place
        #: Each with the name of its column in the table that the condition is applied to.
        self._leaves: dict[Leaf, str] = {}
        self._expression = self._parsed(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return Predicate, (self.text, self._place)

    @property
    def keys(self) -> list[str]:
        """The metadata keys that it asks for."""
        return list(dict.fromkeys(leaf.key for leaf in self._leaves))

    def of(self, metadata: Sequence[Mapping[str, Any]]) -> Decision:
        """What it says of rows with these metadata."""
        columns: dict[str, pa.Array] = {}
        others: dict[tuple[str, str], tuple[int, str]] = {}
        for leaf, column in self._leaves.items():
            values = [leaf.value(row) for row in metadata]
            wrong = [one for one in values if one is not None and not leaf.suits(one)]
            if wrong:
                others[leaf.key, leaf.kind] = len(wrong), as_text(wrong[0])
            said = [
                leaf.says(one, leaf.constant) if one is not None and leaf.suits(one) else None
                for one in values
            ]
            columns[column] = pa.array(said, pa.bool_())
        table = ds.dataset(pa.table(columns)).to_table(columns={"holds": self._expression})
        holds = table["holds"]
        return Decision(
            holds.fill_null(False).to_numpy().astype(np.bool_),
            holds.is_null().to_numpy().astype(np.bool_),
            others,
        )

    def _parsed(self, text: str) -> pc.Expression:
        if len(text) > _MOST_CHARACTERS:
            raise self._wrong(
                f"it has {len(text):,} characters, and {_MOST_CHARACTERS:,} are the most"
            )
        text = _ALONE.sub(_doubled, text.strip())
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._wrong(f"it cannot be read{_guess(text)}") from error
        if joined := _joined(text):
            raise self._wrong(f"between {joined[0]} and {joined[1]} a comma is missing")
        try:
            return self._of(tree.body)
        except RecursionError as error:
            raise self._wrong("it is nested too deeply") from error

    def _of(self, node: ast.expr) -> pc.Expression:
        match node:
            case ast.BoolOp(op=op, values=[first, *rest]):
                found = self._of(first)
                for one in rest:
                    found = (
                        found & self._of(one) if isinstance(op, ast.And) else found | self._of(one)
                    )
                return found
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._of(operand)
            case ast.Compare(left=left, ops=ops, comparators=right):
                sides = [left, *right]
                parts = [self._compared(*of) for of in zip(sides, ops, right, strict=False)]
                found = parts[0]
                for part in parts[1:]:
                    found &= part
                return found
        if (key := _key(node)) is not None:
            return self._field(key, "truth", _is_in, frozenset([True]))
        raise self._wrong(f"{ast.unparse(node)!r} is no comparison of a key with a value")

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        key, turned = _key(left), False
        if key is None and (key := _key(right)) is not None:
            left, right, turned = right, left, True
        what = f"{ast.unparse(left)!r} and {ast.unparse(right)!r}"
        if key is None:
            raise self._wrong(f"of {what} neither is a key of the metadata")
        if _key(right) is not None:
            raise self._wrong(f"{what} are both keys of the metadata; text values need quotes")
        if isinstance(op, ast.In | ast.NotIn):
            if turned or not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                raise self._wrong(f"after `in` there has to be a list of values, with {what}")
            found = self._equal(key, right.elts)
            return ~found if isinstance(op, ast.NotIn) else found
        if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            found = self._equal(key, [right])
            return ~found if isinstance(op, ast.NotEq | ast.IsNot) else found
        value = self._constant(right)
        if _kind_of(value) not in ("text", "number"):
            raise self._wrong(f"{what} cannot be ordered")
        asked = _TURNED[type(op)] if turned else type(op)
        return self._field(key, _kind_of(value), _ORDERS[asked], value)

    def _equal(self, key: str, nodes: list[ast.expr]) -> pc.Expression:
        """That it is one of some constants."""
        of_kind: dict[Kind, list[Any]] = {}
        for value in map(self._constant, nodes):
            of_kind.setdefault(_kind_of(value), []).append(value)
        parts = [
            # Of null it only matters whether there is a value at all.
            self._field(key, kind, _is_there, None).is_null()
            if kind == "any"
            else self._field(key, kind, _is_in, frozenset(values))
            for kind, values in of_kind.items()
        ]
        return functools.reduce(operator.or_, parts)

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise self._wrong(f"{ast.unparse(node)!r} is no value") from error
        if value is not None and not isinstance(value, str | int | float):
            raise self._wrong(f"{ast.unparse(node)!r} is no text, number, true, false or null")
        return value

    def _field(
        self, key: str, kind: Kind, says: Callable[[Any, Any], bool], constant: Any
    ) -> pc.Expression:
        leaf = Leaf(key, kind, says, constant)
        return pc.field(self._leaves.setdefault(leaf, f"{len(self._leaves)} {key}"))

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"{self._place}: {self.text[:200]!r}: {why}. {_HINT}.")


def _key(node: ast.expr) -> str | None:
    """The key that a part of an expression is: a name, names with dots, or field('...')."""
    match node:
        case ast.Name(id=name):
            return None if name in _CONSTANTS else name
        case ast.Attribute(value=value, attr=name):
            before = _key(value)
            return None if before is None else f"{before}.{name}"
        case ast.Call(func=ast.Name(id="field"), args=[ast.Constant(value=str(key))], keywords=[]):
            return key
    return None


def _kind_of(value: object) -> Kind:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "any"


def _is_in(value: object, constants: frozenset[object]) -> bool:
    return value in constants


def _is_there(_value: object, _constant: None) -> bool:
    return True


def _doubled(found: re.Match[str]) -> str:
    """A sign of equality as Python writes it; a text as it is."""
    return "==" if found[0] == "=" else found[0]


def _joined(text: str) -> tuple[str, str] | None:
    """Two texts with nothing between them, which Python takes for one."""
    before = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and before is not None:
            return before, token.string
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.string if token.type == tokenize.STRING else None
    return None


def _guess(text: str) -> str:
    """What may be meant by what cannot be read."""
    for name in re.findall(r"[^\W\d][\w.]*", _QUOTED.sub("", text)):
        if not _RESERVED.isdisjoint(name.split(".")):
            return f"; {name} has a reserved word, and as a key is written field({name!r})"
    words = text.split()
    if any(word in ("AND", "OR", "NOT", "IN", "IS", "NULL") for word in words):
        return "; and, or, not, in, is and null are written in small letters"
    if "<>" in text:
        return "; unequal is written !="
    if "&" in text or "|" in text:
        return "; write and, or"
    return ""
