"""Transitions: concepts of slots, and how tokens move between them from one slot to the next (stage 6)."""

from __future__ import annotations

from aligncut_cli.store.kinds.base import IMAGES, Array, Kind

# of one pair of slots, --from and --to
FROM = Array("concepts/from", "float32", ("concept", "dim"), about="centres in the first slot", when="--from")
TO = Array("concepts/to", "float32", ("concept", "dim"), about="centres in the second slot", when="--from")
RADIUS = Array("radius", "float64", ("slot",), about="of the concepts of both slots", when="--from")
PROBABILITY = Array(
    "probability/{mask}", "float64", ("from", "to"), about="share of A's tokens that lie in B", when="--from"
)
NOWHERE = Array("nowhere/{mask}", "float64", ("from",), about="share that lies in no concept", when="--from")
COUNTS = Array("counts/{mask}", "int64", ("from", "to"), about="tokens in A and in B", when="--from")
MEMBERS = Array("members/{mask}", "int64", ("from",), about="tokens in A", when="--from")
PAIR = (FROM, TO, RADIUS)
PAIR_COUNTS = (PROBABILITY, NOWHERE, COUNTS, MEMBERS)

# along the layers of a model, --along
_STEP = {"step": 1}
MODEL_CONCEPTS = Array(
    "{model}/concepts", "float32", ("layer", "concept", "dim"), {"layer": 1}, about="centres", when="--along"
)
MODEL_RADIUS = Array(
    "{model}/radius", "float64", ("layer",), {"layer": 1}, about="of a layer's concepts", when="--along"
)
MODEL_PROBABILITY = Array(
    "{model}/probability",
    "float64",
    ("mask", "step", "from", "to"),
    _STEP,
    about="as above, from each layer to the next",
    when="--along",
)
MODEL_NOWHERE = Array("{model}/nowhere", "float64", ("mask", "step", "from"), _STEP, about="as above", when="--along")
MODEL_COUNTS = Array("{model}/counts", "int64", ("mask", "step", "from", "to"), _STEP, about="as above", when="--along")
MODEL_MEMBERS = Array("{model}/members", "int64", ("mask", "step", "from"), _STEP, about="as above", when="--along")
BIFURCATION = Array(
    "{model}/bifurcation",
    "float64",
    ("step",),
    _STEP,
    about="how far figure and ground part",
    when="--along and --masks",
)
EXPECTED = Array(
    "{model}/expected", "float64", ("step",), _STEP, about="the same by chance", when="--along and --masks"
)
P = Array("{model}/p", "float64", ("step",), _STEP, about="of the permutation test", when="--along and --masks")
TRAJECTORY = Array(
    "{model}/trajectory", "float32", ("followed", "layer", "dim"), about="places of followed tokens, layer by layer"
)
FOLLOWED = Array("{model}/followed", "int32", ("followed", "image_row_column"), about="which tokens these are")
ALONG = (MODEL_CONCEPTS, MODEL_RADIUS)
ALONG_COUNTS = (MODEL_PROBABILITY, MODEL_NOWHERE, MODEL_COUNTS, MODEL_MEMBERS)
TESTED = (BIFURCATION, EXPECTED, P)
KIND = Kind("transitions", (*PAIR, *PAIR_COUNTS, *ALONG, *ALONG_COUNTS, *TESTED, TRAJECTORY, FOLLOWED, *IMAGES))

# while the stage runs
CENTRES = Array("centres", "float32", ("slot", "concept", "dim"), {"slot": 1})
SLOT_RADIUS = Array("radius", "float64", ("slot",), {"slot": 1})
FOREGROUND = Array("foreground/{model}", "int8", ("image", "patch"), {"image": "images per block"})
TESTS = Array("tests", "float64", ("pair", "test"), {"pair": 1})
