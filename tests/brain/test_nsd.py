"""NSD as it is unpacked: betas of single trials by session, whose repeats are averaged by the image that was shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.brain.ceiling import ceiling_of_ncsnr
from aligncut_cli.brain.join import join_images
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.errors import BadInput

h5py = pytest.importorskip("h5py")

PER_SESSION, SESSIONS, SHAPE = 12, (1, 2, 10), (3, 4, 2)


@dataclass
class Subject:
    folder: Path
    trials: np.ndarray  # (trials, x, y, z)
    shown: np.ndarray  # (trials,) nsdId

    def averages(self) -> dict[str, np.ndarray]:
        """The slow twin: of every image the mean of its trials."""
        flat = self.trials.reshape(len(self.trials), -1).astype(np.float64)
        return {f"nsd-{image:05d}": flat[self.shown == image].mean(0) for image in np.unique(self.shown)}


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    rng = np.random.default_rng(0)
    folder = tmp_path / "ppdata" / "subj02" / "func1pt8mm" / "betas_fithrf"
    folder.mkdir(parents=True)
    n_trials = PER_SESSION * len(SESSIONS)
    trials = rng.integers(-9000, 9000, (n_trials, *SHAPE)).astype(np.int16)
    trials[:, 0] = 0  # outside the brain
    shown = rng.permutation(np.repeat(rng.choice(73_000, n_trials // 3, replace=False), 3))
    for number, session in enumerate(SESSIONS):
        with h5py.File(folder / f"betas_session{session:02d}.hdf5", "w") as file:
            file["betas"] = trials[number * PER_SESSION : (number + 1) * PER_SESSION]
    return Subject(folder, trials, shown)


def write_trials(path: Path, subject: Subject, *, column: str = "73KID", sessions: bool = True) -> Path:
    """`responses.tsv` of NSD: a row per trial, 73KID from 1."""
    lines = ["SUBJECT\tSESSION\tTRIAL\t" + column]
    for trial, image in enumerate(subject.shown):
        session = SESSIONS[trial // PER_SESSION]
        lines.append(f"2\t{session if sessions else 1}\t{trial}\t{image + (column == '73KID')}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("column", ["73KID", "nsdId"])
def test_trials_of_one_image_are_averaged_over_sessions(subject: Subject, column: str) -> None:
    responses = load_responses(subject.folder, image_ids=write_trials(subject.folder / "t.tsv", subject, column=column))
    expected = subject.averages()
    assert sorted(responses.ids or []) == sorted(expected)
    assert responses.kept.tolist() == list(range(8, 24))  # the first plane lies outside
    for name, values in zip(responses.ids or [], responses.values, strict=True):
        np.testing.assert_allclose(values, expected[name][8:], rtol=1e-5)
    assert responses.record["form"] == "nsd"
    assert responses.record["sessions"] == list(SESSIONS)
    assert responses.record["repeats"] == {"least": 3, "most": 3}


def test_images_called_by_their_number_meet_their_responses(subject: Subject) -> None:
    responses = load_responses(subject.folder, image_ids=write_trials(subject.folder / "t.tsv", subject))
    some = [int(name[4:]) for name in (responses.ids or [])[5:1:-1]]
    for pattern in ("nsd-{:05d}", "shared0001_nsd{:05d}", "train-0007_nsd-{:05d}", "{}"):
        joined = join_images([pattern.format(image) for image in some], responses.ids, n_responses=responses.shape[0])
        assert joined.response_rows.tolist() == [5, 4, 3, 2]


def test_the_table_beside_the_betas_is_found_and_cut_to_the_sessions_there(subject: Subject) -> None:
    write_trials(subject.folder / "responses.tsv", subject)
    whole = load_responses(subject.folder)
    (subject.folder / "betas_session02.hdf5").unlink()
    part = load_responses(subject.folder)
    kept = np.r_[0:PER_SESSION, 2 * PER_SESSION : 3 * PER_SESSION]
    expected = Subject(subject.folder, subject.trials[kept], subject.shown[kept]).averages()
    assert whole.shape[0] == 12
    for name, values in zip(part.ids or [], part.values, strict=True):
        np.testing.assert_allclose(values, expected[name][8:], rtol=1e-5)


def test_nsds_table_of_images_says_the_trials_of_each(subject: Subject) -> None:
    head = ["", "cocoId", "nsdId", *(f"subject{s}_rep{r}" for s in range(1, 9) for r in range(3))]
    lines = [",".join(head)]
    for number, image in enumerate(np.unique(subject.shown)):
        places = np.flatnonzero(subject.shown == image)
        trials = [(SESSIONS[place // PER_SESSION] - 1) * PER_SESSION + place % PER_SESSION + 1 for place in places]
        cells = ["0"] * 3 + [str(trial) for trial in trials] + ["0"] * 18
        lines.append(",".join([str(number), "9", str(image), *cells]))
    (subject.folder / "nsd_stim_info_merged.csv").write_text("\n".join(lines))
    responses = load_responses(subject.folder)
    expected = subject.averages()
    for name, values in zip(responses.ids or [], responses.values, strict=True):
        np.testing.assert_allclose(values, expected[name][8:], rtol=1e-5)


def test_hemispheres_stand_side_by_side_and_a_missing_one_is_said(subject: Subject) -> None:
    flat = subject.trials.reshape(len(subject.trials), -1)
    for session in SESSIONS:
        (subject.folder / f"betas_session{session:02d}.hdf5").unlink()
    for number, session in enumerate(SESSIONS):
        rows = slice(number * PER_SESSION, (number + 1) * PER_SESSION)
        for side, columns in (("lh", slice(8, 15)), ("rh", slice(15, None))):
            with h5py.File(subject.folder / f"{side}.betas_session{session:02d}.hdf5", "w") as file:
                file["betas"] = flat[rows, columns]
    write_trials(subject.folder / "responses.tsv", subject)
    responses = load_responses(subject.folder)
    expected = subject.averages()
    for name, values in zip(responses.ids or [], responses.values, strict=True):
        np.testing.assert_allclose(values, expected[name][8:], rtol=1e-5)
    (subject.folder / "rh.betas_session02.hdf5").unlink()
    with pytest.raises(BadInput, match=r"lh: sessions \[1, 2, 10\]; rh: sessions \[1, 10\]"):
        load_responses(subject.folder)


def test_without_a_table_of_trials_or_with_another_it_is_refused(subject: Subject) -> None:
    with pytest.raises(BadInput, match=r"--image-ids responses\.tsv"):
        load_responses(subject.folder)
    write_trials(subject.folder / "responses.tsv", subject, sessions=False)
    (subject.folder / "betas_session02.hdf5").unlink()
    with pytest.raises(BadInput, match="names 36 images, but the responses have 24 rows"):
        load_responses(subject.folder)


def test_ncsnr_beside_the_betas_becomes_the_noise_ceiling(subject: Subject) -> None:
    write_trials(subject.folder / "responses.tsv", subject)
    ratio = np.linspace(0, 2, 24).reshape(1, *SHAPE)
    with h5py.File(subject.folder / "ncsnr.hdf5", "w") as file:
        file["ncsnr"] = ratio
    responses = load_responses(subject.folder)
    power = ratio.ravel()[8:] ** 2
    np.testing.assert_allclose(responses.noise_ceiling, power / (power + 1 / 3), rtol=1e-5)  # type: ignore[arg-type]


def test_the_ceiling_is_the_share_of_variance_that_averages_share_with_the_truth() -> None:
    """Planted: signal of deviation s, noise of deviation 1 in each of n trials."""
    rng = np.random.default_rng(4)
    ratio = np.array([0.3, 1.0])
    repeats = rng.integers(1, 4, 40_000)
    signal = ratio * rng.standard_normal((40_000, 2))
    noise = rng.standard_normal((40_000, 2)) / np.sqrt(repeats)[:, None]
    share = signal.var(0) / (signal + noise).var(0)
    np.testing.assert_allclose(ceiling_of_ncsnr(ratio.astype(np.float32), repeats), share, rtol=0.03)
