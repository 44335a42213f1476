#!/usr/bin/env bash
# From a folder of photos to AlignedCut colours: ./photos.sh PHOTOS [OUTPUT_FOLDER]
#
# Every stage keeps its store, so a second run answers at once, and a run that was stopped goes on where it was.
# The models are the small ones that come with aligncut, which need no download. For the paper's, set
#   MODELS="--model clip --model dino --model mae"
set -euo pipefail

photos=${1:?usage: photos.sh PHOTOS [OUTPUT_FOLDER]}
out=${2:-aligncut-out}
models=${MODELS:---model demo-clip --model demo-dino --model demo-mae}

mkdir -p "$out"
# shellcheck disable=SC2086  # the models are several words
aligncut extract "$photos" -o "$out/features.zarr" $models
aligncut align "$out/features.zarr" -o "$out/alignment.zarr" --target consensus
aligncut eigs "$out/features.zarr" -o "$out/eigs.zarr" --alignment "$out/alignment.zarr" |
    aligncut tsne - -o "$out/tsne.zarr" |
    aligncut render - -o "$out/pictures"
