"""What like colours may be taken for, decided in one place from what stores record."""

from __future__ import annotations

from aligncut_cli.store.kinds.base import AnyStore, NodeStore


def share_a_space(store: AnyStore) -> bool | None:
    """Return whether nodes of different models may be compared; None where an older store does not tell.

    store : eigs, which says so or has the alignment among its inputs; or tsne, which hands on what its eigs store says
    """
    record = store.record
    if len(record["models"]) == 1:
        return True
    if "comparable" in record:
        known: bool | None = record["comparable"]
        return known
    if store.kind != "eigs":
        return None
    return any(item["kind"] == "alignment" for item in record["inputs"])


def describe_colours(source: NodeStore) -> str:
    """Say in a sentence between which nodes like colours mean like places, and where they mean nothing.

    source : an eigs store, or the tsne store whose colours are meant
    """
    models = source.axes.models
    within = "across its photos and layers" if max(len(model.layers) for model in models) > 1 else "across its photos"
    if source.grouping == "layer":
        return "Every layer has a map of its own: like colours mean like places within one layer only, across photos."
    if len(models) == 1:
        return f"Like colours mean like places of {models[0].name}, {within}."
    if source.grouping == "model":
        return f"Every model has a map of its own: like colours mean like places within one model only, {within}."
    shared = share_a_space(source.store)
    if shared:
        return "Like colours mean like places in one space, across photos, layers and models."
    why = "It is not recorded that the models share a space" if shared is None else "These features are not aligned"
    return f"{why}: like colours mean like places within one model only, {within}."
