"""`eigs` as a whole, against a dense double-precision solution of the same graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import zarr
from numpy.typing import NDArray

from aligncut_cli.store.kinds.alignment import DEVIATION
from aligncut_cli.store.read import open_store
from tests.conftest import TINY, aligncut, array_bytes, done, make_photos, spawn
from tests.planted import write_features
from tests.stages.made_stores import make_alignment

CARRIED = ["--n-eig", 4, "--n-sample", 150, "--neighbors", 7]


def all_rows(store: Path, array: str) -> NDArray[np.float64]:
    """Read every node's row in flat order: models in order, then C-order."""
    opened = open_store(store)
    parts = [opened.read(f"{name}/{array}") for name in opened.record["models"]]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts]).astype(np.float64)


def dense_affinity(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.exp(unit @ unit.T - 1)


def dense_solution(rows: NDArray[np.float64], n_eig: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve Eq. 3 in double precision without any of our code."""
    graph = dense_affinity(rows)
    root = np.sqrt(graph.sum(axis=1))
    values, vectors = scipy.linalg.eigh(graph / root[:, None] / root[None, :])
    return values[::-1][:n_eig], vectors[:, ::-1][:, :n_eig]


def principal_angles(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return scipy.linalg.subspace_angles(a, b)


def test_all_nodes_sampled_is_the_dense_solution(tmp_path: Path, features: Path) -> None:
    output = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 6)
    values, vectors = dense_solution(all_rows(features, "tokens"), 6)
    found = all_rows(output, "eigvecs")
    np.testing.assert_allclose(open_store(output).read("eigenvalues")[0], values, rtol=1e-6)
    assert principal_angles(found, vectors).max() < 1e-4
    np.testing.assert_allclose(np.abs((found * vectors).sum(axis=0)), 1, atol=1e-6)
    assert open_store(output).record["summary"]["exact"] is True


def test_each_model_and_each_layer_can_be_cut_alone(tmp_path: Path, features: Path) -> None:
    rows = all_rows(features, "tokens")
    for group, count in (("model", 2), ("layer", 6)):
        output = done("eigs", features, "-o", tmp_path / f"{group}.zarr", "--group", group, "--n-eig", 3)
        found, values = all_rows(output, "eigvecs"), open_store(output).read("eigenvalues")
        assert values.shape == (count, 3)
        for index, (part, own) in enumerate(zip(np.split(rows, count), np.split(found, count), strict=True)):
            expected, vectors = dense_solution(part, 3)
            np.testing.assert_allclose(values[index], expected, rtol=1e-6)
            assert principal_angles(own, vectors).max() < 1e-4


def naive_average(rows: NDArray[np.float64], store: Path, k: int) -> NDArray[np.float64]:
    """Carry by Eq. 4 in a plain loop over nodes."""
    opened = open_store(store)
    nodes, eigvecs = opened.read("sample/node")[0], opened.read("sample/eigvecs")[0].astype(np.float64)
    affinity = dense_affinity(rows)[:, nodes]
    out = np.empty((len(rows), eigvecs.shape[1]))
    for i, weights in enumerate(affinity):
        nearest = sorted(range(len(nodes)), key=lambda j: -weights[j])[:k]
        out[i] = sum(weights[j] * eigvecs[j] for j in nearest) / sum(weights[j] for j in nearest)
    return out


def test_carried_rows_are_the_naive_average_of_equation_4(tmp_path: Path, features: Path) -> None:
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--search", "flat")
    expected = naive_average(all_rows(features, "tokens"), output, 7)
    np.testing.assert_allclose(all_rows(output, "eigvecs"), expected, atol=1e-5)


def test_nystrom_rows_are_the_naive_formula(tmp_path: Path, features: Path) -> None:
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--extend", "nystrom")
    opened, rows = open_store(output), all_rows(features, "tokens")
    nodes = opened.read("sample/node")[0]
    affinity = dense_affinity(rows)[:, nodes]
    degrees = affinity[nodes].sum(axis=1)
    scaled = affinity / np.sqrt(affinity.sum(axis=1))[:, None] / np.sqrt(degrees)[None, :]
    expected = scaled @ opened.read("sample/eigvecs")[0] / opened.read("eigenvalues")[0]
    found = all_rows(output, "eigvecs")
    for carried, exact in ((found, expected), (found[nodes], opened.read("sample/eigvecs")[0])):
        assert (np.linalg.norm(carried - exact, axis=0) <= 0.012 * np.linalg.norm(exact, axis=0)).all()


def test_orthogonalized_columns_are_orthogonal_with_the_scale_of_the_sample(tmp_path: Path, features: Path) -> None:
    plain = all_rows(done("eigs", features, "-o", tmp_path / "p.zarr", *CARRIED), "eigvecs")
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--orthogonalize")
    found = all_rows(output, "eigvecs")
    np.testing.assert_allclose(found.T @ found, np.eye(4) * len(found) / 150, atol=1e-3)
    assert principal_angles(found, plain).max() < 1e-4


def test_the_check_reports_the_residual_of_full_graph_rows(tmp_path: Path, features: Path) -> None:
    rows = all_rows(features, "tokens")
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--check", len(rows))
    opened, found = open_store(output), all_rows(output, "eigvecs")
    graph = dense_affinity(rows)
    root = np.sqrt(graph.sum(axis=1))
    values = opened.read("eigenvalues")[0]
    residual = (graph / root[:, None] / root[None, :]) @ found - found * values
    expected = np.linalg.norm(residual, axis=0) / (values * np.linalg.norm(found, axis=0))
    report = opened.record["summary"]["check"]["all"]
    assert report["rows"] == len(rows)
    np.testing.assert_allclose(report["residual"], expected, rtol=1e-3)
    assert report["noise"] == [0.0] * 4


def test_an_exact_solution_is_not_far_above_its_noise_floor_and_a_poor_one_is(tmp_path: Path, features: Path) -> None:
    checks = {}
    poor = ["--n-sample", 20, "--neighbors", 1, "--search", "flat"]
    for name, options in (("exact", []), ("poor", poor)):
        args = ["-o", tmp_path / f"{name}.zarr", "--n-eig", 4, "--check", 100, "--seed", 2]
        result = aligncut("eigs", features, *args, *options)
        assert result.code == 0, result.err
        assert "the check's own noise" in result.err
        checks[name] = open_store(result.path).record["summary"]["check"]["all"]
    ratios = {name: np.array(check["residual"]) / check["noise"] for name, check in checks.items()}
    assert np.sqrt(np.square(ratios["exact"]).mean()) < 2
    assert ratios["poor"].min() > 3


def test_a_killed_run_goes_on_to_the_same_bytes_and_the_same_shares(tmp_path: Path, features: Path) -> None:
    args = [*CARRIED, "--centre", "slot", "--orthogonalize", "--check", 50]
    whole = done("eigs", features, "-o", tmp_path / "whole.zarr", *args)
    command = ["eigs", features, "-o", tmp_path / "killed.zarr", *args]
    process = spawn(command)
    total = int(process.communicate()[1].rpartition("file operations: ")[2])
    shutil.rmtree(tmp_path / "killed.zarr")
    for share in (0.6, 0.1):  # the second of the rest
        spawn(command, kill_after=int(share * total)).communicate()
        assert (tmp_path / "killed.zarr.wip").exists()
    resumed = done(*command)
    assert array_bytes(resumed) == array_bytes(whole)
    assert open_store(resumed).record["summary"] == open_store(whole).record["summary"]


def naive_share(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    mean = rows.mean(axis=0)
    groups = [rows[labels == label] for label in np.unique(labels)]
    between = sum(len(group) * np.square(group.mean(axis=0) - mean).sum() for group in groups)
    return between / np.square(rows - mean).sum()


@pytest.mark.parametrize("options", [[], ["--orthogonalize"]])
def test_the_shares_of_slots_and_photos_are_the_naive_ones(tmp_path: Path, features: Path, options: list[str]) -> None:
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, *options)
    shares = open_store(result.path).record["summary"]["shares"]["all"]
    rows = all_rows(result.path, "eigvecs")
    slots, photos = np.repeat(np.arange(6), 12 * 17), np.tile(np.repeat(np.arange(12), 17), 6)
    assert shares["slot"] == pytest.approx(naive_share(rows, slots), rel=1e-6)
    assert shares["photo"] == pytest.approx(naive_share(rows, photos), rel=1e-6)
    assert f"between: slots {shares['slot']:.3f}, photos {shares['photo']:.3f}" in result.err


def test_each_graph_has_shares_of_its_own_and_one_slot_has_none(tmp_path: Path, features: Path) -> None:
    for group, count in (("model", 3), ("layer", 1)):
        result = aligncut("eigs", features, "-o", tmp_path / f"{group}.zarr", *CARRIED, "--group", group)
        opened = open_store(result.path)
        shares = opened.record["summary"]["shares"]
        assert list(shares) == opened.record["groups"]
        for name, rows in zip(shares, np.split(all_rows(result.path, "eigvecs"), len(shares)), strict=True):
            photos, slots = np.tile(np.repeat(np.arange(12), 17), count), np.repeat(np.arange(count), 12 * 17)
            assert shares[name]["photo"] == pytest.approx(naive_share(rows, photos), rel=1e-6)
            expected = None if count == 1 else pytest.approx(naive_share(rows, slots), rel=1e-6)
            assert shares[name]["slot"] == expected
        assert f"mean of {6 // count} graphs" in result.err


def slot_means(features: Path) -> NDArray[np.float64]:
    """Mean token of each slot, in a plain loop: (slot, channel)."""
    opened = open_store(features)
    return np.stack(
        [
            layer.reshape(-1, layer.shape[-1]).astype(np.float64).mean(axis=0)
            for name in opened.record["models"]
            for layer in opened.read(f"{name}/tokens")
        ]
    )


@pytest.mark.parametrize("save", ["both", "tokens"])
def test_centring_takes_each_slots_mean_token_out_before_the_cosine(tmp_path: Path, photos: Path, save: str) -> None:
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--save", save, "--workers", 0)
    output = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 4, "--centre", "slot")
    means = slot_means(features)
    np.testing.assert_allclose(open_store(output).read("tiny/centre"), means, atol=2e-4)
    rows = all_rows(features, "tokens") - np.repeat(means, 12 * 17, axis=0)
    values, vectors = dense_solution(rows, 4)
    np.testing.assert_allclose(open_store(output).read("eigenvalues")[0], values, rtol=1e-4)
    assert principal_angles(all_rows(output, "eigvecs"), vectors).max() < 1e-2


def test_centring_removes_what_slots_differ_by(tmp_path: Path) -> None:
    """Slots that share their content and differ by their mean only: all of the slots' share goes, the content stays."""
    rng = np.random.default_rng(0)
    content = rng.standard_normal((20, 1, 16)) + 0.5 * rng.standard_normal((20, 5, 16))
    offsets = 3 * rng.standard_normal((4, 1, 1, 16))
    features = write_features(tmp_path / "f.zarr", {"one": content + offsets}, grid=(2, 2))
    shares = {}
    for centre in ("none", "slot"):
        output = done("eigs", features, "-o", tmp_path / f"{centre}.zarr", "--n-eig", 5, "--centre", centre)
        shares[centre] = open_store(output).record["summary"]["shares"]["all"]
    assert shares["none"]["slot"] > 0.5
    assert shares["slot"]["slot"] < 0.01
    assert shares["slot"]["photo"] > 0.4


def test_aligned_features_are_centred_in_the_space_they_are_mapped_to(tmp_path: Path, features: Path) -> None:
    rng = np.random.default_rng(1)
    maps = {name: ([0, 1, 2], rng.standard_normal((3, 192, 10)) / 14) for name in ("tiny", "pair")}
    alignment = make_alignment(tmp_path / "a.zarr", maps, rng.standard_normal((10, 6)), {})
    options = ["--n-eig", 4, "--alignment", alignment, "--centre", "slot"]
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *options)
    weight = np.concatenate([maps[name][1] for name in ("tiny", "pair")])
    tokens = all_rows(features, "tokens").reshape(6, -1, 192)
    mapped = np.einsum("snd,sdu->snu", tokens, weight)
    values, _ = dense_solution((mapped - mapped.mean(axis=1, keepdims=True)).reshape(-1, 10), 4)
    np.testing.assert_allclose(open_store(output).read("eigenvalues")[0], values, rtol=1e-3)
    assert open_store(output).read("tiny/centre").shape == (3, 192)


def test_new_images_are_centred_by_the_means_of_the_basis(tmp_path: Path, photos: Path) -> None:
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--batch-size", 1)
    base = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--search", "flat", "--centre", "slot")
    subset = done("extract", make_photos(tmp_path / "some", 5), "-o", tmp_path / "g.zarr", *TINY, "--batch-size", 1)
    extended = done("eigs", subset, "-o", tmp_path / "x.zarr", "--basis", base, "--neighbors", 7, "--search", "flat")
    ours, theirs = open_store(extended), open_store(base)
    assert ours.record["params"]["centre"] == "slot"
    assert np.array_equal(ours.read("tiny/centre"), theirs.read("tiny/centre"))
    np.testing.assert_allclose(ours.read("tiny/eigvecs"), theirs.read("tiny/eigvecs")[:, :5], atol=1e-5)
    more = ["--layers", "0-3", "--batch-size", 1]
    deeper = done("extract", make_photos(tmp_path / "some", 5), "-o", tmp_path / "d.zarr", *TINY[:4], *more)
    refused = aligncut("eigs", deeper, "-o", tmp_path / "y.zarr", "--basis", base)
    assert refused.code == 3
    assert "tiny:3" in refused.err


def test_a_graph_over_several_unaligned_models_says_that_they_cannot_be_compared(
    tmp_path: Path, photos: Path, features: Path
) -> None:
    alone = done("extract", photos, "-o", tmp_path / "one.zarr", *TINY, "--workers", 0)
    rng = np.random.default_rng(1)
    maps = {name: ([0, 1, 2], rng.standard_normal((3, 192, 10)) / 14) for name in ("tiny", "pair")}
    alignment = make_alignment(tmp_path / "a.zarr", maps, rng.standard_normal((10, 6)), {})
    for name, source, options, comparable in (
        ("all", features, [], False),
        ("model", features, ["--group", "model"], True),
        ("aligned", features, ["--alignment", alignment], True),
        ("alone", alone, [], True),
    ):
        result = aligncut("eigs", source, "-o", tmp_path / f"{name}.zarr", *CARRIED, *options)
        record = open_store(result.path).record
        assert (record["comparable"], record["summary"]["comparable"]) == (comparable, comparable), name
        assert ("--group model" in result.err) is not comparable, name


def make_region(folder: Path, *, gauge: float = 1.0, deviation: bool = True) -> tuple[Path, Path]:
    """Features of 12 channels and an alignment in which three channels drive region R, though their beta is small."""
    rng = np.random.default_rng(3)
    scale = np.full(12, 0.05)
    scale[[2, 5, 9]] = 4.0
    tokens = rng.standard_normal((2, 40, 5, 12)) * scale
    features = write_features(folder / "f.zarr", {"one": tokens}, grid=(2, 2))
    beta = rng.standard_normal((12, 8)) * 0.3
    beta[[0, 3]] *= 5  # large, of channels that hardly vary
    weight = np.stack([np.eye(12)] * 2)
    spread = tokens.mean(axis=(0, 2)).std(axis=0)
    factor = np.where(np.arange(12) == 5, gauge, 1.0)
    alignment = make_alignment(
        folder / "a.zarr", {"one": ([0, 1], weight * factor)}, beta / factor[:, None], {"R": np.arange(8) < 6}
    )
    if deviation:
        root = zarr.open_group(alignment, mode="r+")
        DEVIATION.put(root, (spread * factor).astype(np.float32))
        zarr.consolidate_metadata(str(alignment))
    return features, alignment


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("gauge", [1.0, 0.01, 30.0])
def test_the_channels_that_drive_a_region_are_chosen_whatever_the_scale_of_a_channel(
    tmp_path: Path, gauge: float
) -> None:
    features, alignment = make_region(tmp_path, gauge=gauge)
    output = done(
        *["eigs", features, "-o", tmp_path / "e.zarr", "--alignment", alignment, "--n-eig", 3],
        *["--roi", "R", "--top-channels", 3],
    )
    rows = all_rows(features, "tokens")[:, [2, 5, 9]] * np.where([False, True, False], gauge, 1.0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(open_store(output).read("sample/features")[0], unit, atol=2e-3)


def test_a_region_of_an_alignment_that_does_not_know_how_channels_vary_is_refused(tmp_path: Path) -> None:
    features, alignment = make_region(tmp_path, deviation=False)
    result = aligncut(
        *["eigs", features, "-o", tmp_path / "e.zarr", "--alignment", alignment, "--n-eig", 3],
        *["--roi", "R", "--top-channels", 3],
    )
    assert result.code == 3
    assert "aligncut align" in result.err


def test_batches_chunks_and_workers_change_rounding_only(tmp_path: Path, photos: Path) -> None:
    stores = []
    for name, batch in (("a", 1), ("b", 16)):
        features = done(
            "extract", photos, "-o", tmp_path / f"{name}.zarr", *TINY, "--workers", batch % 2, "--batch-size", batch
        )
        stores.append(done("eigs", features, "-o", tmp_path / f"e{name}.zarr", *CARRIED))
    a, b = (all_rows(store, "eigvecs") for store in stores)
    assert np.array_equal(open_store(stores[0]).read("sample/node"), open_store(stores[1]).read("sample/node"))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_permuting_the_images_permutes_the_result(tmp_path: Path, photos: Path) -> None:
    files = sorted(photos.glob("*.png"))
    results = []
    for name, order in (("forward", files), ("backward", files[::-1])):
        listed = tmp_path / f"{name}.txt"
        listed.write_text("\n".join(map(str, order)))
        features = done("extract", listed, "-o", tmp_path / f"{name}.zarr", *TINY, "--batch-size", 1)
        output = done("eigs", features, "-o", tmp_path / f"e-{name}.zarr", *CARRIED)
        results.append(open_store(output).read("tiny/eigvecs"))
    np.testing.assert_allclose(results[0], results[1][:, ::-1], atol=1e-4)


def test_new_images_are_carried_into_an_existing_space(tmp_path: Path, photos: Path) -> None:
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--batch-size", 1)
    base = done("eigs", features, "-o", tmp_path / "e.zarr", *CARRIED, "--search", "flat", "--orthogonalize")
    some = make_photos(tmp_path / "some", 5)
    subset = done("extract", some, "-o", tmp_path / "g.zarr", *TINY, "--batch-size", 1)
    extended = done("eigs", subset, "-o", tmp_path / "x.zarr", "--basis", base, "--neighbors", 7, "--search", "flat")
    ours, theirs = open_store(extended).read("tiny/eigvecs"), open_store(base).read("tiny/eigvecs")
    np.testing.assert_allclose(ours, theirs[:, :5], atol=1e-5)
    shutil.rmtree(features)
    again = done("eigs", subset, "-o", tmp_path / "y.zarr", "--basis", base, "--neighbors", 7, "--search", "flat")
    assert array_bytes(again) == array_bytes(extended)


def test_farthest_point_samples_cover_the_graph(tmp_path: Path, features: Path) -> None:
    rows = all_rows(features, "tokens")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    far = {}
    for sample in ("uniform", "fps"):
        output = done("eigs", features, "-o", tmp_path / f"{sample}.zarr", *CARRIED, "--sample", sample)
        nodes = open_store(output).read("sample/node")[0]
        assert len(np.unique(nodes)) == 150
        far[sample] = np.linalg.norm(unit[:, None] - unit[nodes][None], axis=2).min(axis=1).max()
    assert far["fps"] < far["uniform"]


def replace_tokens(store: Path, values: NDArray[np.floating]) -> None:
    """Put other values into a store as if they had been extracted, without the checksums of what was there."""
    group = zarr.open_group(store, mode="r+")
    group["tiny/tokens"][...] = values.astype(np.float16)
    group.attrs["aligncut"] = {key: value for key, value in group.attrs["aligncut"].items() if key != "manifest"}


def test_one_image_too_few_nodes_and_constant_features(tmp_path: Path) -> None:
    features = done("extract", make_photos(tmp_path / "one", 1), "-o", tmp_path / "f.zarr", *TINY)
    done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    few = aligncut("eigs", features, "-o", tmp_path / "g.zarr", "--n-eig", 60)
    assert few.code == 3
    assert "--n-eig" in few.err
    replace_tokens(features, np.ones(open_store(features).read("tiny/tokens").shape))
    constant = done("eigs", features, "-o", tmp_path / "c.zarr", "--n-eig", 3)
    values = open_store(constant).read("eigenvalues")[0]
    np.testing.assert_allclose(values, [1, 0, 0], atol=1e-6)
    assert np.isfinite(all_rows(constant, "eigvecs")).all()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "lost"])
def test_a_damaged_chunk_is_named_and_never_used(tmp_path: Path, features: Path, damage: str) -> None:
    copy = tmp_path / "f.zarr"
    shutil.copytree(features, copy)
    chunk = copy / "pair/tokens/c/2/0/0/0"
    content = bytearray(chunk.read_bytes())
    if damage == "lost":
        chunk.unlink()
    else:
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    result = aligncut("eigs", copy, "-o", tmp_path / "e.zarr", *CARRIED)
    assert result.code == 3
    assert "pair/tokens" in result.err
    assert "c/2/0/0/0" in result.err
    assert not (tmp_path / "e.zarr").exists()


def test_features_that_are_not_finite_are_named(tmp_path: Path, features: Path) -> None:
    copy = tmp_path / "f.zarr"
    shutil.copytree(features, copy)
    values = open_store(copy).read("tiny/tokens").copy()
    values[1, 3, 2, 5] = np.nan
    replace_tokens(copy, values)
    result = aligncut("eigs", copy, "-o", tmp_path / "e.zarr", *CARRIED)
    assert result.code == 3
    assert "tiny:1" in result.err
    assert "finite" in result.err


def test_wrong_inputs_are_refused_with_what_to_do(tmp_path: Path, features: Path, eigs: Path) -> None:
    for store, words in (
        (tmp_path / "nothing.zarr", "no such store"),
        (tmp_path, "not an aligncut store"),
        (eigs, "holds eigs, not features"),
    ):
        result = aligncut("eigs", store, "-o", tmp_path / "e.zarr")
        assert result.code == 3
        assert words in result.err
    pooled = done("extract", make_photos(tmp_path / "p", 2), "-o", tmp_path / "p.zarr", *TINY, "--save", "pooled")
    result = aligncut("eigs", pooled, "-o", tmp_path / "e.zarr")
    assert result.code == 3
    assert "--save both" in result.err


def test_models_of_different_width_need_an_alignment_or_a_graph_each(tmp_path: Path, photos: Path) -> None:
    wide = [*TINY, "--model", "wide=vit_small_patch16_224@64"]
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *wide)
    refused = aligncut("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    assert refused.code == 3
    assert "--alignment" in refused.err
    output = done("eigs", features, "-o", tmp_path / "m.zarr", "--n-eig", 3, "--group", "model")
    values, _ = dense_solution(open_store(features).read("tiny/tokens").reshape(-1, 192).astype(np.float64), 3)
    np.testing.assert_allclose(open_store(output).read("eigenvalues")[0], values, rtol=1e-5)


def test_the_record_tells_what_was_done(features: Path, eigs: Path) -> None:
    record = json.loads((eigs / "zarr.json").read_text())["attributes"]["aligncut"]
    assert {"kind", "schema", "stage", "version", "models", "params", "inputs", "digest", "seed"} <= record.keys()
    assert {"created", "software", "runtime"} <= record.keys()
    assert record["models"] == ["tiny", "pair"]
    assert record["inputs"][0]["digest"] == open_store(features).record["digest"]
    assert record["summary"]["search"]["method"] in ("flat", "torch", "ivf")
