"""Text on its way to a screen or into a log: what others wrote, and sizes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Characters that act instead of showing: control and format characters (with them bidirectional
#: marks, which can make text read as something else, and tags) and separators of lines.
_ACTING = {"Cc", "Cf", "Zl", "Zp"}
#: Format characters that show all the same: signs of Arabic, Syriac and Kaithi.
_SHOWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
#: Others that show nothing: fillers, joiners, variation selectors (but the two that emoji have).
_EMPTY = {
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE0E),
    *range(0xE0000, 0xE1000),
}

#: Credentials in addresses are a user with a password (of a web address also a user alone, since
#: tokens are given so) and parameters such as a signature or a token.
_HIDDEN = "***"
#: The user's part of an address, and whether a password is in it.
_USER = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^\s/?#@'\"]+)@")
#: An organisation and a name; a revision that has a slash is mostly of pull requests.
_REPOSITORY = re.compile(r"(?!refs/)[\w.-]+/[\w.-]")
#: A parameter, and a name that says that its value is secret.
_PARAMETER = re.compile(r"(?P<name>[?&;#][\w.%-]+)=(?P<value>[^\s&;#'\"]*[^\s&;#'\".,:)])")
_SECRET_NAME = re.compile(
    r".(.*(token|secret|signature|credential|passw|key|auth).*|sig|pw|pwd|code|jwt)", re.IGNORECASE
)


class _Visible(dict[int, int | str]):
    """What each character is shown as, worked out when it is first met."""

    def __missing__(self, code: int) -> int | str:
        shown: int | str = code
        if 0xD800 <= code < 0xE000:
            shown = 0xFFFD  # half of a pair, which cannot be encoded
        elif code < 0x20:
            shown = 0x2400 + code
        elif code == 0x7F:
            shown = 0x2421
        elif code in _EMPTY or (unicodedata.category(chr(code)) in _ACTING and code not in _SHOWN):
            shown = f"[U+{code:04X}]"
        self[code] = shown
        return shown


_VISIBLE = _Visible({0x09: 0x09, 0x0A: 0x0A})
#: What keeps letters apart, or draws signs as one.
_JOINERS = re.compile("[\u200c\u200d]")
_TOGETHER = "\u200d"
#: The combining class of the sign by which Indic scripts take a consonant's vowel away.
_VIRAMA = 9


def visible(text: str) -> str:
    """Replace characters that act on a screen by ones that show; tabs and newlines stay.

    Joiners stay where scripts and emoji are written with them.
    """
    if text.isascii() and text.isprintable():
        return text
    return _shown(text, 0, len(text))


def visible_parts(texts: Sequence[str]) -> list[str]:
    """The same of texts that are parts of one."""
    whole, start, shown = "".join(texts), 0, []
    for text in texts:
        shown.append(_shown(whole, start, start + len(text)))
        start += len(text)
    return shown


def _shown(text: str, start: int, end: int) -> str:
    """A part of a text as it is shown within it."""
    parts = []
    for joiner in _JOINERS.finditer(text, start, end):
        if _is_needed(text, joiner.start()):
            parts += [text[start : joiner.start()].translate(_VISIBLE), joiner[0]]
            start = joiner.end()
    return "".join([*parts, text[start:end].translate(_VISIBLE)])


def _is_needed(text: str, place: int) -> bool:
    """Whether a joiner stands where it changes how its neighbours are drawn.

    Between emoji, after a letter of the Arabic kind (Persian writes so within words), and beside a
    virama; elsewhere it hides.
    """
    before = place - 1
    while before >= 0 and unicodedata.category(text[before]) in ("Mn", "Me", "Sk"):
        before -= 1  # marks, and the colours of skins
    if before < 0 or place + 1 == len(text):
        return False
    last, following = text[before], text[place + 1]
    if text[place] == _TOGETHER and unicodedata.category(last) == "So":
        return unicodedata.category(following) in ("So", "Sm")
    beside = (text[place - 1], following)
    return (
        unicodedata.bidirectional(last) == "AL" or _VIRAMA in map(unicodedata.combining, beside)
    ) and not _JOINERS.match(following)


def visible_line(text: str) -> str:
    """The same in one line: a newline is shown, and begins none."""
    return visible(text).replace("\n", "␊")


def in_bytes(size: float) -> str:
    """A size in bytes with the unit that fits it: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.1f} {unit}" if unit != "B" else f"{size:,.0f} B"
        size /= 1024
    return f"{size:,.1f} TiB"


def holds_credentials(address: str) -> bool:
    """Whether an address says more than where something is."""
    if "://" not in address:
        return False
    named = (_SECRET_NAME.fullmatch(match["name"]) for match in _PARAMETER.finditer(address))
    return any(map(_is_secret, _USER.finditer(address))) or any(named)


def without_credentials(text: str) -> str:
    """A text with the users and the parameters of all addresses in it hidden."""
    if "://" not in text:
        return text
    hidden = _USER.sub(
        lambda match: f"{match['scheme']}{_HIDDEN}@" if _is_secret(match) else match[0], text
    )
    return _PARAMETER.sub(rf"\g<name>={_HIDDEN}", hidden)


def _is_secret(user: re.Match[str]) -> bool:
    scheme = user["scheme"].lower()
    # What stands before the @ of a hub's address is a repository, and after it a revision; before
    # an organisation and a name it is whoever asks.
    if scheme == "hf://" and _REPOSITORY.match(user.string, user.end()):
        return True
    return ":" in user["user"] or scheme.startswith("http")
