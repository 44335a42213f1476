"""A synthetic brain: made-up voxels in the paper's 12 ROIs that respond to scenes in a known way, with known noise.

No subject was ever scanned. The responses are computed from the pictures and from the truth about them, so that what
the tool finds can be compared with what was put in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.demo.scenes import BACKGROUNDS, CATEGORIES, SIZE, Scene
from aligncut_cli.errors import BadInput

Array = NDArray[np.float64]

# Voxels per ROI, in the order in which they are stored: 600 together.
ROI_SIZES = {
    "V1": 80,
    "V2": 70,
    "V3": 60,
    "V4": 60,
    "EBA": 50,
    "FBA": 40,
    "OFA": 40,
    "FFA": 50,
    "OPA": 40,
    "PPA": 50,
    "OWFA": 30,
    "VWFA": 30,
}
# Receptive field: standard deviation in pixels, least and most; it grows along the visual pathway.
FIELD = {"V1": (4.0, 7.0), "V2": (7.0, 12.0), "V3": (11.0, 18.0), "V4": (16.0, 30.0)}
# What each object area prefers; the voxels also respond a little to the other categories, each in its own way.
PREFERRED = {
    "EBA": ("person", "fish"),
    "FBA": ("person",),
    "OFA": ("face",),
    "FFA": ("face",),
    "OWFA": ("sign",),
    "VWFA": ("sign",),
}
CEILING = (0.35, 0.75)  # least and most of the per-voxel noise ceiling
NOTE = (
    "SYNTHETIC: these are not recordings. The responses were computed from drawn scenes (tuning curves chosen by us) "
    "plus Gaussian noise of known size, to try the tool where the truth is known. Nothing here says anything about a "
    "brain."
)

ORIENTATIONS = 6
WAVELENGTHS = (4.0, 8.0, 16.0)  # pixels per cycle
HUE_BINS = 8
POOLED = 28  # maps are averaged to 28 x 28 before receptive fields are applied


@dataclass(frozen=True)
class Responses:
    """What the synthetic brain answered.

    values  : float32 (images, voxels), mean 0 and variance about 1 per voxel
    signal  : float32 (images, voxels), the part that the scene determines, standardized (mean 0, variance 1)
    ceiling : float32 (voxels,), variance of the signal's part of `values`: the R^2 that a perfect model reaches
    rois    : voxel indices of every ROI
    """

    values: NDArray[np.float32]
    signal: NDArray[np.float32]
    ceiling: NDArray[np.float32]
    rois: dict[str, list[int]]


def simulate_responses(
    scenes: Sequence[Scene], *, seed: int, progress: Callable[[int, int], None] | None = None
) -> Responses:
    """Let the synthetic brain of a seed look at scenes.

    scenes  : two or more, not all alike
    seed    : decides every voxel's tuning, its noise ceiling and the noise
    returns : values = sqrt(ceiling) * signal + sqrt(1 - ceiling) * noise
    """
    if len(scenes) < 2:
        raise BadInput(f"{len(scenes)} scenes: the synthetic brain standardizes over scenes, so it needs two or more")
    rng = np.random.default_rng([seed, 600])
    tuning = _draw_tuning(rng)
    n_voxels = sum(ROI_SIZES.values())
    ceiling = rng.uniform(*CEILING, n_voxels)
    raw = np.empty((len(scenes), n_voxels))
    noise = np.empty_like(raw)
    filters = _make_filters()
    for k, scene in enumerate(scenes):
        raw[k] = _respond(scene, tuning, filters)
        noise[k] = np.random.default_rng([seed, k, 601]).standard_normal(n_voxels)
        if progress:
            progress(k + 1, len(scenes))
    spread = raw.std(axis=0)
    signal = (raw - raw.mean(axis=0)) / np.where(spread > 0, spread, 1)
    ceiling = np.where(spread > 0, ceiling, 0)  # a voxel that none of these scenes excites can't be predicted
    values = np.sqrt(ceiling) * signal + np.sqrt(1 - ceiling) * noise
    rois, first = {}, 0
    for name, size in ROI_SIZES.items():
        rois[name] = list(range(first, first + size))
        first += size
    return Responses(values.astype(np.float32), signal.astype(np.float32), ceiling.astype(np.float32), rois)


def write_responses(
    folder: Path, scenes: Sequence[Scene], *, seed: int, progress: Callable[[int, int], None] | None = None
) -> Responses:
    """Write responses.npy, rois.json, noise-ceiling.npy and synthetic.json (which says that it is synthetic)."""
    responses = simulate_responses(scenes, seed=seed, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "responses.npy", responses.values)
    np.save(folder / "noise-ceiling.npy", responses.ceiling)
    (folder / "rois.json").write_text(json.dumps(responses.rois) + "\n", encoding="utf-8")
    facts = {
        "synthetic": True,
        "note": NOTE,
        "seed": seed,
        "images": len(scenes),
        "voxels": responses.values.shape[1],
        "ceiling": {name: round(float(responses.ceiling[index].mean()), 4) for name, index in responses.rois.items()},
    }
    (folder / "synthetic.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return responses


# Tuning


@dataclass(frozen=True)
class _Tuning:
    """Weights of every voxel, per group of ROIs.

    early_field    : (V1 to V3 voxels, 28 * 28) receptive fields, each summing to 1
    early_channels : (V1 to V3 voxels, orientations * wavelengths)
    v4_field       : (V4 voxels, 28 * 28)
    v4_colour      : (V4 voxels, hues + 1)
    v4_texture     : (V4 voxels, orientations * wavelengths)
    objects        : (object and word voxels, categories), by area
    places         : (PPA and OPA voxels, backgrounds)
    """

    early_field: Array
    early_channels: Array
    v4_field: Array
    v4_colour: Array
    v4_texture: Array
    objects: dict[str, Array]
    places: dict[str, Array]


def _draw_tuning(rng: np.random.Generator) -> _Tuning:
    early = [name for name in ROI_SIZES if name in ("V1", "V2", "V3")]
    fields = [_draw_fields(rng, ROI_SIZES[name], *FIELD[name]) for name in early]
    n_early, n_v4 = sum(ROI_SIZES[name] for name in early), ROI_SIZES["V4"]
    channels = ORIENTATIONS * len(WAVELENGTHS)
    objects, places = {}, {}
    for name, liked in PREFERRED.items():
        weights = rng.uniform(0.0, 0.25, (ROI_SIZES[name], len(CATEGORIES)))
        for category in liked:
            weights[:, CATEGORIES.index(category)] = rng.uniform(0.7, 1.3, ROI_SIZES[name])
        objects[name] = weights
    for name in ("OPA", "PPA"):
        places[name] = rng.dirichlet(np.full(len(BACKGROUNDS), 0.6), ROI_SIZES[name])
    return _Tuning(
        early_field=np.concatenate(fields),
        early_channels=_draw_oriented_channels(rng, n_early),
        v4_field=_draw_fields(rng, n_v4, *FIELD["V4"]),
        v4_colour=rng.dirichlet(np.full(HUE_BINS + 1, 0.5), n_v4),
        v4_texture=rng.dirichlet(np.full(channels, 0.3), n_v4),
        objects=objects,
        places=places,
    )


def _draw_fields(rng: np.random.Generator, n: int, least: float, most: float) -> Array:
    """Gaussian receptive fields (n, 28 * 28), centred at random, each summing to 1."""
    centre = rng.uniform(0.12 * SIZE, 0.88 * SIZE, (n, 2, 1))
    spread = rng.uniform(least, most, (n, 1))
    line = (np.arange(POOLED) + 0.5) * SIZE / POOLED
    rows = np.exp(-0.5 * ((line - centre[:, 0]) / spread) ** 2)
    columns = np.exp(-0.5 * ((line - centre[:, 1]) / spread) ** 2)
    field = (rows[:, :, None] * columns[:, None, :]).reshape(n, -1)
    return np.asarray(field / field.sum(axis=1, keepdims=True))


def _draw_oriented_channels(rng: np.random.Generator, n: int) -> Array:
    """Each voxel prefers one orientation (a bump around the half circle) and one wavelength."""
    preferred = rng.uniform(0, np.pi, (n, 1))
    angles = np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS
    bump = np.exp(2.0 * (np.cos(2 * (angles - preferred)) - 1))
    scale = np.eye(len(WAVELENGTHS))[rng.integers(len(WAVELENGTHS), size=n)] * 0.85 + 0.05
    return np.asarray((scale[:, :, None] * bump[:, None, :]).reshape(n, -1))


# Responding


def _respond(scene: Scene, tuning: _Tuning, filters: NDArray[np.complex64]) -> Array:
    """Responses (voxels,) of every ROI to one scene, before standardization and noise."""
    energy = measure_oriented_energy(scene.image, filters)
    early = np.einsum("vp,cp,vc->v", tuning.early_field, energy, tuning.early_channels, optimize=True)
    colour = np.einsum("vp,cp,vc->v", tuning.v4_field, measure_colour(scene.image), tuning.v4_colour, optimize=True)
    pooled = tuning.v4_field @ energy.T  # (voxels, channels)
    texture = (pooled / (pooled.mean(axis=1, keepdims=True) + 1e-3) * tuning.v4_texture).sum(axis=1)
    v4 = 4 * colour + texture
    area = np.bincount(scene.mask.ravel(), minlength=len(CATEGORIES) + 1) / scene.mask.size
    kind = np.array([name == scene.background for name in BACKGROUNDS]) * np.sqrt(area[0])
    parts: list[Array] = []
    for name in ROI_SIZES:
        if name in tuning.objects:
            parts.append(tuning.objects[name] @ np.sqrt(area[1:]))
        elif name in tuning.places:
            parts.append(tuning.places[name] @ kind)
        elif name == "V4":
            parts.append(v4)
        elif name == "V1":
            parts.append(early)  # V1, V2 and V3 lie side by side
    return np.concatenate(parts)


def _make_filters() -> NDArray[np.complex64]:
    """Spectra (wavelengths * orientations, 112, 112) of one-sided Gabor filters, whose output is complex."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    spectra = []
    for wavelength in WAVELENGTHS:
        for k in range(ORIENTATIONS):
            angle = k * np.pi / ORIENTATIONS
            centre_x, centre_y = np.cos(angle) / wavelength, np.sin(angle) / wavelength
            width = 0.35 / wavelength
            spectra.append(np.exp(-0.5 * ((fx - centre_x) ** 2 + (fy - centre_y) ** 2) / width**2))
    return np.asarray(spectra, np.complex64)


def measure_oriented_energy(image: NDArray[np.uint8], filters: NDArray[np.complex64]) -> Array:
    """Square root of local Gabor amplitude (wavelengths * orientations, 28 * 28); image is uint8 (112, 112, 3)."""
    grey = image.astype(np.float32).mean(axis=2) / 255
    spectrum = np.fft.fft2(grey - grey.mean())
    amplitude = np.abs(np.fft.ifft2(spectrum * filters, axes=(1, 2)))
    return np.sqrt(_average_blocks(amplitude))


def measure_colour(image: NDArray[np.uint8]) -> Array:
    """How much of each of 8 hues, weighted by its purity, and the brightness (9, 28 * 28)."""
    rgb = image.astype(np.float64) / 255
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    hue, purity = np.arctan2(yellow_blue, red_green), np.hypot(yellow_blue, red_green)
    centres = np.arange(HUE_BINS)[:, None, None] * 2 * np.pi / HUE_BINS
    bumps = np.exp(3.0 * (np.cos(hue - centres) - 1)) * purity
    return _average_blocks(np.concatenate([bumps, 0.5 * rgb.mean(axis=2)[None]]))


def _average_blocks(maps: NDArray[np.floating]) -> Array:
    side = SIZE // POOLED
    blocks = maps.reshape(len(maps), POOLED, side, POOLED, side).mean(axis=(2, 4))
    return np.asarray(blocks.reshape(len(maps), POOLED * POOLED), np.float64)
