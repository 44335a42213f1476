"""Puts one step of a chain into the sentences of a methods section, equations by the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aligncut_cli.params import BRAIN_CHANNELS, CONSENSUS_CHANNELS, ORACLE_N_EIG

Record = Mapping[str, Any]


def describe_step(record: Record, deviations: Mapping[str, str]) -> list[str]:
    """Return the sentences on a step: what was done, then what deviates from the paper; none where nothing is known."""
    describe = SENTENCES.get(record["stage"])
    if describe is None:
        return []
    texts = [describe(record)]
    if deviations:
        texts.append(f"Other than in the paper, {'; '.join(deviations.values())}.")
    return texts


def _extract(record: Record) -> str:
    params, summary = record["params"], record.get("summary", {})
    weights = record.get("extra", {}).get("weights", {})
    names = ", ".join(f"{name} ({_weights(weights.get(name, {}))})" for name in record.get("models", []))
    layers = "all layers" if params.get("layers") == "all" else f"layers {params.get('layers')}"
    what = {"attn": "what the attention block adds to the residual stream (V of Eq. 1)"}
    site = what.get(params.get("site", "attn"), f"the output of the `{params.get('site')}` site")
    few = params.get("sample_tokens")
    kept = f"; {few} random tokens of each image were kept" if few else ""
    return (
        f"Of {_count(summary.get('images'))} images, {site} was taken at {layers} of {names}, every image resized "
        f"whole to the model's square input{kept}: {_count(summary.get('nodes'))} tokens in all."
    )


def _weights(identity: Mapping[str, Any]) -> str:
    source = identity.get("source")
    if source == "hub":
        return f"{identity.get('id')}, pretrained"
    return "random weights" if source == "random" else f"weights of SHA-256 {str(identity.get('sha256', '?'))[:12]}"


def _align(record: Record) -> str:
    params, summary = record["params"], record.get("summary", {})
    if record["kind"] == "features":
        return "The features were mapped to the universal space by these maps (Eq. 1)."
    target = params.get("target", "brain")
    channels = params.get("universal_dim") or (BRAIN_CHANNELS if target == "brain" else CONSENSUS_CHANNELS)
    space = f"The channels of every layer of every model were mapped linearly into a universal space of D' = {channels}"
    if target == "consensus":
        return (
            f"{space} (Eq. 1), whose axes are those that all layers share (MAXVAR generalized canonical correlation "
            f"of {_count(params.get('n_sample'))} tokens), without brain responses."
        )
    inside = ", inside the axes that all layers share (MAXVAR generalized canonical correlation)"
    return (
        f"{space} (Eq. 1) by learning to predict the responses of {_count(summary.get('voxels'))} voxels to "
        f"{_count(summary.get('images'))} images (Eq. 2){inside if target == 'both' else ''}. Minimized was L_brain + "
        f"{params.get('lambda_eigen')} L_eigen + {params.get('lambda_zero')} L_zero + {params.get('lambda_cov')} L_cov "
        f"(Eq. 10; Eq. 9, 5 and 8, 6, 7), with {params.get('eigenvectors')} eigenvectors of {params.get('nodes')} "
        f"nodes, by AdamW (learning rate {params.get('learning_rate')}, weight decay {params.get('weight_decay')}, "
        f"{params.get('batch_images')} images per step, at most {params.get('epochs')} epochs, seed "
        f"{params.get('seed')}). On {_count(summary.get('test_images'))} held-out images the median correlation over "
        f"voxels was {_number(summary.get('median_r'))}, that of a ridge on the same features "
        f"{_number(summary.get('median_ridge_r'))}."
    )


def _eigs(record: Record) -> str:
    params, summary = record["params"], record.get("summary", {})
    which = {"all": "all nodes", "model": "all nodes of each model", "layer": "all nodes of each layer"}
    inputs = {item["kind"] for item in record["inputs"]}
    text = (
        f"Spectral clustering cut the graph over {which.get(params.get('group', 'all'), 'all nodes')} "
        f"({_count(summary.get('nodes'))} model, layer, image and token nodes), with affinity exp(cos - 1)"
        f"{' of the mapped features' if 'alignment' in inputs else ''}, by the {params.get('n_eig')} leading "
        f"eigenvectors of the normalized affinity (Eq. 3)"
    )
    if "eigs" in inputs:
        return f"{text}, carried from the sampled nodes of an earlier graph."
    if summary.get("exact"):
        return f"{text}, solved exactly on all of them."
    carried = (
        f"by affinity-weighted averages over the K = {params.get('neighbors')} nearest sampled nodes (Eq. 4)"
        if params.get("extend") == "knn"
        else "by the Nystrom extension"
    )
    return (
        f"{text}, solved exactly on {_count(summary.get('sampled'))} sampled nodes and carried to all others {carried}."
    )


def _tsne(record: Record) -> str:
    params, summary = record["params"], record.get("summary", {})
    if "tsne" in {item["kind"] for item in record["inputs"]}:
        return "Every node took the place of its nearest node in an earlier spectral t-SNE, and its colour."
    return (
        f"Eigenvectors were laid out in {params.get('dims')}-D by t-SNE (perplexity {params.get('perplexity')}), "
        f"fitted on {_count(summary.get('fitted_on'))} sampled nodes; every other node took the place of its nearest "
        f"one (K = 1){'; the three coordinates are the colours' if params.get('dims') == 3 else ''}."
    )


def _segment(record: Record) -> str:
    params, summary = record["params"], record.get("summary", {})
    classes = len(record.get("classes", []))
    if params.get("clusters"):
        numbers = ", ".join(map(str, params["clusters"]))
        return f"Tokens were cut into {numbers} clusters ({params.get('method')}) and matched to {classes} classes."
    return (
        f"Segments were scored by the oracle of Appendix C.4 with {summary.get('n_eig', ORACLE_N_EIG)} eigenvectors: "
        f"each pixel takes the class of its most similar class centre, or the background below the threshold of ten "
        f"that scores best; mIoU over {classes} classes and {_count(summary.get('images'))} images, at best "
        f"{_number(summary.get('best_miou'))} ({summary.get('best_slot', '?')}), with the masks of other images "
        f"{_number(summary.get('shuffled_miou'))}."
    )


def _transitions(record: Record) -> str:
    params = record["params"]
    masks = record.get("masks", [])
    test = (
        f" Foreground and background were compared by giving masks to other images ({params.get('permutations')} "
        "exchanges)."
        if len(masks) > 1
        else ""
    )
    return (
        f"{params.get('concepts')} concepts of each layer were chosen by farthest points among the densest places of "
        f"the map; transition probabilities are shares of a concept's tokens that lie in a concept of the next layer."
        f"{test}"
    )


def _concepts(record: Record) -> str:
    count = record["params"].get("concepts")
    chosen = f"{count} concepts were chosen by farthest points among the densest places of the map"
    if "roi_correspondence" not in record.get("summary", {}):
        return f"{chosen}."
    return f"{chosen}, and described by mean and standard deviation of their tokens' activations in the brain's space."


def _compare(record: Record) -> str:
    return (
        "The same tokens were compared between all layers by their mean cosine, linear CKA and canonical correlation."
    )


def _activations(record: Record) -> str:
    return "Activations in the brain's space (V W beta) were averaged over foreground and background pixels."


SENTENCES: Mapping[str, Callable[[Record], str]] = {
    "extract": _extract,
    "align": _align,
    "eigs": _eigs,
    "tsne": _tsne,
    "segment": _segment,
    "transitions": _transitions,
    "concepts": _concepts,
    "compare": _compare,
    "activations": _activations,
}
"""By stage; pictures and pages are no method."""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "not known"
