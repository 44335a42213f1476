#!/usr/bin/env bash
# A Dask scheduler and three workers on this machine: ./cluster.sh [PHOTOS [OUTPUT_FOLDER]]
#
# It needs `pip install 'aligncut[cluster]'`. Without PHOTOS it draws 60 scenes of the demo's small world. The scheduler
# listens on this machine alone, because it asks nobody who they are. A second run answers at once; a run that was
# stopped goes on, and each command gives the same bytes without --scheduler, where OMP_NUM_THREADS is the same.
set -euo pipefail

photos=${1:-}
out=${2:-aligncut-cluster}
models=${MODELS:---model demo-clip --model demo-dino --model demo-mae}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$out"

if [ -z "$photos" ]; then
    photos=$out/scenes/images
    [ -d "$photos" ] ||
        python -c "import pathlib, sys; from aligncut_cli.demo.scenes import write_scenes
write_scenes(pathlib.Path(sys.argv[1]), 60, 0)" "$out/scenes"
fi

where=$out/scheduler.json
rm -f "$where"
dask scheduler --scheduler-file "$where" --host 127.0.0.1 --port 0 --no-dashboard 2> "$out/scheduler.log" &
scheduler=$!
dask worker --scheduler-file "$where" --nworkers 3 --nthreads 1 --no-dashboard \
    --local-directory "$out/dask" 2> "$out/workers.log" &
workers=$!
command=
trap 'kill $command $workers $scheduler 2> /dev/null || true; wait' EXIT # Ctrl-C may have ended them
trap 'exit 130' INT
trap 'exit 143' TERM
until [ -s "$where" ]; do
    kill -0 $scheduler || { cat "$out/scheduler.log" >&2 && exit 1; }
    sleep 0.2
done

# Runs one command; bash answers a signal while it waits for a process behind, and not before one in front has ended.
run() {
    aligncut "$@" &
    command=$!
    wait $command
}

# shellcheck disable=SC2086  # the models are several words
run extract "$photos" -o "$out/features.zarr" $models --scheduler "file:$where" -v
run align "$out/features.zarr" -o "$out/alignment.zarr" --target consensus
run eigs "$out/features.zarr" -o "$out/eigs.zarr" --alignment "$out/alignment.zarr" \
    --n-sample 4000 --scheduler "file:$where" -v
run tsne "$out/eigs.zarr" -o "$out/tsne.zarr" --n-sample 4000 --scheduler "file:$where" -v
run render "$out/tsne.zarr" -o "$out/pictures"
