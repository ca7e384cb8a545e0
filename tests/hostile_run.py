"""A whole run whose documents, metadata, ids, queries and names of files are an attacker's."""

from __future__ import annotations

import json
from pathlib import Path

from rayinfluence.config import RunConfig
from rayinfluence.testing import tiny_run

#: What acts where it is shown as it is: on a page, a terminal, a table of numbers, a reader.
TEXTS = (
    "<script>alert(1)</script>",
    "</script></style></template><img src=x onerror=alert(2)>",
    "\"' onmouseover=alert(3) autofocus onfocus=alert(4) x='\"",
    "<svg/onload=alert(5)><iframe srcdoc='<script>parent.alert(6)</script>'>",
    "<a href=javascript:alert(7)>w1</a><form action=http://127.0.0.1:9/><input name=x>",
    "<base href=http://127.0.0.1:9/><link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "{{7*7}} ${7*7} <!--",
    "\x1b]0;title\x07\x1b[2J\x1b[31m [bold red]w2[/]",
    "user\u202egnp.exe\u2066 w3\u2067 \u2069 \u2068",
    "nul\x00 back\x08\x08\x08 del\x7f csi\x9b31m",
    '=HYPERLINK("http://127.0.0.1:9","w4")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "\t=1+1",
    "\r=1+1",
    "pass\u200bword\u200d \ufeff\u2028\u2029",
    "\u0661\u0662\u0663 \uff11\uff12 \u07c1 \U0001d7cf 10\u03bf",
    "Z" + "\u0351\u0352\u0353" * 400,
    "漢" * 3000,
    "\ufdfd" * 200,
)
#: A word of 10 MB, which is one token.
WORD = "A" * 10_000_000


def hostile_run(folder: Path) -> RunConfig:
    """Write the files of such a run, and configure it."""
    config = tiny_run(folder, scan={"group_by": ["source"], "top": 20}, fit={"lanes": 2})
    (folder / "documents.jsonl").unlink()
    file = folder / "=1+1 <img src=x onerror=alert(8)> \x1b[31m\u202e.jsonl"
    rows = [
        {
            "id": f"{text}{n}",
            "text": f"{text} w{n} {text}",
            "source": text[:60],
            text[:60]: text[:60],
            text[:200]: text,
        }
        for n, text in enumerate(TEXTS)
    ]
    rows.append({"id": "long", "text": f"w1 {WORD} w2", "source": "=w", "\x1b[1mkey": "w"})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    queries = [
        {
            "query_id": text[:200],
            "prompt": f"w1 {text}",
            "completion": f" w{n} {text[:9]}",
            "kind": text,
        }
        for n, text in enumerate(TEXTS)
    ]
    Path(str(config.queries)).write_text("\n".join(map(json.dumps, queries)) + "\n")
    corpus = config.corpus.model_copy(update={"documents": [str(file).replace("[", "[[]")]})
    return config.model_copy(update={"corpus": corpus})
