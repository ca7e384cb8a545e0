"""The methods that a configuration may name, and what it has to know of them."""

from __future__ import annotations

from typing import Literal

#: Those of `methods/registry.py`; a configuration is read without torch, and so without that.
Method = Literal[
    "ekfac",
    "kfac",
    "diagonal",
    "koh_liang",
    "gradient_product",
    "cosine",
    "bm25",
    "tfidf",
    "self_influence",
    "representer",
]
#: Of those, the ones that read each sequence by itself, and ask no query.
BY_ITSELF: frozenset[Method] = frozenset({"self_influence"})
#: Those among them that have no token influences, as `methods/registry.py` says.
NO_DERIVATIVES = frozenset({"cosine", "bm25", "tfidf", "self_influence", "representer"})
#: Those among them that have a curvature, and so a damping.
DAMPED: frozenset[Method] = frozenset({"ekfac", "kfac", "diagonal", "self_influence", "koh_liang"})
