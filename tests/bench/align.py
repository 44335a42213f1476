"""The fit of `align` at the paper's size on made-up data: seconds of each part, per step, and the projected total.

python -m tests.bench.align --steps 5
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from aligncut_cli.maths.alignment_fit import AlignmentFit, FitSettings
from aligncut_cli.maths.alignment_start import start_from_responses
from aligncut_cli.maths.centring import CentredMaps
from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.response_units import standardize_responses
from aligncut_cli.maths.ridge import choose_penalty, decompose_kernels, measure_slot
from aligncut_cli.maths.split_images import split_images
from aligncut_cli.params import AlignParams
from tests.bench.common import own_peak

LATENT, VOXELS_PER_BLOCK = 64, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=9841)
    parser.add_argument("--voxels", type=int, default=39_548)
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    params, device = AlignParams(), torch.device("cpu")
    rng, begun = np.random.default_rng(0), time.perf_counter()
    last = begun

    def mark(text: str) -> float:
        nonlocal last
        seconds, last = time.perf_counter() - last, time.perf_counter()
        print(f"{last - begun:7.1f} s  (+{seconds:6.1f} s)  peak {own_peak() / 1e9:.2f} GB  {text}", flush=True)
        return seconds

    latent = rng.standard_normal((given.images, LATENT)).astype(np.float32)
    token_latent = [rng.standard_normal((n, LATENT)).astype(np.float32) for n in (8192, 2048)]
    pooled = [np.empty((12, given.images, given.channels), np.float32) for _ in range(3)]
    nodes = [[np.empty((12, n, given.channels), np.float16) for _ in range(3)] for n in (8192, 2048)]
    for model in range(3):
        for layer in range(12):
            turn = (rng.standard_normal((LATENT, given.channels)) / 8).astype(np.float32)
            noise = rng.standard_normal((given.images, given.channels), dtype=np.float32)
            pooled[model][layer] = latent @ turn + 0.3 * noise
            for part, values in zip(nodes, token_latent, strict=True):
                spread = 0.3 * rng.standard_normal((len(values), given.channels), dtype=np.float32)
                part[model][layer] = 3 * values @ turn + spread
    responses = latent @ (rng.standard_normal((LATENT, given.voxels)) / 8).astype(np.float32)
    for start in range(0, given.images, 1000):
        part = responses[start : start + 1000]
        part += 2 * rng.standard_normal(part.shape, dtype=np.float32)
    mark("data made (not part of the fit)")
    split = split_images(given.images, validation_share=0.1, test_share=0.1, seed=0)
    standardize_responses(responses, split.train)
    statistics = [measure_slot(values, split.train) for _, _, values in iterate_slots(pooled)]
    total = mark("responses and slots measured")
    ridges = decompose_kernels(pooled, statistics, split.train, equalize=[False, True], device=device)
    total += mark("two kernels decomposed")
    ridge = ridges.pop()
    del ridges
    chosen = choose_penalty(ridge, responses, split, voxels_per_block=VOXELS_PER_BLOCK)
    total += 2 * mark(f"penalty chosen, validation R2 {chosen.validation_r2:.4f}")
    start_maps = start_from_responses(
        *(pooled, statistics, chosen, responses, split, nodes[0]),
        universal_dim=params.channels,
        voxels_per_block=VOXELS_PER_BLOCK,
    )
    total += mark(f"closed-form start, {start_maps.n_axes} axes")
    del ridge, chosen
    centring = [
        CentredMaps.of(
            list(torch.from_numpy(values[:, split.train].mean(axis=1, dtype=np.float64))),
            [torch.from_numpy(np.cov(rows.astype(np.float64), rowvar=False)) for rows in tokens],
        )
        for values, tokens in zip(pooled, nodes[0], strict=True)
    ]
    total += mark("centring measured")
    settings = FitSettings(
        lambda_eigen=params.lambda_eigen,
        lambda_zero=params.lambda_zero,
        lambda_cov=params.lambda_cov,
        n_nodes=params.nodes,
        n_kept=params.eigenvectors,
        batch_images=params.batch_images,
        epochs=params.epochs,
        patience=params.patience,
        tolerance=params.tolerance,
        select=params.select,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=0,
    )
    fit = AlignmentFit(
        *(pooled, responses, nodes[0], nodes[1], statistics, split, start_maps, settings),
        device=device,
        centring=centring,
    )
    watched = mark(f"state watched, validation R2 {fit.history[0].validation_r2:.4f}")
    steps = []
    for _ in range(given.steps):
        rows = np.sort(rng.choice(split.train, params.batch_images, replace=False))
        fit._take_step(rows, rng)
        steps.append(mark(f"step of {params.batch_images} images"))
    epoch = np.median(steps) * -(-len(split.train) // params.batch_images) + watched
    total += params.epochs * epoch
    print(f"median step {np.median(steps):.2f} s; at most {params.epochs} epochs: {total / 60:.0f} min in all")


if __name__ == "__main__":
    main()
