"""Every stage's knobs, each default stated once; imports nothing heavy.

A frozen dataclass per stage is the only place of a default: it makes the command-line options, the
record in the store and the digest. Field names are the option names with `_` for `-`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from aligncut_cli.knobs import StageParams, knob

BRAIN_CHANNELS, CONSENSUS_CHANNELS = 768, 128


@dataclass(frozen=True, kw_only=True)
class FigureParams(StageParams):
    """Parameters of how figures look; the defaults are fit to print."""

    format: Literal["png", "pdf", "svg"] = knob("png", "Format of figures; PDF embeds its fonts, SVG has outlines.")
    width: str = knob("180mm", "Width of figures in print, such as 85mm, 18cm or 3.3in.")
    dpi: int = knob(300, "Resolution of PNG, and of pictures inside PDF and SVG.", at_least=50, at_most=1200)
    font_size: float = knob(7.0, "Size of letters in figures, in points.", at_least=4, at_most=24)
    names: tuple[str, ...] = knob((), 'MODEL="CLIP B/16": what a model is called in figures; may be given again.')


@dataclass(frozen=True, kw_only=True)
class ExtractParams(StageParams):
    """Parameters of `extract`."""

    model: tuple[str, ...] = knob(
        ("clip", "dino", "mae"),
        "clip, dino, mae, any timm ViT, or NAME=TIMM_NAME; @PIXELS sets its input's side. Once per model.",
    )
    weights: tuple[str, ...] = knob(
        (),
        "NAME=FILE, FILE::PART, a folder or hf-hub:ORG/NAME loads a checkpoint, NAME=random takes random weights; "
        "otherwise timm's pretrained ones.",
    )
    site: Literal["attn", "block", "mlp", "qkv"] = knob(
        "attn",
        "What is taken of a block: what attention or the MLP adds to the residual stream, the stream after the block, "
        "or queries, keys and values.",
    )
    mean: tuple[str, ...] = knob(
        (), "R,G,B or NAME=R,G,B: mean by which colours in 0..1 are normalised; otherwise the weights' own."
    )
    std: tuple[str, ...] = knob((), "R,G,B or NAME=R,G,B: their standard deviation; otherwise the weights' own.")
    interpolation: tuple[str, ...] = knob(
        (), "bicubic, bilinear, ... or NAME=bicubic: how photos are resized; otherwise as the weights want it."
    )
    size: tuple[str, ...] = knob((), "PIXELS or NAME=PIXELS: side of the input, as @PIXELS after a model.")
    band: str | None = knob(
        None, "Spatial frequencies to keep of each photo: low:C or high:C with C in cycles per pixel, such as low:0.08."
    )
    layers: str = knob("all", "Layers to keep: all, a range such as 0-11, or a list such as 3,6,9.")
    save: Literal["tokens", "pooled", "both"] = knob(
        "both", "Save every token (float16), the mean over tokens (float32), or both."
    )
    sample_tokens: int | None = knob(
        None, "Save only this many random tokens per image: enough to fit `align`, not to draw pictures.", at_least=1
    )
    precision: Literal["auto", "fp32", "bf16"] = knob(
        "auto",
        "What the models compute products in: float32 on a CPU and float16 on a GPU, or as said. bf16 is several times "
        "faster on CPUs with AVX512-BF16 or AMX, and features differ by half a percent.",
    )
    skip_bad: bool = knob(False, "Leave out images that cannot be decoded and list them in the store.")


@dataclass(frozen=True, kw_only=True)
class AlignParams(FigureParams):
    """Parameters of `align`."""

    target: Literal["brain", "consensus", "both"] = knob(
        "brain", "What the space is learned from: the responses, what the slots share, or the responses inside that."
    )
    universal_dim: int | None = knob(
        None,
        f"Channels of the universal space (D'); otherwise {BRAIN_CHANNELS}, or {CONSENSUS_CHANNELS} of a consensus.",
        at_least=2,
    )
    n_sample: int = knob(20_000, "Tokens sampled of every slot to find the consensus.", at_least=20)
    remove_position: bool = knob(False, "Take each position's mean token out before the consensus is found.")
    centre: bool = knob(
        True,
        "Keep each slot's mean token at zero exactly, or (the paper) only by the soft term of Eq. 6.",
        flag="--centre/--no-centre",
    )
    start: Literal["responses", "random"] = knob(
        "responses", "Begin at the closed-form fit to the responses, or (the paper) at random."
    )
    select: Literal["r2", "loss"] = knob(
        "r2", "Keep the state with the lowest Eq. 10 among those with the best validation R2, or the lowest of all."
    )
    lambda_eigen: float = knob(1.0, "Weight of the eigen-constraint (Eq. 5).", at_least=0)
    lambda_zero: float = knob(0.01, "Weight that keeps mapped features zero-centred (Eq. 6).", at_least=0)
    lambda_cov: float = knob(0.01, "Weight against covariance of mapped channels (Eq. 7).", at_least=0)
    nodes: int = knob(100, "Nodes sampled per step for the eigen-constraint.", at_least=8)
    eigenvectors: int = knob(6, "Leading eigenvectors that the eigen-constraint preserves.", at_least=1)
    epochs: int = knob(30, "Passes over the training images, at most; 0 keeps the start.", at_least=0)
    patience: int = knob(5, "Epochs without a better state before stopping.", at_least=1)
    tolerance: float = knob(0.005, "Validation R2 below the best that counts as equal, with --select r2.", at_least=0)
    batch_images: int = knob(128, "Images per gradient step.", at_least=1)
    learning_rate: float = knob(3e-3, "Learning rate of AdamW, at the first step.", at_least=0)
    weight_decay: float = knob(1.0, "Weight decay of AdamW.", at_least=0)
    validation_share: float = knob(0.1, "Share of images that decide when to stop.", at_least=0.01, at_most=0.5)
    test_share: float = knob(0.1, "Share of images that are held out and scored.", at_least=0.01, at_most=0.5)
    split_seed: int | None = knob(None, "Seed of the split into parts; otherwise that of --seed.", at_least=0)
    folds: int = knob(1, "Fit this many times, so that every image is held out once, and score them all.", at_least=1)
    seeds: int = knob(1, "Fit this many times, with consecutive seeds, and report the spread.", at_least=1)
    control: Literal["none", "shuffle", "random"] = knob(
        "none",
        "Fit to what cannot know the images: shuffled image-response pairs, or random targets of their spectrum.",
    )
    repeat: int = knob(1, "With --control: draw it this many times, each time anew.", at_least=1)
    draws: int = knob(1000, "Draws of the bootstrap over test images for the 95 % intervals.", at_least=20)
    drop_nan_voxels: bool = knob(False, "Leave out voxels that have no response to some image.")
    drop_nan_images: bool = knob(False, "Leave out images without any response, as of a session that is missing.")
    average_repeats: bool = knob(False, "Average rows that --image-ids gives the same image; always done for NSD.")
    order: Literal["auto", "name", "path", "natural", "imagefolder", "caseless", "given"] = knob(
        "auto", "How the images of unnamed rows were sorted; auto refuses where the plausible ways differ."
    )

    @property
    def channels(self) -> int:
        """Return D', which depends on the target where it is not given."""
        return self.universal_dim or (BRAIN_CHANNELS if self.target == "brain" else CONSENSUS_CHANNELS)


@dataclass(frozen=True, kw_only=True)
class ApplyParams(StageParams):
    """Parameters of `align --apply`: none but the record's seed."""


@dataclass(frozen=True, kw_only=True)
class CompareParams(FigureParams):
    """Parameters of `compare`."""

    images: int | None = knob(None, "Compare the tokens of the first N images only.", at_least=1)
    n_sample: int = knob(4000, "Tokens sampled of every slot for CKA and canonical correlations.", at_least=20)


@dataclass(frozen=True, kw_only=True)
class EigsParams(StageParams):
    """Parameters of `eigs`."""

    group: Literal["all", "model", "layer"] = knob(
        "all", "Cut one graph over all nodes, one per model, or one per (model, layer)."
    )
    fit: int = knob(0, "Which of the alignment's fits to use, where it keeps several; counted from 0.", at_least=0)
    n_eig: int = knob(20, "Eigenvectors to keep (C); 20 for pictures, 10 for scores.", at_least=1)
    n_sample: int = knob(50_000, "Nodes sampled for the exact problem (m); all nodes make it exact.", at_least=2)
    sample: Literal["uniform", "fps"] = knob("uniform", "How those nodes are chosen: at random, or by farthest points.")
    extend: Literal["knn", "nystrom"] = knob(
        "knn", "Carry eigenvectors by nearest sampled nodes (the paper's Eq. 4) or by the Nystrom extension."
    )
    neighbors: int = knob(100, "Sampled neighbours averaged per node (K of Eq. 4), with --extend knn.", at_least=1)
    search: Literal["auto", "flat", "ivf", "torch"] = knob(
        "auto",
        "Neighbours for --extend knn: exact by FAISS (flat), exact on the device (torch), or in cells (ivf).",
    )
    orthogonalize: bool = knob(False, "Make the carried eigenvectors orthonormal over the full graph.")
    centre: Literal["slot", "none"] = knob(
        "none", "Subtract each slot's mean token before the cosine (slot), or compare tokens as they are (the paper's)."
    )
    check: int = knob(0, "Report the relative residual of this many random rows of the full graph.", at_least=0)
    roi: str | None = knob(None, "Use only the channels that drive this ROI's predictions most (needs --alignment).")
    top_channels: int | None = knob(None, "With --roi: how many channels to keep.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class TsneParams(StageParams):
    """Parameters of `tsne`."""

    dims: int = knob(3, "3 for colours, 2 for trajectories.", at_least=2, at_most=3)
    n_sample: int = knob(20_000, "Nodes that t-SNE is fitted on; the others follow their nearest one.", at_least=5)
    perplexity: float = knob(30.0, "Effective number of neighbours of each point.", at_least=1)
    iterations: int = knob(
        500, "Gradient steps at most; it ends earlier where the divergence hardly falls any more.", at_least=1
    )
    engine: Literal["auto", "fft", "exact", "sklearn"] = knob(
        "auto", "Interpolated (fft) or with all pairs (exact), auto by size; or scikit-learn's, the reference."
    )
    clip: float = knob(
        0.01, "Share of nodes that may saturate at each end of a colour channel.", at_least=0.0, at_most=0.49
    )


@dataclass(frozen=True, kw_only=True)
class RenderParams(FigureParams):
    """Parameters of `render`."""

    tile: int = knob(112, "Height of one tile in pixels.", at_least=16)
    images: int | None = knob(None, "Render only the first N images.", at_least=1)
    photos: str | None = knob(None, "Folder to look in for photos that have moved since `extract`.")


@dataclass(frozen=True, kw_only=True)
class MaskParams(StageParams):
    """Parameters of every stage that reads ground-truth masks."""

    masks_format: str = knob(
        "auto", "What --masks is: png (a folder of IMAGE.png), voc (PASCAL VOC 2012), imagenet-seg (its .mat), or auto."
    )
    threshold: int | None = knob(
        None, "Read PNG masks as binary: values from here on are the object.", at_least=1, at_most=65535
    )
    split: str = knob("val", "Images of PASCAL VOC: train, val, trainval, or a file that lists them.")
    ignore_class: tuple[str, ...] = knob((), "Leave the pixels of this class out; may be given again.")
    background: str | None = knob(None, "Class that is the background, or none; otherwise the one of index 0.")


ORACLE_N_EIG = 10
"""Eigenvectors that the oracle takes where none are asked for (Appendix C.4); fewer where a store has fewer."""


@dataclass(frozen=True, kw_only=True)
class SegmentParams(MaskParams, FigureParams):
    """Parameters of `segment`."""

    resolution: Literal["pixels", "tokens"] = knob(
        "pixels", "Score every pixel of the photo (similarities upsampled), or one label per token."
    )
    n_eig: int | None = knob(
        None,
        f"Use the leading N eigenvectors; otherwise the oracle takes {ORACLE_N_EIG} (Appendix C.4), --clusters all.",
        at_least=1,
    )
    clusters: tuple[int, ...] = knob((), "Cut into this many segments; give it again for coarser levels that nest.")
    method: Literal["rotation", "kmeans"] = knob(
        "rotation", "How --clusters discretizes eigenvectors: Yu and Shi's rotation, or k-means."
    )
    cluster_sample: int = knob(20_000, "Nodes that --clusters is fitted on.", at_least=2)
    pictures: int = knob(12, "How many images --figures draws.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ReportParams(StageParams):
    """Parameters of `report`."""

    title: str = knob("AlignedCut report", "Title of the page.")
    images: int | None = knob(None, "Show only the first N images.", at_least=1)
    photos: str | None = knob(None, "Folder to look in for photos that have moved since `extract`.")
    photo_size: int = knob(448, "Longer side of a photo in pixels.", at_least=64)
    thumb_size: int = knob(96, "Side of a thumbnail in pixels.", at_least=16)
    map_points: int = knob(12_000, "Nodes drawn as points of the map; trajectories use all.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class ExportParams(StageParams):
    """Parameters of `export`."""

    array: str | None = knob(
        None,
        "tokens, pooled, eigvecs, rgb, coords, labels, scores, or an array's path; otherwise the store's usual one.",
    )
    model: str | None = knob(None, "Only the nodes of this model.")
    layer: int | None = knob(None, "Only the nodes of this layer.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class TransitionsParams(MaskParams, FigureParams):
    """Parameters of `transitions`."""

    from_slot: str | None = knob(None, "Slot that tokens come from, as MODEL:LAYER.", flag="--from")
    to_slot: str | None = knob(None, "Slot that they go to, as MODEL:LAYER.", flag="--to")
    along: tuple[str, ...] = knob((), "Count over all consecutive layers of this model: flow diagram and bifurcations.")
    concepts: int = knob(5, "Concepts of each slot, centred in dense places far apart.", at_least=2)
    radius: float | None = knob(
        None, "Radius of a concept; otherwise half the median distance from a centre to its nearest other one."
    )
    sample: int = knob(20_000, "Tokens of each slot among which its centres are chosen.", at_least=2)
    sparse: float = knob(0.5, "Share of these, in the sparsest places, that are no centres.", at_least=0, at_most=1)
    least_tokens: int = knob(50, "Mark probabilities that rest on fewer tokens than this.", at_least=1)
    permutations: int = knob(1000, "Exchanges of masks between images in the test of figure and ground.", at_least=1)
    token: tuple[str, ...] = knob((), "Follow this token over layers, as IMAGE:ROW,COL from 0; may be given again.")
    random_tokens: int = knob(8, "Follow this many random tokens too.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class DecodeParams(FigureParams):
    """Parameters of `decode`."""

    method: Literal["ridge", "towers", "both"] = knob(
        "ridge", "Predict responses from features, or learn maps of photos and responses that meet; or both."
    )
    folds: int = knob(5, "Parts that the images are cut into; each is held out once.", at_least=2)
    candidates: str = knob(
        "all", "Among how many held-out images the seen one is looked for, such as 10,100,all; the last decides."
    )
    permutations: int = knob(1000, "Exchanges of images between responses that give the null and p.", at_least=1)
    control: Literal["none", "shuffle"] = knob(
        "none", "Also fit everything anew to shuffled image-response pairs, beside the real ones."
    )
    neurons: str | None = knob(
        None, "Sizes of subsets, such as 10,20,40: the most responsive neurons against random ones."
    )
    subsets: int = knob(100, "Random subsets of every size.", at_least=1)
    objective: Literal["contrastive", "regression", "classes"] = knob(
        "contrastive", "What towers learn: to tell pairs apart, to predict responses, or to name --categories."
    )
    image_size: int = knob(64, "Side of the photos that towers see, in pixels.", at_least=16)
    channels: int = knob(16, "Channels of the 8 x 8 maps of the towers.", at_least=1)
    epochs: int = knob(25, "Passes of the towers over the training images, at most.", at_least=1)
    patience: int = knob(8, "Epochs of the towers without a lower validation loss before stopping.", at_least=1)
    dropout: float = knob(0.3, "Share of neurons that towers do without at each step.", at_least=0, at_most=0.95)
    batch_images: int = knob(105, "Images per gradient step of the towers.", at_least=4)
    learning_rate: float = knob(5e-3, "Highest learning rate of the towers' AdamW.", at_least=0)
    weight_decay: float = knob(0.05, "Weight decay of the towers' AdamW.", at_least=0)
    validation_share: float = knob(
        0.1, "Share of images that chooses the ridge's penalty and stops the towers.", at_least=0.01, at_most=0.5
    )
    draws: int = knob(1000, "Draws of the bootstrap over images for median rank and pairwise choice.", at_least=20)
    band: str | None = knob(None, "Spatial frequencies of PHOTOS to keep, as in `extract`, such as low:0.08.")
    photos: str | None = knob(None, "Folder to look in for photos that have moved since `extract`.")
    pictures: int = knob(12, "How many missed images --figures shows.", at_least=0)
    drop_nan_voxels: bool = knob(False, "Leave out neurons or voxels that have no response to some image.")
    drop_nan_images: bool = knob(False, "Leave out images without any response.")
    order: Literal["auto", "name", "path", "natural", "imagefolder", "caseless", "given"] = knob(
        "auto", "How the images of unnamed rows were sorted; auto refuses where the plausible ways differ."
    )


@dataclass(frozen=True, kw_only=True)
class DemoParams(StageParams):
    """Parameters of `demo`."""

    images: int = knob(144, "Scenes of the small world.", at_least=24)


@dataclass(frozen=True, kw_only=True)
class ConceptsParams(FigureParams):
    """Parameters of `concepts`."""

    concepts: int = knob(10, "Concepts, centred in dense places of the map that lie far apart.", at_least=2)
    radius: float | None = knob(
        None, "Radius of a concept; otherwise half the median distance from a centre to its nearest other one."
    )
    slot: tuple[str, ...] = knob(
        (), "Take only this slot's tokens, as MODEL:LAYER; may be given again. Otherwise those of all."
    )
    sample: int = knob(20_000, "Tokens among which the centres are chosen.", at_least=2)
    sparse: float = knob(0.5, "Share of these, in the sparsest places, that are no centres.", at_least=0, at_most=1)
    least_tokens: int = knob(50, "Mark concepts that hold fewer tokens of a slot than this.", at_least=1)
    patches: int = knob(10, "Image patches shown of each concept, from different images.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class ActivationsParams(MaskParams, FigureParams):
    """Parameters of `activations`."""

    token: tuple[str, ...] = knob(
        (), "Compare all tokens of --slot to this one, as IMAGE:ROW,COL from 0; may be given again."
    )
    slot: str | None = knob(None, "Slot of --token, as MODEL:LAYER.")
    space: Literal["brain", "universal"] = knob(
        "brain", "Compare to --token as activations of voxels, or as features of the universal space."
    )
    pictures: int = knob(23, "Images drawn beside the one of --token; the table has all.", at_least=0)
    channels: int = knob(4, "Top channels shown of each ROI, unless only --token is given.", at_least=0)
    patches: int = knob(8, "Image patches shown that drive each of these most, from different images.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a stage runs, and the words of its command line if it had one; no result changes beyond rounding."""

    output: Path
    overwrite: bool = False
    dry_run: bool = False
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_memory: str | None = None
    scheduler: str | None = None
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    typed: tuple[str, ...] = ()


def as_record(params: StageParams) -> dict[str, Any]:
    """Return the parameters as JSON values, in the order they are declared."""
    record = {}
    for item in fields(params):
        value = getattr(params, item.name)
        record[item.name] = list(value) if isinstance(value, tuple) else value
    return record
