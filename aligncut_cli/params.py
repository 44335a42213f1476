"""Every stage's knobs, each default stated once; imports nothing heavy.

A frozen dataclass per stage is the only place of a default: it makes the command-line options, the
record in the store and the digest. Field names are the option names with `_` for `-`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def knob(default: T, help: str, *, at_least: float | None = None, at_most: float | None = None) -> T:
    """Declare one parameter: its default, its help line and its bounds."""
    value: T = field(default=default, metadata={"help": help, "min": at_least, "max": at_most})
    return value


@dataclass(frozen=True, kw_only=True)
class StageParams:
    """What changes a stage's result."""

    seed: int = knob(0, "Seed of every random choice; the same seed gives the same bytes.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ExtractParams(StageParams):
    """Parameters of `extract`."""

    model: tuple[str, ...] = knob(
        ("clip", "dino", "mae"), "clip, dino, mae, any timm ViT, or NAME=TIMM_NAME; give it once per model."
    )
    weights: tuple[str, ...] = knob(
        (), "NAME=FILE loads a local checkpoint, NAME=random random weights; otherwise timm's pretrained ones."
    )
    layers: str = knob("all", "Layers to keep: all, a range such as 0-11, or a list such as 3,6,9.")
    save: Literal["tokens", "pooled", "both"] = knob(
        "both", "Save every token (float16), the mean over tokens (float32), or both."
    )
    sample_tokens: int | None = knob(
        None, "Save only this many random tokens per image; enough to fit `align`.", at_least=1
    )
    skip_bad: bool = knob(False, "Leave out images that cannot be decoded and list them in the store.")


@dataclass(frozen=True, kw_only=True)
class EigsParams(StageParams):
    """Parameters of `eigs`."""

    group: Literal["all", "model", "layer"] = knob(
        "all", "Cut one graph over all nodes, one per model, or one per (model, layer)."
    )
    n_eig: int = knob(20, "Eigenvectors to keep (C); 20 for pictures, 10 for scores.", at_least=1)
    n_sample: int = knob(50_000, "Nodes sampled for the exact problem (m); all nodes make it exact.", at_least=2)
    sample: Literal["uniform", "fps"] = knob("uniform", "Sample at random, or by farthest points.")
    extend: Literal["knn", "nystrom"] = knob(
        "knn", "Carry eigenvectors by nearest sampled nodes (the paper's Eq. 4) or by the Nystrom extension."
    )
    neighbors: int = knob(100, "Sampled neighbours averaged per node (K of Eq. 4), with --extend knn.", at_least=1)
    search: Literal["auto", "flat", "ivf", "torch"] = knob(
        "auto", "Neighbour search: exact (flat), PCA + inverted file (ivf), or tiled on the device (torch)."
    )
    orthogonalize: bool = knob(False, "Make the carried eigenvectors orthonormal over the full graph.")
    check: int = knob(0, "Report the residual of this many random full-graph rows.", at_least=0)
    roi: str | None = knob(None, "Use only the channels that weigh most for this ROI (needs --alignment).")
    top_channels: int | None = knob(None, "How many channels to keep for --roi.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class TsneParams(StageParams):
    """Parameters of `tsne`."""

    dims: int = knob(3, "3 for colours, 2 for trajectories.", at_least=2, at_most=3)
    n_sample: int = knob(100_000, "Nodes that t-SNE is fitted on; the others follow their nearest one.", at_least=5)
    perplexity: float = knob(30.0, "Effective number of neighbours of each point.", at_least=1)
    iterations: int = knob(500, "Gradient steps.", at_least=1)
    engine: Literal["auto", "fft", "sklearn"] = knob(
        "auto", "Interpolated t-SNE on CPU or GPU (fft), or scikit-learn's as the reference."
    )
    clip: float = knob(
        0.01, "Share of nodes beyond each end of the colour range, per axis.", at_least=0.0, at_most=0.49
    )


@dataclass(frozen=True, kw_only=True)
class RenderParams(StageParams):
    """Parameters of `render`."""

    tile: int = knob(112, "Height of one tile in pixels.", at_least=16)
    images: int | None = knob(None, "Render only the first N images.", at_least=1)
    photos: str | None = knob(None, "Folder to look for photos that have moved since `extract`.")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs; nothing here changes its result beyond rounding."""

    output: Path
    overwrite: bool = False
    dry_run: bool = False
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_memory: str | None = None
    quiet: bool = False
    verbose: bool = False
    json: bool = False


def as_record(params: StageParams) -> dict[str, Any]:
    """Return the parameters as JSON values, in the order they are declared."""
    record = {}
    for item in fields(params):
        value = getattr(params, item.name)
        record[item.name] = list(value) if isinstance(value, tuple) else value
    return record
