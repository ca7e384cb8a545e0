"""How the last layer is fitted again for representer points: a part of the section of the scan."""

from __future__ import annotations

from pydantic import Field

from rayinfluence.config_places import Section


class RepresenterConfig(Section):
    """The fit of the last layer, with a penalty l |W|^2, that `representer` is of."""

    l2_scale: float = Field(default=1.0, gt=0)
    """2 l over the mean curvature of the loss in the layer's weights, as it is known beforehand."""
    l2: float | None = Field(default=None, gt=0)
    """An absolute l, instead of ``l2_scale``."""
    tolerance: float = Field(default=0.01, gt=0, lt=1)
    """Of |R| / |W|: how far the sum over representers may be from the layer. A fit that does not
    come so near within ``steps`` ends the run."""
    steps: int = Field(default=1000, ge=1)
    """Of L-BFGS, at most, up to the next multiple of 50, as that many are made at a time; with more
    a run goes on from where it stopped."""


def refuse_unrepresentable(query_function: str | None, function: str | None) -> None:
    """See that logits are asked for, and that the layer was trained on labels.

    Args:
        query_function: that queries ask for, where it is the user's own.
        function: that training maximised, likewise.

    Raises:
        ValueError: what is no sum over representers.
    """
    for key, name in (("query_function", query_function), ("objective.kind", function)):
        if name is not None:
            raise ValueError(
                f"scan.methods: representer shares out logits of tokens, of a layer that is fitted "
                f"to labels, and {name} ({key}) is a function of its own. Take representer out, or "
                "leave the function out."
            )
