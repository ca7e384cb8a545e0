"""How good an attribution is, by training again: a section of the configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rayinfluence.config_objective import of_a_module
from rayinfluence.config_places import Address, Section
from rayinfluence.config_scored import Damping

#: The recipe that comes with rayinfluence.
CAUSAL_LM = "causal_lm"


class SizesConfig(Section):
    """Of a new GPT-2."""

    context: int = Field(ge=2)
    """The most tokens that it takes."""
    width: int = Field(ge=1)
    """Of its hidden states."""
    layers: int = Field(ge=1)
    """How many blocks."""
    heads: int = Field(ge=1)
    """Of attention, in each block."""
    vocabulary: int | None = Field(default=None, ge=1)
    """Tokens that it knows; None is what the tokenizer has."""


class RecipeConfig(Section):
    """Options of the recipe ``causal_lm``."""

    start: Address | None = None
    """The folder of the model that training began from, with its tokenizer, the same on all nodes.

    Name this to fine-tune, or ``sizes`` to train from nothing."""
    sizes: SizesConfig | None = None
    """Of a new GPT-2, whose weights are drawn by the seed of the training."""
    epochs: int = Field(default=3, ge=1)
    """How often each sequence is seen."""
    batch: int = Field(default=32, ge=1)
    """Sequences of a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW, at its highest; it rises, and falls as a cosine to a twentieth."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW, on matrices."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """The share of the steps in which the learning rate rises."""
    threads: int = Field(default=1, ge=1)
    """Of a training; it decides the weights' last bits, and a task has one CPU."""

    @model_validator(mode="after")
    def _begins_once(self) -> RecipeConfig:
        if self.start is not None and self.sizes is not None:
            raise ValueError("start and sizes: a model is tuned, or new; leave one of them out.")
        return self


class RemovalConfig(Section):
    """Training without what methods put first."""

    share: float = Field(default=0.01, gt=0, lt=1)
    """Of the sequences, that is left out for a query."""
    queries: int = Field(default=10, ge=1)
    """The first so many queries: of each there is a training for each method and seed."""


class GroupsConfig(Section):
    """Training without groups of sequences."""

    key: str
    """Of the documents' metadata; a group are those with the same value."""
    most: int = Field(default=20, ge=2)
    """The largest so many groups: of each there is a training for each seed."""


class ResponseConfig(Section):
    """Moving the weights to the minimum of the proximal Bregman objective."""

    sequences: int = Field(default=20, ge=3)
    """So many, at random, are taken out, one at a time; each takes minutes."""
    queries: int = Field(default=5, ge=1)
    """The first so many queries."""


class ShapleyConfig(Section):
    """What `rayinfluence shapley` finds: what groups of sequences are worth, by training again."""

    key: str | None = None
    """Of the documents' metadata: sequences with the same value are a player of the game.

    None makes each sequence a player of its own."""
    groups: int | None = Field(default=None, ge=2)
    """The largest so many are players, all others are in every coalition; None is all."""
    values: list[Literal["shapley", "banzhaf", "beta"]] = Field(default=["shapley"], min_length=1)
    """Which means of what a player adds to others."""
    by: Literal["enumeration", "sampling"] | None = None
    """All coalitions (10 players at most), or some at random; None is all where they fit ``most``.

    Random orders, of Banzhaf values coalitions by coins."""
    alpha: float = Field(default=4, gt=0)
    """Of Beta values: the larger, the more weight is on SMALL coalitions."""
    beta: float = Field(default=1, gt=0)
    """Of Beta values: the larger, the more weight is on large coalitions."""
    permutations: int = Field(default=50, ge=2)
    """Random orders, at most."""
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    """An order is cut short where all utilities are within this share of v(all) - v(none)."""
    draws: int = Field(default=100, ge=8)
    """Coalitions of Banzhaf values, at most."""
    error: float = Field(default=0.02, ge=0)
    """Draws end once all standard errors are below this share of v(all) - v(none); 0: never."""
    most: int = Field(default=1000, ge=1)
    """Trainings that may be spent; what may take more is refused before it starts."""
    utilities: list[Literal["queries", "mean", "validation"]] = Field(
        default=["queries"], min_length=1
    )
    """What coalitions are worth: each query's f, their mean, or what ``validation`` says."""
    validation: Address | None = None
    """A file of documents; its utility is their mean log-probability per token."""
    neighbours: int | None = Field(default=None, ge=1)
    """K of the values by nearest hidden states, which train nothing; None is without them."""

    @field_validator("values", "utilities")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(names))

    @model_validator(mode="after")
    def _validation_is_there(self) -> ShapleyConfig:
        if ("validation" in self.utilities) != (self.validation is not None):
            raise ValueError(
                "validation: it is a file of documents, and a name in utilities; give both, or "
                "neither."
            )
        return self


class EvaluationConfig(Section):
    """Which models are trained again, on parts of the corpus, and how.

    It decides nothing of factors, scores or results.
    """

    recipe: str = CAUSAL_LM
    """``causal_lm``: AdamW on log-probabilities of tokens, as ``options`` say.

    Or ``module:function`` of your own, which is called with the sequences (lists of token ids),
    how often each is seen [N] (0, 1 or more) and a seed, and returns the trained model."""
    options: RecipeConfig = Field(default_factory=RecipeConfig)
    """Of ``causal_lm``; of a function of your own, ``start`` alone."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Seeds of training: every subset is trained with each of them."""
    half: int = Field(default=0, ge=0)
    """How many random halves of the corpus, in pairs that complement each other."""
    drop: dict[float, int] = Field(default_factory=dict)
    """By share of the sequences, how many random subsets lack so many of them."""
    removal: RemovalConfig | None = None
    """Train without the first sequences of each method, and see what is lost (QLD)."""
    groups: GroupsConfig | None = None
    """Leave groups of sequences out, one by one."""
    add: int = Field(default=0, ge=0)
    """How many sequences are seen once more, each in a training of its own.

    Half of them at random, half the first of queries by the first method that predicts changes."""
    known: str | None = None
    """A key of metadata that queries and documents have: documents with a query's value are those
    that belong to it."""
    tail_patch: int = Field(default=0, ge=0)
    """Of how many first sequences a step is made, from the trained model, for each query."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Methods with other settings, by a name: keys of ``scan``, one method each.

    Such as ``ekfac at 0.01: {damping_scale: 0.01}``."""
    unrolled: bool = False
    """Measure predictions by the derivative of the training itself, along its steps, too.

    What linear predictions could be at best; it takes two to three trainings a query. For
    ``causal_lm``."""
    dampings: list[Damping] = Field(default=[1, 0.1, 0.01, 0.001, 0.0001], min_length=2)
    """Values of ``scan.damping_scale`` that ``evaluate damping`` tries."""
    pbrf: ResponseConfig = Field(default_factory=ResponseConfig)
    """How much ``evaluate pbrf`` asks; it trains nothing, and needs no other key."""
    shapley: ShapleyConfig | None = None
    """What `rayinfluence shapley` finds of groups."""
    bank: Address | None = None
    """A table of what was trained before, which is used instead of training."""

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe(cls, name: str) -> str:
        return name if name == CAUSAL_LM else of_a_module(name)

    @field_validator("options", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value  # in YAML, all of its keys are commented out

    @field_validator("seeds")
    @classmethod
    def _seeds_are_different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds have to be different, and 0 at least.")
        return seeds

    @field_validator("dampings")
    @classmethod
    def _dampings_are_different(cls, dampings: list[float]) -> list[float]:
        if len(set(dampings)) < len(dampings):
            raise ValueError("dampings have to be different.")
        return dampings

    @field_validator("drop")
    @classmethod
    def _shares(cls, drop: dict[float, int]) -> dict[float, int]:
        for share, n in drop.items():
            if not 0 < share < 1 or n < 0:
                raise ValueError(
                    f"{share:g}: {n}: write a share between 0 and 1 and how many subsets, such as "
                    "{0.01: 80}."
                )
        return drop

    @model_validator(mode="after")
    def _own_recipes_have_no_options(self) -> EvaluationConfig:
        # Not whether they are set: a configuration that a run has left sets all of them.
        ours, defaults = self.options.model_dump(), RecipeConfig().model_dump()
        given = [key for key in ours if ours[key] != defaults[key] and key != "start"]
        if self.recipe != CAUSAL_LM and given:
            raise ValueError(
                f"options.{given[0]}: {self.recipe} decides that by itself; options are of "
                f"{CAUSAL_LM}. Leave it out."
            )
        return self
