"""Transitions: concepts of slots, and how tokens move between them from one slot to the next (stage 6)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aligncut_cli.store.kinds.base import IMAGE_ID, IMAGES, PER_BLOCK, Array, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aligncut_cli.store.kinds.base import AnyStore
    from aligncut_cli.store.nodes import NodeAxes

# of one pair of slots, --from and --to; {mask} is a kind of tokens: all, foreground or background
FROM = Array("concepts/from", "float32", ("concept", "dim"), about="centres in the first slot", when="--from")
TO = Array("concepts/to", "float32", ("concept", "dim"), about="centres in the second slot", when="--from")
RADIUS = Array("radius", "float64", ("slot",), about="of the concepts of both slots", when="--from")
PAIR = (FROM, TO, RADIUS)
PAIR_MOVES = {
    "probability": Array(
        "probability/{mask}", "float64", ("from", "to"), about="share of A's tokens that lie in B", when="--from"
    ),
    "nowhere": Array("nowhere/{mask}", "float64", ("from",), about="share that lies in no concept", when="--from"),
    "counts": Array("counts/{mask}", "int64", ("from", "to"), about="tokens in A and in B", when="--from"),
    "members": Array("members/{mask}", "int64", ("from",), about="tokens in A", when="--from"),
}

# along the layers of a model, --along
_STEP = {"step": 1}
_LAYER = {"layer": 1}
MODEL_CONCEPTS = Array(
    "{model}/concepts", "float32", ("layer", "concept", "dim"), _LAYER, about="centres", when="--along"
)
MODEL_RADIUS = Array("{model}/radius", "float64", ("layer",), _LAYER, about="of a layer's concepts", when="--along")
ALONG = (MODEL_CONCEPTS, MODEL_RADIUS)
ALONG_MOVES = {
    "probability": Array(
        "{model}/probability",
        "float64",
        ("mask", "step", "from", "to"),
        _STEP,
        about="as above, from each layer to the next",
        when="--along",
    ),
    "nowhere": Array("{model}/nowhere", "float64", ("mask", "step", "from"), _STEP, about="as above", when="--along"),
    "counts": Array("{model}/counts", "int64", ("mask", "step", "from", "to"), _STEP, about="as above", when="--along"),
    "members": Array("{model}/members", "int64", ("mask", "step", "from"), _STEP, about="as above", when="--along"),
}
_TESTED = "--along and --masks"
TESTED = {
    "bifurcation": Array(
        "{model}/bifurcation", "float64", ("step",), _STEP, about="how far figure and ground part", when=_TESTED
    ),
    "expected": Array(
        "{model}/expected", "float64", ("step",), _STEP, about="the same with masks of other images", when=_TESTED
    ),
    "p": Array("{model}/p", "float64", ("step",), _STEP, about="of exchanging masks between images", when=_TESTED),
    "p_corrected": Array(
        "{model}/p_corrected", "float64", ("step",), _STEP, about="for the highest of all steps", when=_TESTED
    ),
}
TRAJECTORY = Array(
    "{model}/trajectory", "float32", ("followed", "layer", "dim"), about="places of followed tokens, layer by layer"
)
FOLLOWED = Array("{model}/followed", "int32", ("followed", "image_row_column"), about="which tokens these are")
TRACKS = (TRAJECTORY, FOLLOWED)
KIND = Kind(
    "transitions",
    (*PAIR, *PAIR_MOVES.values(), *ALONG, *ALONG_MOVES.values(), *TESTED.values(), *TRACKS, *IMAGES),
)

# while the stage runs
CENTRES = Array("centres", "float32", ("slot", "concept", "dim"), {"slot": 1})
SLOT_RADIUS = Array("radius", "float64", ("slot",), {"slot": 1})
FOREGROUND = Array("foreground/{model}", "int8", ("image", "patch"), {"image": PER_BLOCK})
TESTS = Array("tests", "float64", ("pair", "test"), {"pair": 1})
NULL = Array("null", "float64", ("pair", "permutation"), {"pair": 1})
CORRECTED = Array("corrected", "float64", ("pair",))


@dataclass(frozen=True)
class Moves:
    """How tokens move along a list of slots; the first axis of every array is the kind of tokens.

    slots       : as MODEL:LAYER, one more than there are steps
    probability : (kind, step, from, to) share of the tokens in A that lie in B
    counts      : (kind, step, from, to) tokens in A and in B
    members     : (kind, step, from) tokens in A
    """

    slots: list[str]
    probability: NDArray[np.float64]
    counts: NDArray[np.int64]
    members: NDArray[np.int64]

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Return the slots that each step leads from and to."""
        return list(itertools.pairwise(self.slots))


class Transitions:
    """A finished transitions store."""

    def __init__(self, store: AnyStore) -> None:
        self.store = store

    @property
    def axes(self) -> NodeAxes:
        """Return the node axes of the models whose tokens are followed."""
        return self.store.axes

    @property
    def token_kinds(self) -> list[str]:
        """Return which tokens are counted apart: `all`, and with masks `foreground` and `background`."""
        return list(self.store.record["masks"])

    @property
    def pair(self) -> tuple[str, str] | None:
        """Return the slots of --from and --to, or None where they were not given."""
        params = self.store.record["params"]
        return None if params["from_slot"] is None else (params["from_slot"], params["to_slot"])

    @property
    def along(self) -> list[str]:
        """Return the models that were followed layer by layer, in the order asked for."""
        return list(dict.fromkeys(self.store.record["params"]["along"]))

    @property
    def least_tokens(self) -> int:
        """Return how many tokens a probability has to rest on in order not to be marked."""
        return int(self.store.record["params"].get("least_tokens", 0))  # older stores mark none

    @property
    def bifurcations(self) -> list[dict[str, Any]]:
        """Return slots, radii and test of every pair of slots, in order."""
        return list(self.store.record["bifurcations"])

    def read_pair(self) -> Moves:
        """Return the moves from --from to --to, a single step."""
        import numpy as np

        def stack(name: str) -> Any:
            return np.stack([self.store.read(PAIR_MOVES[name].at(kind)) for kind in self.token_kinds])[:, None]

        return Moves(list(self.pair or ()), stack("probability"), stack("counts"), stack("members"))

    def read_along(self, model: str) -> Moves:
        """Return the moves from each layer of a model to the next."""
        arrays = (self.store.read(ALONG_MOVES[name].at(model)) for name in ("probability", "counts", "members"))
        return Moves([f"{model}:{layer}" for layer in self.axes[model].layers], *arrays)

    def read_concepts(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the centres of both slots of the pair, each (concept, dim)."""
        return self.store.read(FROM.at()), self.store.read(TO.at())

    def read_layer_concepts(self, model: str) -> NDArray[Any]:
        """Return the centres of every layer of a model that was followed, (layer, concept, dim)."""
        return self.store.read(MODEL_CONCEPTS.at(model))

    def read_radius(self) -> NDArray[np.float64]:
        """Return the radius of the concepts of both slots of the pair."""
        return self.store.read(RADIUS.at())

    def read_tests(self, model: str) -> Mapping[str, NDArray[np.float64]] | None:
        """Return the arrays of TESTED for every step of a model; None where there were no masks."""
        if len(self.token_kinds) == 1:
            return None
        there = {name: array.at(model) for name, array in TESTED.items()}
        return {name: self.store.read(path) for name, path in there.items() if self.store.has(path)}

    def read_trajectory(self, model: str) -> NDArray[Any]:
        """Return the places of followed tokens, (followed, layer, dim)."""
        return self.store.read(TRAJECTORY.at(model))

    def name_followed(self, model: str) -> list[str]:
        """Return the followed tokens as they are named on the command line, IMAGE:ROW,COL."""
        ids = self.store.read(IMAGE_ID.at())
        return [f"{ids[image]}:{row},{column}" for image, row, column in self.store.read(FOLLOWED.at(model))]
