"""`align --target consensus` and `both` as a whole, on slots that see one planted latent through maps of their own."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aligncut_cli.maths.split_images import split_images
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, array_bytes, done, spawn
from tests.planted import CEILING, plant_latent, write_features
from tests.planted_slots import largest_angle

Array = NDArray[np.float64]
N_IMAGES, N_LATENT = 120, 4
TEST = split_images(N_IMAGES, validation_share=0.1, test_share=0.1, seed=0).test
MODELS = {"wide": (2, 20), "slim": (1, 12), "deep": (2, 16)}
SPREAD = np.array([3.0, 2.2, 1.6, 1.2])


def plant_tokens(
    models: Mapping[str, tuple[int, int]], latents: Mapping[str, Array], *, private: float = 1.0
) -> dict[str, Array]:
    """Per model (layer, image, token, channel): latent and private directions, mixed by each slot's own map.

    models  : layers and width of each
    latents : (image, token, L), by model
    """
    tokens = {}
    for name, (layers, width) in models.items():
        slots = []
        for layer in range(layers):
            rng = np.random.default_rng([*name.encode(), layer])
            latent = latents[name]
            own = private * rng.standard_normal((*latent.shape[:2], width - latent.shape[2]))
            # A map that sends the mean token to zero loses its direction, which here is a private one.
            own += 3 * rng.standard_normal(own.shape[2])
            mix = np.linalg.qr(rng.standard_normal((width, width)))[0] * rng.uniform(0.5, 2, width)
            slots.append(np.concatenate([latent, own], axis=2) @ mix)
        tokens[name] = np.stack(slots)
    return tokens


def plant_latents(n_tokens: int = 5) -> Array:
    return np.random.default_rng(7).standard_normal((N_IMAGES, n_tokens, N_LATENT)) * SPREAD


LATENT = plant_latents()
TOKENS = plant_tokens(MODELS, dict.fromkeys(MODELS, LATENT))


def align(path: Path, features: Path, *more: object, dim: int = N_LATENT) -> Path:
    return done("align", features, "-o", path, "--target", "consensus", "--universal-dim", dim, *more)


def map_slots(alignment: Path, tokens: Mapping[str, Array], images: NDArray[np.int64] = TEST) -> dict[str, Array]:
    """Per slot (images, tokens, universal)."""
    store = open_store(alignment)
    return {
        f"{name}:{layer}": values[layer][images].astype(np.float16).astype(np.float64)
        @ store.read(f"{name}/weight")[layer].astype(np.float64)
        for name, values in tokens.items()
        for layer in range(len(values))
    }


def mean_cosine(mapped: Sequence[Array]) -> float:
    """Mean cosine of the same token over all pairs of slots, each (images, tokens, D)."""
    rows = [values.reshape(-1, values.shape[-1]) for values in mapped]
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in rows]
    pairs = [(a, b) for i, a in enumerate(units) for b in units[:i]]
    return float(np.mean([np.sum(a * b, axis=1).mean() for a, b in pairs]))


def consensus_of(alignment: Path) -> dict[str, Any]:
    found: dict[str, Any] = open_store(alignment).record["summary"]["consensus"]
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("planted") / "f.zarr", TOKENS, grid=(2, 2))


@pytest.fixture(scope="module")
def alignment(tmp_path_factory: pytest.TempPathFactory, planted: Path) -> Path:
    return align(tmp_path_factory.mktemp("consensus") / "a.zarr", planted)


def test_slots_agree_on_images_that_the_fit_never_saw(alignment: Path) -> None:
    mapped = map_slots(alignment, TOKENS)
    assert mean_cosine(list(mapped.values())) > 0.97
    for values in mapped.values():
        assert largest_angle(values.reshape(-1, N_LATENT), LATENT[TEST].reshape(-1, N_LATENT)) < 0.25
    record = consensus_of(alignment)
    assert record["supported"]
    assert record["r2"][1] <= record["r2"][0] <= record["r2"][2]
    assert record["r2"][0] > 0.9
    assert record["r2_by_position"] < 0.1
    for name, (layers, _) in MODELS.items():
        r2 = open_store(alignment).read(f"{name}/consensus_r2")
        assert r2.shape == (layers, 3)
        assert r2[:, 0].min() > 0.9
    assert open_store(alignment).record["controls"] == []


def test_the_mean_token_of_the_training_images_is_zero(tmp_path: Path, planted: Path, alignment: Path) -> None:
    train = split_images(N_IMAGES, validation_share=0.1, test_share=0.1, seed=0).train
    store, stored = open_store(alignment), open_store(planted)
    for slot, values in map_slots(alignment, TOKENS, train).items():
        name, layer = slot.split(":")
        mean = stored.read(f"{name}/pooled")[int(layer), train].mean(axis=0, dtype=np.float64)
        rms = np.sqrt(np.square(values).mean())
        assert np.abs(mean @ store.read(f"{name}/weight")[int(layer)]).max() < 1e-5 * rms
        assert 0.9 < rms < 1.1
    uncentred = align(tmp_path / "u.zarr", planted, "--no-centre")
    assert np.abs(map_slots(uncentred, TOKENS, train)["wide:0"].mean(axis=(0, 1))).max() > 1e-3


def test_private_directions_are_not_shared(tmp_path: Path, planted: Path) -> None:
    more = align(tmp_path / "a.zarr", planted, dim=8)
    shared, floor = open_store(more).read("consensus/shared"), consensus_of(more)["shared_floor"]
    assert shared.shape == (8, 3)
    assert shared[:N_LATENT, 0].min() > 0.8
    assert shared[N_LATENT:, 0].max() < floor + 0.2
    for values in map_slots(more, TOKENS).values():
        rows = values.reshape(-1, 8)
        assert largest_angle(rows[:, :N_LATENT], LATENT[TEST].reshape(-1, N_LATENT)) < 0.25


def test_a_slot_of_noise_has_no_weight_and_harms_nobody(tmp_path: Path, alignment: Path) -> None:
    noise = np.random.default_rng(5).standard_normal((1, N_IMAGES, 5, 14)) * 100
    tokens = {"noise": noise, **TOKENS}
    noisy = align(tmp_path / "a.zarr", write_features(tmp_path / "f.zarr", tokens, grid=(2, 2)))
    slots = consensus_of(noisy)["slots"]
    assert slots["noise:0"]["weight"] < 0.01
    assert slots["noise:0"]["r2"][0] < 0.05
    assert min(slot["weight"] for name, slot in slots.items() if name != "noise:0") > 0.1
    without, beside = map_slots(alignment, TOKENS), map_slots(noisy, TOKENS)
    for name, values in without.items():  # equally shared axes may be turned among themselves
        assert largest_angle(values.reshape(-1, N_LATENT), beside[name].reshape(-1, N_LATENT)) < 0.1
    known = [values for name, values in beside.items() if name != "noise:0"]
    assert mean_cosine(known) > mean_cosine(list(without.values())) - 0.005


def test_a_slot_that_is_there_twice_does_not_count_twice(tmp_path: Path) -> None:
    tokens = {**TOKENS, "again": TOKENS["slim"]}
    twice = align(tmp_path / "a.zarr", write_features(tmp_path / "f.zarr", tokens, grid=(2, 2)))
    slots = consensus_of(twice)["slots"]
    assert slots["slim:0"]["weight"] == pytest.approx(slots["again:0"]["weight"], rel=1e-3)
    assert slots["slim:0"]["weight"] < 0.9 * slots["wide:0"]["weight"]


def test_neither_the_order_of_models_nor_chunks_matter(tmp_path: Path, alignment: Path) -> None:
    turned = {name: TOKENS[name] for name in reversed(TOKENS)}
    other = write_features(tmp_path / "f.zarr", turned, grid=(2, 2), images_per_block=7)
    again = align(tmp_path / "a.zarr", other)
    expected, found = map_slots(alignment, TOKENS), map_slots(again, TOKENS)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=0.01 * np.abs(values).max())


@pytest.mark.parametrize("kill_after", [40, 150, 310])  # while created, before the maps are written, and after
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, planted: Path, alignment: Path, kill_after: int) -> None:
    args = ["align", planted, "-o", tmp_path / "a.zarr", "--target", "consensus", "--universal-dim", N_LATENT]
    process = spawn(args, kill_after=kill_after)
    _, err = process.communicate()
    assert process.returncode == -9, err
    assert (tmp_path / "a.zarr.wip").exists()
    assert not (tmp_path / "a.zarr").exists()
    assert array_bytes(done(*args)) == array_bytes(alignment)


@pytest.mark.parametrize("without_class", [(), ("slim",), ("fine",)])
def test_grids_and_class_tokens_may_differ(tmp_path: Path, without_class: tuple[str, ...]) -> None:
    fine = plant_latents(17)
    blocks = fine[:, 1:].reshape(N_IMAGES, 2, 2, 2, 2, N_LATENT)
    coarse = np.concatenate([fine[:, :1], 2 * blocks.mean(axis=(2, 4)).reshape(N_IMAGES, 4, N_LATENT)], axis=1)
    latents = {"wide": coarse, "slim": coarse, "fine": fine}
    tokens = plant_tokens({"wide": (2, 20), "slim": (1, 12), "fine": (1, 16)}, latents, private=0.5)
    stored = {name: values[:, :, int(name in without_class) :] for name, values in tokens.items()}
    features = write_features(
        tmp_path / "f.zarr", stored, grid=(2, 2), grids={"fine": (4, 4)}, without_class=without_class
    )
    mapped = map_slots(align(tmp_path / "a.zarr", features), tokens)
    assert consensus_of(tmp_path / "a.zarr")["r2"][1] > 0.8
    patches = mapped["fine:0"][:, 1:].reshape(len(TEST), 2, 2, 2, 2, N_LATENT).mean(axis=(2, 4))
    mapped["fine:0"] = patches.reshape(len(TEST), 4, N_LATENT)
    assert mean_cosine([values[:, -4:] for values in mapped.values()]) > 0.9


def test_stores_of_sampled_tokens_work_where_all_models_have_the_same(tmp_path: Path, alignment: Path) -> None:
    rng = np.random.default_rng(2)
    chosen = np.stack([np.sort(rng.permutation(5)[:3]) for _ in range(N_IMAGES)]).astype(np.int32)
    kept = dict.fromkeys(TOKENS, chosen)
    features = write_features(tmp_path / "f.zarr", TOKENS, grid=(2, 2), kept=kept)
    mapped = map_slots(align(tmp_path / "a.zarr", features), TOKENS)
    assert mean_cosine(list(mapped.values())) > 0.95
    kept["slim"] = kept["slim"][::-1].copy()
    differ = write_features(tmp_path / "d.zarr", TOKENS, grid=(2, 2), kept=kept)
    result = aligncut("align", differ, "-o", tmp_path / "b.zarr", "--target", "consensus", "--universal-dim", 4)
    assert result.code == 3
    assert "sampled tokens that are not the same in all models" in result.err
    assert "without --sample-tokens" in " ".join(result.err.split())


def test_exchanged_images_are_at_chance_and_flagged(tmp_path: Path, planted: Path) -> None:
    result = aligncut(
        *("align", planted, "-o", tmp_path / "a.zarr", "--target", "consensus", "--universal-dim", N_LATENT),
        *("--control", "shuffle"),
    )
    assert result.code == 0, result.err
    assert "CONTROL" in result.err
    assert open_store(result.path).record["controls"] == ["shuffle"]
    record = consensus_of(result.path)
    assert record["r2"][0] < 0.1
    assert record["shared"][0] < record["shared_floor"] + 0.15
    assert abs(mean_cosine(list(map_slots(result.path, TOKENS).values()))) < 0.3


@pytest.mark.parametrize("sampled", [False, True])
def test_what_is_only_position_is_reported_and_can_be_removed(tmp_path: Path, sampled: bool) -> None:
    place = 5 * np.random.default_rng(1).standard_normal((1, 5, 2))
    seen = np.concatenate([LATENT[..., :2], np.broadcast_to(place, (N_IMAGES, 5, 2))], axis=2)
    tokens = plant_tokens(MODELS, dict.fromkeys(MODELS, seen))
    chosen = np.sort(np.random.default_rng(2).random((N_IMAGES, 5)).argsort(axis=1)[:, :3], axis=1).astype(np.int32)
    kept = dict.fromkeys(tokens, chosen) if sampled else {}
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2), kept=kept)
    plain = align(tmp_path / "a.zarr", features, dim=4)
    removed = align(tmp_path / "r.zarr", features, "--remove-position", dim=2)
    assert consensus_of(plain)["r2_by_position"] > 0.3
    assert consensus_of(removed)["r2_by_position"] < 0.1
    assert consensus_of(removed)["r2"][0] > 0.8
    content = seen[TEST][..., :2] - seen[TEST][..., :2].mean(axis=0)
    for values in map_slots(removed, tokens).values():
        inside = values - values.mean(axis=0)
        assert largest_angle(inside.reshape(-1, 2), content.reshape(-1, 2)) < 0.25


def test_slots_that_share_nothing_are_said_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    latents = {name: rng.standard_normal((N_IMAGES, 5, 2)) for name in ("one", "two")}
    tokens = plant_tokens({"one": (1, 8), "two": (1, 6)}, latents)
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    result = aligncut("align", features, "-o", tmp_path / "a.zarr", "--target", "consensus", "--universal-dim", 2)
    assert result.code == 0, result.err
    assert not consensus_of(result.path)["supported"]
    assert "these axes mean nothing" in " ".join(result.err.split())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, NDArray[np.float32]]:
    """Features, a folder of responses that are linear in their latent, and the responses."""
    folder = tmp_path_factory.mktemp("world")
    tokens, responses = plant_latent()
    brain = folder / "brain"
    brain.mkdir()
    np.save(brain / "responses.npy", responses)
    (brain / "rois.json").write_text(json.dumps({"V1": list(range(15)), "EBA": list(range(15, 40))}))
    return write_features(folder / "f.zarr", tokens, grid=(2, 2)), brain, responses


FIT = ["--universal-dim", 10, "--epochs", 4, "--batch-images", 64, "--nodes", 40, "--eigenvectors", 4]


def score_and_compare(alignment: Path, features: Path, folder: Path) -> tuple[float, float]:
    """Mean R2 over voxels, and the mean cosine of a token between the two models."""
    found = done("compare", features, "--alignment", alignment, "-o", folder)
    means = open_store(found).record["summary"]["between_models"]
    return float(open_store(alignment).read("scores/r2").mean()), float(means["after"])


def test_responses_are_read_out_of_the_consensus_and_both_predicts_no_worse(
    tmp_path: Path, world: tuple[Path, Path, NDArray[np.float32]]
) -> None:
    features, brain, _ = world
    given = ["--responses", brain, "--rois", brain / "rois.json", *FIT]
    alone = done("align", features, "-o", tmp_path / "alone.zarr", "--target", "consensus", "--universal-dim", 10)
    inside = done("align", features, "-o", tmp_path / "c.zarr", "--target", "consensus", *given)
    both = done("align", features, "-o", tmp_path / "b.zarr", "--target", "both", *given)
    assert not Alignment(open_store(alone)).has_readout
    weight, found = (
        np.concatenate([open_store(path).read(f"{name}/weight").ravel() for name in ("wide", "slim")])
        for path in (alone, inside)
    )  # the maps stay, but for one scale of all channels that maps and readout share
    scale = found @ weight / (weight @ weight)
    np.testing.assert_allclose(found, scale * weight, rtol=0, atol=1e-4 * np.abs(weight).max())
    (r2, cosine), (r2_both, cosine_both) = (
        score_and_compare(path, features, tmp_path / f"similarity-{path.stem}") for path in (inside, both)
    )
    assert r2 > 0.9 * CEILING
    assert r2_both > r2 - 0.01
    assert min(cosine, cosine_both) > 0.9
    for path in (inside, both):
        record = open_store(path).record["summary"]
        assert record["consensus"]["r2"][0] > 0.9
        assert set(record["scores"]) == {"all", "V1", "EBA"}
    eigs = done(
        "eigs",
        features,
        "-o",
        tmp_path / "e.zarr",
        "--alignment",
        both,
        "--n-eig",
        3,
        "--n-sample",
        300,
        "--roi",
        "V1",
        "--top-channels",
        4,
    )
    assert open_store(eigs).kind == "eigs"


def test_responses_of_other_images_are_not_read_out_of_the_consensus(
    tmp_path: Path, world: tuple[Path, Path, NDArray[np.float32]]
) -> None:
    features, _, responses = world
    brain = tmp_path / "brain"
    brain.mkdir()
    np.save(brain / "responses.npy", responses[np.random.default_rng(0).permutation(len(responses))])
    for target in ("consensus", "both"):
        made = done(
            "align", features, "-o", tmp_path / f"{target}.zarr", "--target", target, "--responses", brain, *FIT
        )
        assert open_store(made).read("scores/r2").mean() < 0.02
        assert consensus_of(made)["r2"][0] > 0.9


def test_what_cannot_be_is_refused_with_what_to_do(tmp_path: Path, planted: Path) -> None:
    def refused(code: int, *args: object) -> str:
        result = aligncut("align", *args, "-o", tmp_path / "a.zarr")
        assert result.code == code, result.err
        assert not (tmp_path / "a.zarr.wip").exists()
        return " ".join(result.err.split())

    for target in ("brain", "both"):
        said = refused(2, planted, "--target", target)
        assert f"align --target {target} needs --responses" in said
        assert "--target consensus, which needs none" in said
    consensus = [planted, "--target", "consensus", "--universal-dim", 4]
    for more in (["--folds", 3], ["--seeds", 2], ["--control", "random"], ["--control", "shuffle", "--repeat", 2]):
        assert "takes neither --folds" in refused(2, *consensus, *more)


def test_a_single_slot_has_nothing_to_agree_with(tmp_path: Path) -> None:
    tokens = plant_tokens({"slim": (1, 12)}, {"slim": LATENT})
    features = write_features(tmp_path / "f.zarr", tokens, grid=(2, 2))
    result = aligncut("align", features, "-o", tmp_path / "a.zarr", "--target", "consensus", "--universal-dim", 4)
    assert result.code == 3
    assert "Extract several layers or models" in " ".join(result.err.split())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    """What the slots of real photos share."""
    return align(tmp_path_factory.mktemp("shared") / "a.zarr", features, "--test-share", 0.25, dim=8)


def test_what_needs_no_brain_works_from_eigenvectors_to_the_report(
    tmp_path: Path, features: Path, shared: Path, photos: Path
) -> None:
    mapped = ["--alignment", shared]
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", *mapped, "--n-eig", 4, "--n-sample", 200)
    tsne = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--n-sample", 150, "--iterations", 30)
    flat = done("tsne", eigs, "-o", tmp_path / "f.zarr", "--dims", 2, "--n-sample", 150, "--iterations", 30)
    similarity = done("compare", features, *mapped, "-o", tmp_path / "similarity")
    concepts = done("concepts", flat, "--features", features, *mapped, "-o", tmp_path / "concepts", "--concepts", 3)
    steps = done("transitions", flat, "-o", tmp_path / "x.zarr", "--along", "tiny", "--concepts", 3)
    pictures = done("render", tsne, "-o", tmp_path / "pictures", "--images", 1)
    tokens = done(
        "activations",
        features,
        *mapped,
        "--slot",
        "tiny:1",
        "--token",
        "photo-000:1,1",
        "--space",
        "universal",
        "-o",
        tmp_path / "tokens",
    )
    stores = [shared, eigs, tsne, flat, similarity, concepts, steps, pictures, tokens]
    page = done("report", *stores, "-o", tmp_path / "page")
    assert (page / "index.html").stat().st_size > 1000
    figures = tmp_path / "figures"
    again = ["--target", "consensus", "--universal-dim", 8, "--test-share", 0.25, "--figures", figures]
    assert done("align", features, "-o", shared, *again) == shared
    with (figures / "consensus.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    for name in ("tiny", "pair"):
        r2 = [[float(line[key]) for key in ("r2", "r2_low", "r2_high")] for line in lines if line["model"] == name]
        np.testing.assert_allclose(r2, open_store(shared).read(f"{name}/consensus_r2"), rtol=1e-5)
    assert sorted(file.name for file in figures.glob("*.[cp]*")) == ["consensus.csv", "consensus.png"]
    assert "consensus" in aligncut("inspect", shared).out


def test_what_needs_a_brain_says_so_and_what_to_do(tmp_path: Path, features: Path, shared: Path, photos: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    mapped = ["--alignment", shared]
    commands = {
        "--masks": ["activations", features, *mapped, "--masks", masks],
        "--space brain": ["activations", features, *mapped, "--slot", "tiny:1", "--token", "photo-000:1,1"],
        "--roi": ["eigs", features, *mapped, "--roi", "V1", "--top-channels", 4, "--n-sample", 200],
    }
    for photo in photos.iterdir():
        (masks / photo.name).write_bytes(photo.read_bytes())
    for what, command in commands.items():
        result = aligncut(*command, "-o", tmp_path / "out")
        assert result.code == 3, (what, result.err)
        said = " ".join(result.err.split())
        assert f"has no readout, which {what} needs" in said
        assert "--responses DIR" in said
        assert not (tmp_path / "out").exists()
