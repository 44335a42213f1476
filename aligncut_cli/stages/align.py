"""Stage 2: one universal channel space, learned from brain responses (Eq. 1, 2, 10), or applied to features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.params import AlignParams, ApplyParams, RunOptions, as_record
from aligncut_cli.store.provenance import Identity, InputRecord, digest_file, digest_of
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, begin

VERSION = 1
RESPONSE_SUFFIXES = (".npy", ".npz", ".json", ".csv")


@dataclass(frozen=True)
class ResponsePaths:
    """Where responses lie: a folder or .npy file, and what goes with it."""

    responses: Path
    image_ids: Path | None = None
    rois: Path | None = None
    noise_ceiling: Path | None = None

    def are_synthetic(self) -> bool:
        """Return whether the responses say of themselves that they are computed, by a synthetic.json beside them."""
        folder = self.responses if self.responses.is_dir() else self.responses.parent
        return (folder / "synthetic.json").exists()

    def as_input(self) -> InputRecord:
        """Return the record of these files, by content."""
        given = [path for path in (self.responses, self.image_ids, self.rois, self.noise_ceiling) if path is not None]
        names: list[tuple[str, Path]] = []
        for number, path in enumerate(given):
            if path.is_dir():
                found = sorted(file for file in path.rglob("*") if file.suffix in RESPONSE_SUFFIXES and file.is_file())
                names += [(f"{number}/{file.relative_to(path).as_posix()}", file) for file in found]
            elif path.exists():
                names.append((str(number), path))
            else:
                raise BadInput(
                    f"no such file or folder: {path}", do="Give --responses an Algonauts subject or an .npy."
                )
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(digest_file, [file for _, file in names]))
        content = [[name, digest] for (name, _), digest in zip(names, digests, strict=True)]
        return InputRecord(", ".join(str(path.resolve()) for path in given), "responses", digest_of(content))


def run(features: Path, paths: ResponsePaths, params: AlignParams, options: RunOptions, console: Console) -> Outcome:
    """Write an alignment store fitted to these responses; returns its path and scores."""
    source = open_store(features, "features")
    if source.record["stage"] == "align":
        raise UsageError(f"{features} is already mapped to a universal space", do="Fit to the features as extracted.")
    identity = Identity(
        stage="align",
        version=VERSION,
        kind="alignment",
        params=as_record(params),
        inputs=[source.as_input, paths.as_input()],
    )
    with begin(identity, options, inputs=[source.path]) as work:
        if not work.complete:
            from aligncut_cli.stages.align_phases import AlignPhases

            return AlignPhases(work, source, paths, params, options, console).run()
        return work.outcome()


def apply(features: Path, alignment: Path, params: ApplyParams, options: RunOptions, console: Console) -> Outcome:
    """Write a features store mapped to the universal space by a fitted alignment; returns its path."""
    source, fitted = open_store(features, "features"), open_store(alignment, "alignment")
    identity = Identity(
        stage="align",
        version=VERSION,
        kind="features",
        params=as_record(params),
        inputs=[source.as_input, fitted.as_input],
        loose=["seed"],
    )
    with begin(identity, options, inputs=[source.path, fitted.path]) as work:
        if not work.complete:
            from aligncut_cli.stages.apply_phases import ApplyPhases

            return ApplyPhases(work, source, fitted, options, console).run()
        return work.outcome()
