"""Train one of the three small ViTs of `aligncut demo`, on a CPU, from a seed, and probe what it sees.

    python examples/train_demo_models.py --model demo-clip -o demo-clip.safetensors
    python examples/train_demo_models.py --model demo-dino --steps 8000 -o first.safetensors
    python examples/train_demo_models.py --model demo-dino --begin-from first.safetensors -o demo-dino.safetensors
    python examples/train_demo_models.py --model demo-mae -o demo-mae.safetensors
    python examples/train_demo_models.py --model demo-mae --probe demo-mae.safetensors

The pictures are procedural scenes of TRAINING_SEED, which `aligncut demo` never draws. The objectives are small
versions of the paper's models': image-caption contrast (CLIP), self-distillation with a patch-level term (DINO), masked
reconstruction (MAE). Networks so small, trained for minutes, see kinds of things only if something tells of them, so
each is told in its own way: CLIP by captions of scenes and close-ups, DINO by two visits of a place and by which pixels
belong to one thing, without any name, MAE by a map of the categories that it reconstructs beside patches' looks.
Beside the weights lies NAME.jsonl: losses and, every few hundred steps, linear probes of every layer on scenes of
another seed. A run that was stopped goes on from NAME.state when the same command is typed again.

The shipped files, seed 0, one thread of a shared machine; best layer of linear probes on 3,000 other scenes (category
of scenes of one object from the mean token; mean IoU of the eight categories' patches; of figure and ground):

    demo-clip   9000 steps   loss 4.2 -> 0.25   34.5 CPU minutes   category 1.000   patches .719   figure .900
    demo-dino   8000 steps   loss 13.4 -> 2.8   60.6               category  .985   patches .585   figure .931
      and on    7000 steps   loss 6.2 -> 1.46   56.2               category 1.000   patches .784   figure .944
    demo-mae    2400 steps   loss 3.5 -> 1.19   15.1               category 1.000   patches .814   figure .927
    initial weights                                                category  .307   patches .049   figure .507

Losses fall at once where whole scenes begin, in the last sixth. The number of steps of two was changed on the way, and
with it the course of the learning rate: dino's first run began as one of 11,000 steps (the first 1,050), its second as
one of 10,000 (the first 3,650), mae's as one of 5,000. demo-dino.jsonl has the lines of both runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_objectives.clip import Clip
from demo_objectives.dino import Dino
from demo_objectives.encoder import ARCHITECTURE, SPEC, Draw, build_encoder, whiten_patches
from demo_objectives.mae import Mae
from demo_objectives.probe import PROBE_SCENES, PROBE_SEED, probe_encoder
from demo_objectives.scenes import Visits, load_scenes
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from aligncut_cli.demo.scenes import TRAINING_SEED

OBJECTIVES: dict[str, type[Clip] | type[Dino] | type[Mae]] = {"demo-clip": Clip, "demo-dino": Dino, "demo-mae": Mae}
STEPS = {"demo-clip": 9000, "demo-dino": 7000, "demo-mae": 2400}


class Run:
    """One training run: model, optimizer, randomness and how far it is, which can be written and read back."""

    def __init__(self, args: argparse.Namespace, visits: Visits) -> None:
        torch.manual_seed(args.seed)  # timm and torch.nn draw initial weights from the global generator only
        self.model = OBJECTIVES[args.model]()
        self.draw = Draw(args.seed)
        if args.begin_from:
            self.model.encoder.load_state_dict(read_weights(args.begin_from))
        else:
            whiten_patches(self.model.encoder, visits[0].pictures[:500], self.draw)
        self.model.prepare(visits)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        kept = [p for name, p in named if p.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))]
        others = [p for name, p in named if p.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))]
        groups = [{"params": kept, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.model.lr, betas=(0.9, 0.95))
        self.backgrounds = np.array([record["background"] for record in visits[0].records])
        self.order = np.empty(0, np.int64)
        self.step, self.seconds = 0, 0.0

    def choose(self) -> np.ndarray:
        """Return the next batch's scenes: each once, or nearly, before any comes again."""
        if len(self.order) < self.model.batch:
            self.order = arrange(self.backgrounds, self.model.batch, self.model.alike, self.draw.rng)
        chosen, self.order = np.sort(self.order[: self.model.batch]), self.order[self.model.batch :]
        return chosen

    def write(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.draw.generator.get_state(),
            "rng": json.dumps(self.draw.rng.bit_generator.state),
            "order": torch.from_numpy(self.order),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = path.with_suffix(".state.part")
        torch.save(state, part)
        os.replace(part, path)

    def read(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.generator.set_state(state["generator"])
        self.draw.rng.bit_generator.state = json.loads(state["rng"])
        self.order = state["order"].numpy()
        self.step, self.seconds = state["step"], state["seconds"]


def arrange(backgrounds: np.ndarray, batch: int, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Order all scenes at random, so that a share `alike` of the batches have one kind of surroundings each.

    Else contrasts are won by surroundings alone, and things are learned late.
    """
    order = rng.permutation(len(backgrounds))
    mixed = order[: round(len(order) * (1 - alike))]
    rest = order[len(mixed) :]
    groups = [mixed, *(rest[backgrounds[rest] == kind] for kind in np.unique(backgrounds) if alike)]
    batches = [group[first : first + batch] for group in groups for first in range(0, len(group) - batch + 1, batch)]
    return np.concatenate([batches[k] for k in rng.permutation(len(batches))] or [order])


def rate_at(progress: float, steps: int, step: int) -> float:
    """Share of the full learning rate: a short rise, then half a cosine."""
    return min(1.0, (step + 1) / (0.04 * steps)) * (0.5 * (1 + math.cos(math.pi * progress)) + 0.01)


def train(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    torch.set_num_threads(args.threads)
    first, second = (load_scenes(TRAINING_SEED, args.scenes, args.cache, args.workers, visit) for visit in (0, 1))
    visits = (first, second)
    unseen = load_scenes(PROBE_SEED, args.probe_scenes, args.cache, args.workers)
    run, model_state = Run(args, visits), args.output.with_suffix(".state")
    log = args.output.with_suffix(".jsonl")
    if model_state.exists():
        run.read(model_state)
        say(f"going on from step {run.step}")
    kept = [line for line in read_log(log) if line["step"] <= run.step]
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    model, losses = run.model, []
    while run.step < args.steps:
        began = time.process_time()
        progress = run.step / args.steps
        for group in run.optimizer.param_groups:
            group["lr"] = model.lr * rate_at(progress, args.steps, run.step)
        chosen = run.choose()
        loss = model.loss(visits, chosen, run.draw, progress)
        run.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.parameters, 1.0)
        run.optimizer.step()
        model.finish_step(progress)
        losses.append(loss.item())
        run.step += 1
        run.seconds += time.process_time() - began
        if run.step % args.every == 0 or run.step == args.steps:
            line: dict[str, Any] = {"step": run.step, "loss": round(float(np.mean(losses[-args.every :])), 4)}
            line["cpu_minutes"] = round(run.seconds / 60, 2)
            if run.step % args.probe_every == 0 or run.step == args.steps:
                line["probe"] = probe_encoder(model.shipped(), unseen)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            save(model.shipped(), args, line)
            run.write(model_state)
            say(f"{args.model} of {args.steps}: {json.dumps(line)}")


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_facts(path: Path) -> dict[str, Any]:
    """Return what a file of weights says of itself."""
    with safe_open(path, "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["aligncut"])
    return facts


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}


def save(encoder: nn.Module, args: argparse.Namespace, reached: dict[str, Any]) -> None:
    """Write the encoder in float16 with what it was trained on and how."""
    tensors = {name: value.detach().half().contiguous() for name, value in encoder.state_dict().items()}
    facts = {
        "model": args.model,
        "architecture": {"timm": SPEC.timm_name, **ARCHITECTURE},
        "mean": 0.5,
        "std": 0.5,
        "training": {"steps": args.steps, "seed": args.seed, "scenes": args.scenes, **reached},
        "scene_seed": TRAINING_SEED,
    }
    if args.begin_from:
        facts["training"]["before"] = read_facts(args.begin_from)["training"]
    part = args.output.with_suffix(".part")
    save_file(tensors, part, metadata={"aligncut": json.dumps(facts)})
    os.replace(part, args.output)


def probe(args: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Print the probes of a file, or of initial weights where it is called `initial`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    encoder = build_encoder()
    if str(args.probe) != "initial":
        encoder.load_state_dict(read_weights(args.probe))
    unseen = load_scenes(PROBE_SEED, args.probe_scenes, args.cache, args.workers)
    for name, values in probe_encoder(encoder.eval(), unseen).items():
        say(f"{name:>9}  best {max(values):.3f}  by layer {' '.join(f'{value:.3f}' for value in values)}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(OBJECTIVES), required=True)
    parser.add_argument("--steps", type=int, help="batches to train on; by default those of the shipped files")
    parser.add_argument(
        "--begin-from", type=Path, metavar="FILE", help="encoder to begin with, in place of initial weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="initial weights and everything drawn while training")
    parser.add_argument("--scenes", type=int, default=16384, help="scenes that are drawn, each twice (25 ms, 50 kB)")
    parser.add_argument("--cache", type=Path, default=Path("demo-training"), help="folder that keeps the drawn scenes")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    parser.add_argument("--every", type=int, default=50, help="steps between a line of the log and a checkpoint")
    parser.add_argument("--probe-every", type=int, default=400, help="steps between probes")
    parser.add_argument(
        "--probe-scenes", type=int, default=PROBE_SCENES, help="scenes that the probes are fitted on and scored"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("-o", "--output", type=Path, help="where the trained weights go")
    action.add_argument("--probe", type=Path, metavar="FILE", help="only probe these weights, or `initial` ones")
    args = parser.parse_args(arguments)
    args.steps = args.steps or STEPS[args.model]
    return args


def main() -> None:
    args = parse()
    (train if args.output else probe)(args, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
