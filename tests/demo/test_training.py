"""The script that trains the demo's models: it resumes to the same bytes, its probes tell seeing from not seeing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from aligncut_cli.models.registry import SHORT_NAMES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import train_demo_models

        yield train_demo_models
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


class Stop(Exception):
    pass


@pytest.mark.parametrize("model", ["demo-clip", "demo-dino", "demo-mae"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    script: Any, cache: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.OBJECTIVES[model], "batch", 8)

    def train(folder: str, stop_at: int | None = None) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        output = tmp_path / folder / "weights.safetensors"
        options = {"--model": model, "--steps": 7, "--scenes": 40, "--every": 2, "--probe-scenes": 40, "-o": output}
        options |= {"--cache": cache, "--workers": 1}

        def say(line: str) -> None:
            if stop_at is not None and f'"step": {stop_at}' in line:
                raise Stop

        script.train(script.parse([str(word) for pair in options.items() for word in pair]), say)
        return output

    straight = train("straight")
    with pytest.raises(Stop):
        train("stopped", stop_at=4)
    assert script.read_log(tmp_path / "stopped" / "weights.jsonl")[-1]["step"] == 4
    resumed = train("stopped")

    with safe_open(straight, "pt") as a, safe_open(resumed, "pt") as b:
        assert list(a.keys()) == list(b.keys())
        for name in a.keys():  # noqa: SIM118
            assert torch.equal(a.get_tensor(name), b.get_tensor(name)), name
    logs = [script.read_log(path.with_suffix(".jsonl")) for path in (straight, resumed)]
    kept = [[{key: line[key] for key in ("step", "loss")} for line in log] for log in logs]
    assert [line["step"] for line in kept[0]] == [2, 4, 6, 7]
    assert kept[0] == kept[1]
    assert set(logs[0][-1]["probe"]) == {"category", "patch", "figure"}


def test_a_run_may_begin_from_the_encoder_of_another(script: Any, cache: Path, tmp_path: Path) -> None:
    def parse(name: str, *more: object) -> Any:
        options = ["--model", "demo-dino", "--steps", 1, "--scenes", 40, "--probe-scenes", 40, "--cache", cache]
        return script.parse([str(word) for word in (*options, "--workers", 1, "-o", tmp_path / name, *more)])

    first = parse("first.safetensors")
    script.train(first, lambda line: None)
    second = parse("second.safetensors", "--begin-from", first.output, "--seed", 5)
    visits = tuple(script.load_scenes(script.TRAINING_SEED, 40, cache, 1, visit) for visit in (0, 1))
    run = script.Run(second, visits)
    for name, value in script.read_weights(first.output).items():
        assert torch.equal(run.model.encoder.state_dict()[name], value), name
        assert torch.equal(run.model.teacher["encoder"].state_dict()[name], value), name
    script.train(second, lambda line: None)
    facts = script.read_facts(second.output)["training"]
    assert facts["seed"] == 5
    assert facts["before"] == script.read_facts(first.output)["training"]


def test_probes_find_what_features_hold_and_nothing_in_noise(script: Any) -> None:
    from demo_objectives.probe import fit_and_name, iou

    rng = np.random.default_rng(0)
    classes = torch.from_numpy(rng.integers(0, 5, 3000))
    noise = torch.from_numpy(rng.normal(size=(3000, 12))).float()
    planted = noise.clone()
    planted[torch.arange(3000), classes] += 6
    for features, least, most in ((planted, 0.99, 1.0), (noise, 0.1, 0.3)):
        guess = fit_and_name(features[:2000], classes[:2000], features[2000:], 60)
        assert least <= (guess == classes[2000:]).float().mean() <= most
    a, b = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    assert iou(a, b) == 0.5
    assert iou(~a & a, ~a & a) == 1.0


def test_patches_are_named_by_most_of_their_pixels(script: Any) -> None:
    from demo_objectives.probe import name_patches

    masks = np.random.default_rng(1).integers(0, 9, (2, 112, 112)).astype(np.uint8)
    named = name_patches(masks)
    for scene, patch in ((0, 0), (1, 15), (1, 195)):
        row, column = divmod(patch, 14)
        block = masks[scene, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert named[scene, patch] == np.bincount(block.ravel(), minlength=9).argmax()


def test_captions_say_what_is_in_the_scene(script: Any) -> None:
    from demo_objectives.clip import WORD_NUMBER, write_caption

    item = {"category": "fish", "x": 0.2, "y": 0.8, "size": 0.3, "hue": 0.0, "texture": "dots", "area": 0.1}
    record = {"background": "sand", "objects": [item]}
    captions = [write_caption(record, np.random.default_rng(seed)) for seed in range(40)]
    assert all("fish" in caption and caption.endswith("on the sand") for caption in captions)
    assert {word for caption in captions for word in caption.split()} <= set(WORD_NUMBER)
    assert not any("right" in caption or "small" in caption for caption in captions)


def test_captions_of_close_ups_name_what_is_seen_there(script: Any, cache: Path) -> None:
    from demo_objectives.clip import CATEGORIES, look_closely
    from demo_objectives.scenes import load_scenes

    scenes = load_scenes(3, 40, cache, 1)
    chosen, full, empty = np.arange(40), 0, 0
    patches, seen = look_closely(scenes, chosen, 4, np.random.default_rng(0))
    for k, window, record in zip(chosen, patches, seen, strict=True):
        rows, columns = np.divmod(window.numpy(), 14)
        assert (np.ptp(rows), np.ptp(columns), len(set(window.tolist()))) == (3, 3, 16)
        inside = scenes.masks[k][8 * rows.min() : 8 * rows.max() + 8, 8 * columns.min() : 8 * columns.max() + 8]
        named = {item["category"] for item in record["objects"]}
        assert named == {name for value, name in enumerate(CATEGORIES, 1) if (inside == value).mean() > 0.1}
        full, empty = full + bool(named), empty + (not named)
    assert full > 15
    assert empty > 3


def test_batches_of_one_kind_of_surroundings_hold_every_scene_at_most_once(script: Any) -> None:
    rng = np.random.default_rng(0)
    backgrounds = rng.choice(["sand", "water", "room"], 1000)
    order = script.arrange(backgrounds, 8, 0.75, rng)
    assert len(set(order.tolist())) == len(order) > 950
    alike = [len(set(backgrounds[batch])) == 1 for batch in order.reshape(-1, 8)]
    assert 0.7 < np.mean(alike) < 0.8
    mixed = script.arrange(backgrounds, 8, 0.0, rng).reshape(-1, 8)
    assert np.mean([len(set(backgrounds[batch])) == 1 for batch in mixed]) < 0.05


def test_crops_carry_the_masks_of_what_they_show(script: Any) -> None:
    from demo_objectives.dino import Crop
    from demo_objectives.encoder import PATCH, Draw
    from demo_objectives.scenes import Scenes

    pictures = np.random.default_rng(0).integers(0, 2, (6, 14, 14, 1), np.uint8).repeat(3, 3)
    pictures = pictures.repeat(8, 1).repeat(8, 2) * 255  # every pixel of value k is of grey k
    crop = Crop(Scenes(pictures, pictures[..., 0] // 255, []), np.arange(6), 7, Draw(0))
    grey = torch.nn.functional.avg_pool2d(crop.images[:, :1], PATCH).flatten(1) / 2 + 0.5
    assert crop.things.shape == (6, 49, 9)
    torch.testing.assert_close(crop.things.sum(dim=2), torch.ones(6, 49))
    assert (crop.things[..., 1] - grey).abs().max() < 0.1
    crop.recolour(0.3, Draw(1))
    assert torch.isfinite(crop.images).all()


def test_things_are_told_from_those_of_other_pictures(script: Any) -> None:
    """The slow twin: one patch after the other, in plain loops."""
    from demo_objectives import dino

    rng = np.random.default_rng(0)
    unit = [torch.nn.functional.normalize(torch.randn(3, 25, 6), dim=2) for _ in range(2)]
    patches, others = (part.numpy() for part in unit)
    things, there = (rng.dirichlet([0.15] * 4, (3, 25)).astype(np.float32) for _ in range(2))
    loss = dino.tell_things(*(torch.from_numpy(part) for part in (patches, things, others, there)))
    answers = {}
    for n in range(3):
        for k in range(4):
            if there[n, :, k].sum() > 1:
                mean = sum(there[n, p, k] * others[n, p] for p in range(25))
                answers[n, k] = mean / np.linalg.norm(mean)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for n in range(3):
        for p in range(25):
            k = int(things[n, p].argmax())
            if things[n, p, k] > 0.5 and (n, k) in answers:
                against = [a for (m, j), a in answers.items() if k or j or m == n]
                fits = np.exp([patches[n, p] @ a / dino.HEAT for a in against])
                losses[k > 0].append(np.log(fits.sum()) - patches[n, p] @ answers[n, k] / dino.HEAT)
    assert len(losses[True]) > 10
    assert len(losses[False]) > 5
    assert float(loss) == pytest.approx(sum(np.mean(part) for part in losses.values()), rel=1e-4)


@pytest.mark.parametrize("name", ["demo-clip", "demo-dino", "demo-mae"])
def test_shipped_weights_say_how_they_were_trained_and_what_they_see(name: str) -> None:
    spec = SHORT_NAMES[name]
    path = Path(spec.weights)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["aligncut"])
    log = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert facts["training"]["probe"] == log[-1]["probe"]
    assert facts["training"]["step"] == log[-1]["step"] <= facts["training"]["steps"]
    assert facts["architecture"]["depth"] == dict(spec.arch)["depth"]
    assert log[-1]["loss"] < log[0]["loss"]
