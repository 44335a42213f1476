"""Whether an alignment has seen the responses to images that are held out here, and which of its fits has not."""

from __future__ import annotations

from collections.abc import Sequence

from aligncut_cli.errors import BadInput
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.sources import Source
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.store.kinds.alignment import Alignment


def choose_fits(
    alignment: Alignment | None, sources: Sequence[Source], paths: ResponsePaths, params: DecodeParams
) -> list[int]:
    """Return for each fold the fit of the alignment whose images and responses it does not hold out.

    A consensus has seen no responses, so its first fit serves all folds. One fitted to these responses serves only if
    it was made with the same folds: its fit k has held out the images of fold k.

    raises : BadInput where every fit has seen held-out responses
    """
    first = [0] * params.folds
    if alignment is None or alignment.store.record["params"].get("target") == "consensus":
        return first
    inputs = {item["digest"] for item in alignment.store.record["inputs"]}
    if paths.as_input().digest not in inputs:
        return first  # other responses: nothing of those that are held out here
    theirs = alignment.store.record["params"]
    seed = theirs.get("seed") if theirs.get("split_seed") is None else theirs["split_seed"]
    same = {source.record.digest for source in sources} <= inputs
    alike = (theirs.get("folds"), theirs.get("validation_share"), seed) == (
        params.folds,
        params.validation_share,
        params.seed,
    )
    if same and alike:
        return list(range(params.folds))
    raise BadInput(
        f"{alignment.store.path} was fitted to responses that would be held out here",
        why="Its maps know them, so decoding would look better than it is.",
        do=f"Make it with the same folds: aligncut align F.zarr -o A.zarr --responses R --folds {params.folds} "
        f"--split-seed {params.seed} --validation-share {params.validation_share}; or with --target consensus.",
    )
