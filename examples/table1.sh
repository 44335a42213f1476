#!/usr/bin/env bash
# The paper's Table 1 for your own data: ./table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]
#
# Fits lambda_eigen in {1, 0.1, 0} with three seeds each and prints R2 (variance explained on held-out images) per ROI
# with its deviation over seeds. A fit that is done is not repeated.
set -euo pipefail

features=${1:?usage: table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]}
responses=${2:?usage: table1.sh FEATURES RESPONSES [OUTPUT_FOLDER] [further align options]}
out=${3:-table1}
shift $(($# < 3 ? $# : 3))

mkdir -p "$out"
for lambda in 1 0.1 0; do
    aligncut align "$features" -o "$out/lambda-$lambda.zarr" --responses "$responses" \
        --lambda-eigen "$lambda" --seeds 3 --json "$@" > "$out/lambda-$lambda.json"
done

python3 - "$out" <<'PYTHON'
import json
import pathlib
import sys

tables = {name: json.loads(pathlib.Path(sys.argv[1], f"lambda-{name}.json").read_text())["scores"] for name in ("1", "0.1", "0")}
rois = list(tables["1"])
print("lambda_eigen  " + "  ".join(f"{roi:>14}" for roi in rois))
for name, scores in tables.items():
    cells = (f"{scores[roi]['r2']:.3f} +- {scores[roi]['r2_sd']:.3f}" for roi in rois)
    print(f"{name:<12}  " + "  ".join(f"{cell:>14}" for cell in cells))
PYTHON
