#!/usr/bin/env bash
# The paper's Table 1 for your own data: ./table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]
#
# Fits lambda_eigen in {1, 0.1, 0} with three seeds each, as the paper does: from random maps, keeping the state with the
# lowest loss. Prints R2 (variance explained on held-out images) per ROI with its deviation over seeds, and Eq. 10 and
# L_eigen of the kept state on the validation images. Then the same from the closed-form start, which is the default of
# `align`. A fit that is done is not repeated.
set -euo pipefail

features=${1:?usage: table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]}
responses=${2:?usage: table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]}
out=${3:-table1}
shift $(($# < 3 ? $# : 3))

mkdir -p "$out"
fit() { # NAME LAMBDA OPTIONS...
    local name=$1 lambda=$2
    shift 2
    aligncut align "$features" -o "$out/$name-$lambda.zarr" --responses "$responses" \
        --lambda-eigen "$lambda" --seeds 3 --json "$@" > "$out/$name-$lambda.json"
}
for lambda in 1 0.1 0; do
    fit paper "$lambda" --start random --select loss --no-centre --epochs 100 --patience 100 --learning-rate 0.01 \
        --weight-decay 0.01 "$@"
    fit closed-form "$lambda" "$@"
done

python3 - "$out" <<'PYTHON'
import json
import pathlib
import sys

for way in ("paper", "closed-form"):
    found = {name: json.loads(pathlib.Path(sys.argv[1], f"{way}-{name}.json").read_text()) for name in ("1", "0.1", "0")}
    rois = list(found["1"]["scores"])
    print(f"{way}:  lambda_eigen  " + "  ".join(f"{roi:>14}" for roi in rois) + "    Eq. 10  L_eigen")
    for name, summary in found.items():
        cells = (f"{summary['scores'][roi]['r2']:.3f} +- {summary['scores'][roi]['r2_sd']:.3f}" for roi in rois)
        kept = summary["eq10"]["as kept"]
        text = "  ".join(f"{cell:>14}" for cell in cells)
        print(f"{'':{len(way)}}   {name:<12}  {text}  {kept['validation_loss']:8.3f} {kept['validation_eigen']:8.3f}")
PYTHON
