"""Does the brain matter? Align the same features to five targets and print what each space is worth, as a table.

    python examples/targets.py f.zarr out --responses responses --rois rois.json
    python examples/targets.py f.zarr out --responses responses --masks figure=masks --masks categories=classes

brain     : maps learned from the responses (the paper's)
consensus : maps to what the slots share; the responses take no part, a ridge reads them out
both      : the responses inside the consensus
shuffled  : `brain` with image-response pairs shuffled
random    : `brain` with random targets of the responses' spectrum

Scores and the cosine of one token between models are of images that the maps were not fitted to. Every command is
printed as it would be typed, and one that is done is not repeated. Options that this script does not know go to
`aligncut align`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

TARGETS: dict[str, list[str]] = {
    "brain": ["--target", "brain"],
    "consensus": ["--target", "consensus"],
    "both": ["--target", "both"],
    "shuffled": ["--target", "brain", "--control", "shuffle"],
    "random": ["--target", "brain", "--control", "random"],
}
SAMPLE = ["--extend", "nystrom", "--n-sample"]


def call(*words: object) -> dict[str, Any]:
    """Run one command of aligncut and return what it prints as JSON."""
    arguments = [str(word) for word in words]
    print("$ aligncut", shlex.join(arguments), file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "aligncut_cli", *arguments, "--json", "-q"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def measure(name: str, features: Path, out: Path, args: argparse.Namespace, more: list[str]) -> dict[str, float]:
    """Return the figures of one target, by row of the table."""
    alignment = out / f"{name}.zarr"
    fit = ["--responses", args.responses, "--universal-dim", args.universal_dim, *more]
    scores = call("align", features, "-o", alignment, *fit, *TARGETS[name])
    joint = call("eigs", features, "--alignment", alignment, "-o", out / f"{name}-joint.zarr", *SAMPLE, 4000)
    row = {
        "R2": scores["scores"]["all"]["r2"],
        "r": scores["scores"]["all"]["r"],
        "cosine between models": scores["between_models"],
        "slot share": joint["shares"]["all"]["slot"],
        "photo share": joint["shares"]["all"]["photo"],
        "L_eigen": scores["eq10"]["as kept"]["validation_eigen"],
    }
    if args.masks:
        layers = out / f"{name}-layers.zarr"
        call("eigs", features, "--alignment", alignment, "-o", layers, "--group", "layer", "--n-eig", 10, *SAMPLE, 1000)
    for text in args.masks:
        title, _, masks = text.partition("=")
        found = out / f"{name}-{title}.zarr"
        call("segment", layers, "-o", found, "--masks", masks, "--resolution", "tokens")
        row[f"{title} mIoU, mean over slots"] = mean_miou(found)
    return row


def mean_miou(segments: Path) -> float:
    """Return the mean over all slots of a segments store."""
    import numpy as np
    import zarr

    values = zarr.open_array(segments, path="scores/miou", mode="r")[...]
    return float(np.nanmean(values))


def main() -> None:
    """Parse, run, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--responses", required=True)
    parser.add_argument("--universal-dim", default="128")
    parser.add_argument("--masks", action="append", default=[], metavar="TITLE=PATH", help="may be given again")
    args, more = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = {name: measure(name, args.features, args.out, args, more) for name in TARGETS}
    print("| | " + " | ".join(table) + " |")
    print("|---" * (1 + len(table)) + "|")
    for row in table["brain"]:
        print(f"| {row} | " + " | ".join(f"{column[row]:.3f}" for column in table.values()) + " |")


if __name__ == "__main__":
    main()
