"""Parameters refuse what is out of bounds, whether they come from the command line or from Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aligncut_cli import params
from aligncut_cli.errors import UsageError
from aligncut_cli.knobs import StageParams
from aligncut_cli.params import AlignParams, EigsParams, SegmentParams, TsneParams

STAGES = [kind for kind in vars(params).values() if isinstance(kind, type) and issubclass(kind, StageParams)]


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (EigsParams, {"n_eig": 0}, "--n-eig 0: give a number at least 1"),
        (EigsParams, {"group": "nonsense"}, "all, model, layer"),
        (EigsParams, {"seed": -3}, "--seed -3"),
        (EigsParams, {"n_eig": 2.5}, "--n-eig 2.5: expected int"),
        (EigsParams, {"n_eig": True}, "--n-eig True: expected int"),
        (EigsParams, {"roi": 3}, "--roi 3: expected str"),
        (AlignParams, {"lambda_eigen": float("nan")}, "--lambda-eigen nan"),
        (AlignParams, {"test_share": 0.7}, "at least 0.01 and at most 0.5"),
        (AlignParams, {"centre": 1}, "--centre 1: expected bool"),
        (SegmentParams, {"clusters": (4, "five")}, "--clusters 'five'"),
        (TsneParams, {"dims": 4}, "at most 3"),
    ],
)
def test_out_of_bounds_is_refused_with_the_option_s_name(
    kind: type[StageParams], values: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**values)
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", STAGES)
def test_every_default_and_every_bound_itself_is_accepted(kind: type[StageParams]) -> None:
    kind()
    for item in dataclasses.fields(kind):
        for bound in (item.metadata["min"], item.metadata["max"]):
            if bound is not None:
                value = type(item.default)(bound) if isinstance(item.default, int | float) else bound
                kind(**{item.name: (value,) if isinstance(item.default, tuple) else value})
