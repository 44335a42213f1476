"""What the paper does, parameter by parameter, and how a record deviates from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aligncut_cli.params import BRAIN_CHANNELS, CONSENSUS_CHANNELS, ORACLE_N_EIG


@dataclass(frozen=True)
class Rule:
    """What the paper has for a parameter, and what to say where a record has something else.

    paper   : the paper's value
    text    : with {ours} and {paper}
    applies : whether the parameter plays a part in a record
    """

    paper: Any
    text: str
    applies: Callable[[Mapping[str, Any]], bool] = lambda record: True


def _fits_brain(record: Mapping[str, Any]) -> bool:
    return bool(record["params"].get("target", "brain") != "consensus")


def _is_fit(record: Mapping[str, Any]) -> bool:
    return bool(record["kind"] == "alignment")


def _is_sampled(record: Mapping[str, Any]) -> bool:
    return not record.get("summary", {}).get("exact", False)


def _carries_knn(record: Mapping[str, Any]) -> bool:
    return _is_sampled(record) and record["params"].get("extend") == "knn"


def _fitted_all(record: Mapping[str, Any]) -> bool:
    found = record.get("summary", {})
    return bool(found.get("fitted_on") == found.get("nodes"))


PAPER: Mapping[str, Mapping[str, Rule]] = {
    "extract": {
        "site": Rule("attn", "features were taken at `{ours}` in place of the attention block's output"),
        "layers": Rule("all", "layers {ours} only"),
        "precision": Rule("auto", "the models' products were computed in {ours}"),
    },
    "align": {
        "target": Rule("brain", "the space was learned from `{ours}` in place of brain responses alone", _is_fit),
        "universal_dim": Rule(BRAIN_CHANNELS, "D' = {ours} in place of {paper}", _is_fit),
        "start": Rule("random", "the maps began at the closed-form fit to the responses, not at random", _fits_brain),
        "select": Rule(
            "loss", "the state with the best validation R2 was kept, not that of the lowest loss", _fits_brain
        ),
        "centre": Rule(
            False, "each slot's mean token was kept at zero exactly, where Eq. 6 alone asks for it softly", _is_fit
        ),
        "lambda_eigen": Rule(1.0, "lambda_eigen = {ours} in place of {paper}", _fits_brain),
        "lambda_zero": Rule(0.01, "lambda_zero = {ours} in place of {paper}", _fits_brain),
        "lambda_cov": Rule(0.01, "lambda_cov = {ours} in place of {paper}", _fits_brain),
        "nodes": Rule(100, "{ours} nodes per step in place of {paper}", _fits_brain),
        "eigenvectors": Rule(6, "{ours} eigenvectors in Eq. 5 in place of {paper}", _fits_brain),
        "control": Rule("none", "a CONTROL: `{ours}` targets stood in for the responses", _is_fit),
    },
    "eigs": {
        "n_sample": Rule(50_000, "{ours} sampled nodes in place of {paper}", _is_sampled),
        "sample": Rule("uniform", "nodes were sampled by farthest points", _is_sampled),
        "extend": Rule(
            "knn", "eigenvectors were carried by the Nystrom extension in place of Eq. 4's neighbours", _is_sampled
        ),
        "neighbors": Rule(100, "K = {ours} neighbours in place of {paper}", _carries_knn),
        "orthogonalize": Rule(False, "the carried eigenvectors were made orthonormal", _is_sampled),
        "centre": Rule("none", "each slot's mean token was subtracted before the cosine"),
        "n_eig": Rule(20, "{ours} eigenvectors in place of {paper}"),
    },
    "tsne": {
        "n_sample": Rule(100_000, "fitted on {ours} nodes in place of {paper}", lambda record: not _fitted_all(record)),
    },
    "segment": {
        "clusters": Rule((), "segments were found by clustering, without the oracle"),
        "n_eig": Rule(ORACLE_N_EIG, "{ours} eigenvectors in place of {paper}"),
        "resolution": Rule("pixels", "scored per token in place of per pixel"),
    },
    "transitions": {"concepts": Rule(5, "{ours} concepts per layer in place of {paper}")},
}
"""By stage and parameter; what is not named here the paper does not say."""

DECIDED: Mapping[str, Mapping[str, str]] = {
    "align": {
        "Eq. 6": "L_zero is the mean of squared channel means, since the signed sum as printed has no minimum",
        "Eq. 8": "L_eigen is computed within each slot and averaged over slots",
    },
}
"""What every run decides where the paper's formula cannot be meant or is silent, by stage."""


def find_deviations(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what deviates from the paper in a record, by parameter or equation."""
    found: dict[str, str] = {}
    for name, rule in PAPER.get(record["stage"], {}).items():
        ours = _effective(record, name)
        if name in record["params"] and rule.applies(record) and ours is not None and ours != rule.paper:
            found[name] = rule.text.format(ours=_shown(ours), paper=_shown(rule.paper))
    if record["kind"] == "alignment" and record["params"].get("target") != "consensus":
        found |= DECIDED.get(record["stage"], {})
    return found


def _effective(record: Mapping[str, Any], name: str) -> Any:
    """Return a parameter's value as it took effect; where None was given, what the stage chose."""
    value = record["params"].get(name)
    summary = record.get("summary", {})
    if record["stage"] == "segment" and name == "n_eig" and not record["params"].get("clusters"):
        return summary.get("n_eig", value)
    if record["stage"] == "tsne" and name == "n_sample":
        return summary.get("fitted_on", value)
    if record["stage"] == "eigs" and name == "n_sample":
        return summary.get("sampled", value)
    if name == "universal_dim" and value is None and record["params"].get("target") != "brain":
        return CONSENSUS_CHANNELS
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
