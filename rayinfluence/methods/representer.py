"""Representer points: the logits of the last layer, as a sum over training targets.

| method | score | source |
| --- | --- | --- |
| representer | sum over targets i of z, k of q: c_k alpha_{i, v_k} <f_i, f_k> | Yeh et al. 2018 |

f is what the last layer sees of a target, v_k the token that q asks for and c_k its weight there.
"""

from __future__ import annotations

from rayinfluence.storage.results.meaning import Meaning


class Representer:
    """Representer points of the last layer, fitted again with a penalty."""

    meaning = Meaning(
        "no estimate of a change: representer points share out the logits of the query's tokens "
        "over all training sequences. The last layer was fitted again with a penalty, and of that "
        "layer the logits, each less their mean over all tokens, are the sum of the scores. What "
        "is below the last layer is as it was.",
        "logits",
        predicts=False,
        has_layers=False,
    )
