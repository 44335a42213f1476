"""Scores of all runs as tables, for the terminal, the report and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aligncut_cli.controls import title_with_controls

Table = tuple[str, list[str], list[list[Any]]]
HEADINGS = {"top1": "top-1", "top5": "top-5", "pairwise": "pairwise", "median_rank": "median rank"}


def list_scores(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: a row per run, then what half of the repeats tells of the other, and guessing."""
    header = ["run", "top-1", "low", "high", "p", "top-5", "pairwise", "median rank", "effective neurons"]
    rows = [
        [
            run["run"],
            *run["top1"],
            run["p"]["top1"],
            run["top5"][0],
            run["pairwise"][0],
            run["median_rank"][0],
            run["effective_neurons"],
        ]
        for run in summary["runs"]
    ]
    chance = summary["chance"]
    if "repeats" in summary:
        own = summary["repeats"]
        rows.append(["repeat to repeat", *own["top1"], None, own["top5"][0], None, own["median_rank"], None])
    rows.append(
        ["guessing", chance["top1"], None, None, None, chance["top5"], chance["pairwise"], chance["median_rank"], None]
    )
    return header, rows


def list_neurons(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: top-1 of the most responsive neurons and of random ones, by run and size."""
    header = ["run", "neurons", "most responsive", "random", "p"]
    rows = [
        [run["run"], size["size"], size["top"], size["random"], size["p"]]
        for run in summary["runs"]
        for size in run.get("neurons", ())
    ]
    return header, rows


def list_categories(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: how often retrieved, and nearest wrong, images are of the seen one's category."""
    header = ["run", "right category", "low", "high", "chance", "p", "nearest wrong", "low", "high", "chance"]
    rows = []
    for run in summary["runs"]:
        if "category" in run:
            right, wrong = run["category"]["right"], run["category"]["nearest_wrong"]
            tested = [*right["share"], right["chance"], run["category"]["p"]]
            rows.append([run["run"], *tested, *wrong["share"], wrong["chance"]])
    return header, rows


def tabulate(summary: Mapping[str, Any], controls: Sequence[str]) -> list[Table]:
    """Return title, header and rows of every table that has rows.

    summary : of the store's record
    """
    title = (
        f"{summary['images']:,} images, each held out once and looked for among {summary['candidates']:,}; "
        "low and high: 95 %"
    )
    if summary["synthetic"]:
        title += "\nSYNTHETIC responses, computed and not recorded"
    tables = [
        (title_with_controls(title, controls), *list_scores(summary)),
        ("top-1 of subsets of the neurons; p: as good by chance as the most responsive", *list_neurons(summary)),
        ("categories of the retrieved and of the nearest wrong image", *list_categories(summary)),
    ]
    return [table for table in tables if table[2]]
