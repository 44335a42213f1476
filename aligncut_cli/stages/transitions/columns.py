"""What the tables of `transitions` are called: record, CSV and report write and read the same columns."""

from __future__ import annotations

BIFURCATION_KEYS = ("from", "to", "r_from", "r_to", "bifurcation", "expected", "p", "p_corrected")
"""Keys of each pair of slots in the store's record."""
BIFURCATIONS = ("from", "to", "radius from", "radius to", "bifurcation", "by chance", "p", "p corrected")
"""The same as columns of bifurcations.csv and of the report."""
MOVES = ("from", "to", "tokens", "from concept", "to concept", "probability", "count", "of", "few")
"""Columns of transitions.csv."""
