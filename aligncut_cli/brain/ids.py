"""Which image each row of the responses belongs to: a column of a CSV, or NSD's tables of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aligncut_cli.brain.text import NAME_COLUMNS, TextTable, read_text_table
from aligncut_cli.errors import BadInput

NSD_COLUMNS = ("nsdid", "nsd_id", "73kid")
REPEATS = ("rep0", "rep1", "rep2")


def read_image_ids(path: Path, *, n_rows: int, sessions: Sequence[int] = (), subject: int | None = None) -> list[str]:
    """Read one image name per row of the responses, as it is written; NSD's numbers become names such as nsd-00028.

    path     : CSV (commas, semicolons or tabs) with a column named by NAME_COLUMNS, or its first column without header;
               or NSD's nsd_stim_info_merged.csv, which says of each image in which trials it was shown
    n_rows   : of the responses, for the check
    sessions : NSD's sessions whose trials the rows are, from 1; a table of more sessions is cut to them
    subject  : NSD's subject from 1, for the merged table
    """
    table = read_text_table(path)
    if table.column("subject1_rep0") is not None:
        return _read_merged(path, table, n_rows=n_rows, sessions=sessions, subject=subject)
    column = table.column(*NSD_COLUMNS) if sessions else None
    column = table.column(*NAME_COLUMNS) if column is None else column
    named = "" if table.header is None or column is None else table.header[column]
    column = column or 0
    rows = _rows_of_sessions(table, sessions, n_rows)
    short = [number for number, row in enumerate(rows, 1) if len(row) <= column or not row[column]]
    if short:
        raise BadInput(f"{path}: row {short[0]} names no image.")
    if len(rows) != n_rows:
        raise BadInput(
            f"{path}: names {len(rows):,} images, but the responses have {n_rows:,} rows.",
            why=f"Its first row is {', '.join(rows[0])[:80]}." if rows else "",
            do="If that is a header, call the column of names `image`; otherwise correct the table.",
        )
    names = [row[column] for row in rows]
    if named in NSD_COLUMNS:
        return [name_nsd(_to_id(path, name) - (named == "73kid")) for name in names]
    return names


def name_nsd(nsd_id: int) -> str:
    """Return what an image of NSD is called, by its number from 0 among the 73,000."""
    return f"nsd-{nsd_id:05d}"


def _to_id(path: Path, text: str) -> int:
    try:
        value = float(text)
        if value == int(value) >= 0:
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise BadInput(f"{path}: {text!r} is no number of an NSD image.")


def _rows_of_sessions(table: TextTable, sessions: Sequence[int], n_rows: int) -> list[list[str]]:
    """Leave out trials of other sessions, where the table says which session a trial is of."""
    column = table.column("session")
    if not sessions or column is None or len(table.rows) == n_rows:
        return table.rows
    wanted = {str(session) for session in sessions}
    return [row for row in table.rows if len(row) > column and row[column].lstrip("0") in wanted]


def _read_merged(
    path: Path, table: TextTable, *, n_rows: int, sessions: Sequence[int], subject: int | None
) -> list[str]:
    """Turn NSD's table of images, with the trials of each, into the image of each trial of these sessions."""
    columns = [table.column(f"subject{subject}_{repeat}") for repeat in REPEATS]
    number = table.column("nsdid")
    if subject is None or number is None or None in columns:
        raise BadInput(
            f"{path}: is NSD's table of all subjects, and whose trials these are is not known.",
            do="Keep the betas below a folder called subj01 to subj08, or give --image-ids a CSV with nsdId per trial.",
        )
    shown: dict[int, str] = {}
    for row in table.rows:
        for column in columns:
            if column is not None and len(row) > max(column, number) and row[column] not in ("", "0"):
                shown[_to_id(path, row[column])] = name_nsd(_to_id(path, row[number]))
    per_session = n_rows // max(1, len(sessions))
    trials = [(session - 1) * per_session + k for session in sessions for k in range(1, per_session + 1)]
    missing = [trial for trial in trials if trial not in shown]
    if missing or len(trials) != n_rows:
        raise BadInput(
            f"{path}: names no image of {f'trial {missing[0]}' if missing else 'the last trials'}.",
            why=f"The responses have {n_rows:,} trials in {len(sessions)} sessions.",
            do="Give --image-ids a CSV with the nsdId of every trial.",
        )
    return [shown[trial] for trial in trials]
