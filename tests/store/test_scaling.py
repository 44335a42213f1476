"""What must not grow with the number of blocks or images: markers, keys, eigenvectors and means are read in parts."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligncut_cli.maths.slot_similarity import SlotSimilarity
from aligncut_cli.maths.variance_shares import VarianceShares
from aligncut_cli.params import AlignParams, EigsParams, RunOptions
from aligncut_cli.stages import sample
from aligncut_cli.stages.align.data import FeatureData
from aligncut_cli.stages.eigs.check import _read_carried
from aligncut_cli.stages.eigs.layout import Layout
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.files import write_json
from aligncut_cli.store.kinds.eigs import EIGVECS, Eigs
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import Block
from aligncut_cli.store.place import ABANDONED, Place
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Plan, Work
from aligncut_cli.store.write import Writer
from tests.conftest import TINY, aligncut, array_bytes, done, make_photos
from tests.store.counted_pages import make_pages

_looks: list[str] = []
sys.addaudithook(
    lambda event, args: _looks.append(f"{event} {args[0]}") if event in ("os.listdir", "os.scandir") else None
)


def test_markers_are_listed_once_and_looked_at_by_no_mark(tmp_path: Path) -> None:
    with Work(Identity("pages", 1, "eigs", {}), RunOptions(output=tmp_path / "o")) as work:
        assert work.accept(Plan(0, 0, phases={"carry": 300}))
        for index in range(0, 300, 2):
            work.mark("carry", index)
    with Work(Identity("pages", 1, "eigs", {}), RunOptions(output=tmp_path / "o")) as work:
        work._look()
        _looks.clear()
        assert work.accept(Plan(0, 0, phases={"carry": 300}))
        assert list(work.pending("carry")) == list(range(1, 300, 2))
        for index in range(1, 300, 2):
            work.mark("carry", index)
        assert work.count_done("carry") == 300
    assert sum(look.endswith("/o.wip/done") for look in _looks) <= 3


def test_keys_of_a_few_nodes_at_a_time_choose_the_nodes_of_all_at_once(
    features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Features(open_store(features))
    whole = sample.choose_nodes(source, source.axes.slots, 100, seed=3, purpose="sample")
    for count in (1, 40, 10**9):
        monkeypatch.setattr(sample, "KEYS_AT_ONCE", count)
        parts = sample.choose_nodes(source, source.axes.slots, 100, seed=3, purpose="sample")
        assert np.array_equal(parts, whole)


def test_carried_rows_are_those_of_whole_slots_read_from_few_blocks(features: Path, eigs: Path) -> None:
    space = FeatureSpace.of(open_store(features), None, torch.device("cpu"))
    layout = Layout(space, None, EigsParams(n_eig=5, n_sample=300))
    store, read = Eigs(open_store(eigs)), []

    class Watched(Writer):
        def read(self, name: str, selection: Any = ...) -> np.ndarray[Any, Any]:
            read.append(selection)
            return super().read(name, selection)

    blocks = [Block(slot, slice(at, at + 4)) for slot in space.axes.slots for at in range(0, 12, 4)]
    first = space.axes.first_node(space.axes.slots[2])
    nodes = np.sort(np.array([3, 90, first + 1, first + 130]))
    rows = _read_carried(space, Watched(eigs), blocks, nodes)
    whole = np.concatenate([store.store.read(EIGVECS.at(name)).reshape(-1, 5) for name in space.axes.names])
    assert np.array_equal(rows, whole[nodes])
    assert len(read) == 4
    assert len(layout.blocks) == 6


def test_means_of_images_that_take_no_part_are_not_read(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Features(open_store(features))
    rows = np.array([9, 2, 10])
    read: list[slice] = []
    original = Features.read_pooled

    def read_pooled(self: Features, model: str, images: slice | None = None) -> np.ndarray[Any, Any]:
        assert images is not None
        read.append(images)
        return original(self, model, images)

    monkeypatch.setattr(Features, "read_pooled", read_pooled)
    monkeypatch.setattr(FeatureData, "_chunks", lambda self, model: [slice(at, at + 4) for at in range(0, 12, 4)])
    monkeypatch.setattr(FeatureData, "_split", lambda self: [])
    pooled = FeatureData(source, rows, AlignParams()).pooled
    for model, means in zip(source.axes.models, pooled, strict=True):
        assert np.array_equal(means, original(source, model.name)[:, rows])
    assert read == [slice(0, 4), slice(8, 12)] * 2


def test_a_resumed_extract_looks_at_no_photo_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligncut_cli.stages.extract import phases

    monkeypatch.setattr("aligncut_cli.stages.extract.layout.CHUNK_BYTES", 30_000)  # two blocks of four photos
    photos = make_photos(tmp_path / "photos", 8)
    (photos / "torn.png").write_bytes((photos / "photo-000.png").read_bytes()[:90])
    command = ["extract", photos, *TINY, "--workers", 0, "--batch-size", 4, "--skip-bad"]
    whole = done(*command, "-o", tmp_path / "whole.zarr")
    original, checked = phases.ExtractStage._write_block, phases.check_images

    def stop(self: Any, index: int, images: slice, batch: Any) -> None:
        if index == 1:
            raise KeyboardInterrupt
        original(self, index, images, batch)

    monkeypatch.setattr(phases.ExtractStage, "_write_block", stop)
    assert aligncut(*command, "-o", tmp_path / "f.zarr").code == 130
    monkeypatch.setattr(phases.ExtractStage, "_write_block", original)
    monkeypatch.setattr(phases, "check_images", None)
    done(*command, "-o", tmp_path / "f.zarr")
    assert array_bytes(tmp_path / "f.zarr") == array_bytes(whole)
    monkeypatch.setattr(phases, "check_images", checked)


def test_processes_that_write_one_file_do_not_meet_in_its_fragment(tmp_path: Path) -> None:
    file, failures = tmp_path / "search.json", []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_json(file, {"number": number, "rest": list(range(100))})
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert json.loads(file.read_text())["rest"] == list(range(100))
    assert os.listdir(tmp_path) == ["search.json"]


def test_fragments_that_a_live_worker_may_be_writing_stay_until_the_end(tmp_path: Path) -> None:
    place = Place(tmp_path / "out")
    place.lock()
    place.begin({"digest": "d"})
    young, old = place.staging / "a.partial", place.staging / "b.partial"
    for file in (young, old):
        file.touch()
    os.utime(old, (time.time() - ABANDONED - 1,) * 2)
    place.drop_fragments(every=False)
    assert young.exists()
    assert not old.exists()
    place.drop_fragments(every=True)
    assert not young.exists()
    place.unlock()
    place.clear()
    make_pages(tmp_path / "out", hooks={0: ("leave", str(tmp_path / "out.wip/store/x.partial"))})
    assert not list((tmp_path / "out").glob("*.partial"))


def add_up(blocks: Sequence[Sequence[torch.Tensor]], total: SlotSimilarity) -> SlotSimilarity:
    for units in blocks:
        total.add(units)
    return total


def test_sums_of_blocks_merged_in_order_are_those_of_one_pass_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    blocks = [[torch.from_numpy(rng.standard_normal((7, 5)).astype(np.float32)) for _ in range(3)] for _ in range(6)]
    one, merged = add_up(blocks, SlotSimilarity(3)), SlotSimilarity(3)
    for units in blocks:
        merged.merge(add_up([units], SlotSimilarity(3)).state())
    assert np.array_equal(one.result(), merged.result())
    n_tokens = np.array([4, 4])
    photos = [(rng.standard_normal((2, 3, 5)), rng.random((2, 3))) for _ in range(6)]
    single, joined = VarianceShares(n_tokens), VarianceShares(n_tokens)
    joined.merge(VarianceShares(n_tokens).state())
    for sums, squares in photos:
        single.add(sums, squares)
        part = VarianceShares(n_tokens)
        part.add(sums, squares)
        joined.merge(part.state())
    assert single.result() == joined.result()
