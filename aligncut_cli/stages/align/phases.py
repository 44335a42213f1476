"""The computation of `align`: gather pooled features and sampled tokens, start in closed form, fit, score."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aligncut_cli.brain.join import JoinedImages, join_images
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.brain.table import Responses
from aligncut_cli.console import Console, Progress
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.alignment_fit import (
    AlignmentFit,
    EpochRecord,
    FitSettings,
    FitState,
    restore_units,
    standardize_responses,
)
from aligncut_cli.maths.alignment_start import AlignmentStart, start_from_responses
from aligncut_cli.maths.control_targets import draw_random_targets, shuffle_pairs
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.encoding import AlignmentMaps, iterate_slots, predict_from_pooled
from aligncut_cli.maths.response_scores import average_over_rois, score_r, score_r2
from aligncut_cli.maths.ridge import (
    RidgeFit,
    SlotStatistics,
    choose_penalty,
    decompose_kernel,
    measure_slot,
    predict_by_ridge,
)
from aligncut_cli.maths.sampling import stable_hash
from aligncut_cli.maths.split_images import ImageSplit, split_images
from aligncut_cli.params import AlignParams, RunOptions
from aligncut_cli.stages.inputs import ResponsePaths
from aligncut_cli.store.nodes import ModelAxes, image_slices
from aligncut_cli.store.read import Store, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_array, create_group, put

PROCESS_BYTES = 700_000_000
VOXELS_PER_BLOCK = 4096
# Tokens for the regularizers: this many images of each part, and this many tokens of each.
NODE_IMAGES, VALIDATION_NODE_IMAGES, NODE_TOKENS = 256, 64, 32
# At most this share of the time goes into checkpoints.
CHECKPOINT_SHARE = 0.1

Float = NDArray[np.float32]


class AlignPhases:
    """One run of the stage: a fit per seed, each with checkpoints after its epochs."""

    def __init__(
        self,
        work: Work,
        source: Store,
        paths: ResponsePaths,
        params: AlignParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.paths = work, source, paths
        self.params, self.console = params, console
        self.device = resolve_device(options.device)
        self.axes = source.axes
        self.responses: Responses = load_responses(
            paths.responses,
            image_ids=paths.image_ids,
            rois=paths.rois,
            noise_ceiling=paths.noise_ceiling,
            drop_nan_voxels=params.drop_nan_voxels,
        )
        self.joined: JoinedImages = join_images(
            [str(name) for name in source.read("images/id")],
            self.responses.ids,
            n_responses=self.responses.shape[0],
        )
        self.split: ImageSplit = split_images(
            len(self.joined.feature_rows),
            validation_share=params.validation_share,
            test_share=params.test_share,
            seed=params.seed,
        )

    def run(self) -> Outcome:
        """Plan, fit every seed that is not done, score, and finish."""
        self._require_features()
        n_images, n_voxels = len(self.joined.feature_rows), self.responses.shape[1]
        widths = {model.name: self._width(model) for model in self.axes.models}
        slots = [(model.name, len(model.layers)) for model in self.axes.models]
        maps = sum(count * widths[name] * self.params.universal_dim for name, count in slots)
        maps += self.params.universal_dim * n_voxels
        pooled = sum(count * widths[name] for name, count in slots) * n_images * 4
        nodes = sum(count * widths[name] for name, count in slots) * 2 * NODE_TOKENS * NODE_IMAGES
        kernel = 8 if len(self.split.train) <= 4096 else 4
        plan = Plan(
            phases={"create": 1, "fit": self.params.seeds},
            memory=PROCESS_BYTES
            + pooled
            + nodes
            + 2 * n_images * n_voxels * 4
            + max(6 * maps * 4, 4 * kernel * n_images * len(self.split.train)),
            disk=7 * maps * 4,
            notes={
                "images": n_images,
                "split": f"{len(self.split.train)} train, {len(self.split.validation)} validation, "
                f"{len(self.split.test)} test",
                "voxels": n_voxels,
            },
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        if not self.work.done("create"):
            self._create(n_voxels, widths)
            self.work.mark("create")
        if self.params.control != "none":
            self.console.warn(f"control: {self.params.control} targets stand in for the responses. This is recorded.")
        for seed in self.work.pending("fit"):
            self._fit(seed)
            self.work.mark("fit", seed)
        return self._finish()

    def _require_features(self) -> None:
        for model in self.axes.models:
            if not self.source.has(f"{model.name}/tokens"):
                raise BadInput(
                    f"{self.source.path} has no tokens, which the regularizers need",
                    do="Extract with --save both; --sample-tokens 20 keeps the store small.",
                )
            if not self.source.has(f"{model.name}/pooled") and self.source.has(f"{model.name}/token"):
                raise BadInput(
                    f"{self.source.path} has sampled tokens only, and the means need all",
                    do="Extract with --save both.",
                )

    def _width(self, model: ModelAxes) -> int:
        return int(self.source.array(f"{model.name}/tokens").shape[3])

    # inputs

    @cached_property
    def pooled(self) -> list[Float]:
        """Return per model (layers, images, D_i), means over tokens of the images that have responses."""
        parts = []
        for model in self.axes.models:
            if self.source.has(f"{model.name}/pooled"):
                parts.append(self.source.read(f"{model.name}/pooled")[:, self.joined.feature_rows])
            else:
                parts.append(self._average_tokens(model)[:, self.joined.feature_rows])
        for model, values in zip(self.axes.models, parts, strict=True):
            if not np.isfinite(values).all():
                raise BadInput(f"{self.source.path}: means of {model.name} are not finite", do="Extract again.")
        return parts

    def _average_tokens(self, model: ModelAxes) -> Float:
        out = np.empty((len(model.layers), model.n_images, self._width(model)), dtype=np.float32)
        step = int(self.source.array(f"{model.name}/tokens").chunks[1])
        for images in image_slices(model.n_images, step):
            out[:, images] = self.source.read(f"{model.name}/tokens", (slice(None), images)).mean(2, dtype=np.float32)
        return out

    @cached_property
    def statistics(self) -> list[SlotStatistics]:
        """Return mean and spread of every slot over the training images."""
        return [measure_slot(values, self.split.train) for _, _, values in iterate_slots(self.pooled)]

    @cached_property
    def targets(self) -> tuple[Float, Float, Float]:
        """Return (images, voxels) targets, z-scored over the training images, with that mean and deviation."""
        rows = self.joined.response_rows
        if self.params.control == "shuffle":
            rows = rows[shuffle_pairs(len(rows), seed=self.params.seed)]
        values = self.responses.read(rows)
        if self.params.control == "random":
            values = draw_random_targets(values, np.arange(len(rows)), seed=self.params.seed)
        mean, deviation = standardize_responses(values, self.split.train)
        return values, mean, deviation

    @cached_property
    def nodes(self) -> tuple[list[NDArray[np.float16]], list[NDArray[np.float16]]]:
        """Return tokens of some training and of some validation images, per model (layers, n, D_i)."""
        train = self._choose_tokens(self.split.train, NODE_IMAGES)
        validation = self._choose_tokens(self.split.validation, VALIDATION_NODE_IMAGES)
        return [self._read_tokens(model, train) for model in self.axes.models], [
            self._read_tokens(model, validation) for model in self.axes.models
        ]

    def _choose_tokens(self, images: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return (n, 2): image in the store and token, the same for every slot; seed and image id decide."""
        ids = self.source.read("images/id")
        places = self.joined.feature_rows[images]
        order = np.argsort([stable_hash(self.params.seed, "nodes", str(ids[place])) for place in places], kind="stable")
        n_tokens = min(model.n_tokens for model in self.axes.models)
        chosen = []
        for place in np.sort(places[order[:count]]):
            rng = np.random.default_rng([self.params.seed, int(stable_hash(self.params.seed, str(ids[place])))])
            tokens = np.sort(rng.choice(n_tokens, size=min(NODE_TOKENS, n_tokens), replace=False))
            chosen.append(np.stack([np.full(len(tokens), place), tokens], axis=1))
        return np.concatenate(chosen)

    def _read_tokens(self, model: ModelAxes, places: NDArray[np.int64]) -> NDArray[np.float16]:
        out = np.empty((len(model.layers), len(places), self._width(model)), dtype=np.float16)
        step = int(self.source.array(f"{model.name}/tokens").chunks[1])
        spans = []
        for images in image_slices(model.n_images, step):
            low, high = np.searchsorted(places[:, 0], [images.start, images.stop])
            if high > low:
                spans.append((images, slice(low, high)))
        name = f"{model.name}/tokens"
        blocks = read_ahead(lambda i=i: self.source.read(name, (slice(None), i)) for i, _ in spans)
        for (images, where), block in zip(spans, blocks, strict=True):
            out[:, where] = block[:, places[where, 0] - images.start, places[where, 1]]
        if not np.isfinite(out).all():
            raise BadInput(f"{self.source.path}: tokens of {model.name} are not finite", do="Extract again.")
        return out

    # fitting

    @cached_property
    def ridge(self) -> RidgeFit:
        """Return the better of two ridges on all slots' means: as they are, and with every slot as large as any."""
        targets = self.targets[0]
        n_slots = len(self.axes.slots)
        with self.console.progress("ridge", 2 * n_slots, unit="slots") as progress:

            def fit(equalize: bool) -> RidgeFit:
                kernel = decompose_kernel(
                    self.pooled,
                    self.statistics,
                    self.split.train,
                    equalize=equalize,
                    device=self.device,
                    progress=lambda done, total: progress.reach(equalize * n_slots + done, 2 * total),
                )
                return choose_penalty(kernel, targets, self.split, voxels_per_block=VOXELS_PER_BLOCK)

            fits = [fit(False), fit(True)]
        return max(fits, key=lambda fit: fit.validation_r2)

    def _settings(self, seed: int) -> FitSettings:
        return FitSettings(
            lambda_eigen=self.params.lambda_eigen,
            lambda_zero=self.params.lambda_zero,
            lambda_cov=self.params.lambda_cov,
            n_nodes=self.params.nodes,
            n_kept=self.params.eigenvectors,
            batch_images=self.params.batch_images,
            epochs=self.params.epochs,
            patience=self.params.patience,
            tolerance=self.params.tolerance,
            learning_rate=self.params.learning_rate,
            weight_decay=self.params.weight_decay,
            seed=self.params.seed + seed,
        )

    def _fit(self, seed: int) -> None:
        """Fit one seed from its checkpoint or from the closed-form start, and write its scores."""
        first = self._load_checkpoint(seed) or self._start(seed)
        train_nodes, validation_nodes = self.nodes
        fit = AlignmentFit(
            self.pooled,
            self.targets[0],
            train_nodes,
            validation_nodes,
            self.statistics,
            self.split,
            first,
            self._settings(seed),
            device=self.device,
        )
        saved, cost = time.monotonic(), 0.0
        label = f"fit seed {self.params.seed + seed}"
        with self.console.progress(label, self.params.epochs, unit="epochs", done=len(fit.history) - 1) as progress:
            self._show(fit.history[-1], progress)
            while not fit.finished:
                record = fit.run_epoch()
                progress.advance()
                self._show(record, progress)
                if (time.monotonic() - saved) * CHECKPOINT_SHARE >= cost:
                    saved = time.monotonic()
                    self._save_checkpoint(seed, fit.state())
                    cost = time.monotonic() - saved
        _, mean, deviation = self.targets
        maps = restore_units(fit.best, mean, deviation)
        self._write_scores(seed, maps)
        if seed == 0:
            self._write_maps(maps)
        history = [vars(record) for record in fit.history]
        write_json(self.work.wip / f"fit-{seed}.json", {"best": vars(fit.best_record), "history": history})

    def _show(self, record: EpochRecord, progress: Progress) -> None:
        terms = {name: getattr(record, f"validation_{name}") for name in ("brain", "eigen", "zero", "cov")}
        text = f"R2 {record.validation_r2:.4f}, " + ", ".join(f"{k} {v:.3g}" for k, v in terms.items())
        progress.advance(0, text)
        self.console.detail(f"epoch {record.epoch}: validation {text}{' *' if record.kept else ''}")

    def _start(self, seed: int) -> AlignmentStart:
        with self.console.progress("closed-form start", len(self.axes.slots), unit="slots") as progress:
            start = start_from_responses(
                self.pooled,
                self.statistics,
                self.ridge.ridge,
                self.ridge.penalty,
                self.targets[0],
                self.split,
                universal_dim=self.params.universal_dim,
                voxels_per_block=VOXELS_PER_BLOCK,
                seed=self.params.seed + seed,
                progress=progress.reach,
            )
        if not start.from_responses:
            self.console.warn(
                "the features predict held-out responses no better than their mean: the fit starts at random"
            )
        return start

    def _save_checkpoint(self, seed: int, state: FitState) -> None:
        """Write a checkpoint so that it is either whole or the one before."""
        self.work.scratch.mkdir(exist_ok=True)
        path = self.work.scratch / f"fit-{seed}.safetensors"
        partial = path.with_suffix(".partial")
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
        save_file(tensors, partial, metadata={"record": json.dumps(state.record)})
        partial.replace(path)

    def _load_checkpoint(self, seed: int) -> FitState | None:
        from safetensors import safe_open

        path = self.work.scratch / f"fit-{seed}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads(file.metadata()["record"])
            state = FitState(load_file(path), record)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            self.console.warn(f"the checkpoint {path} is not readable ({error}); this fit begins anew")
            return None
        self.console.note(f"going on after epoch {len(record['history']) - 1}")
        return state

    # writing

    @cached_property
    def writer(self) -> Writer:
        """Return the store under construction."""
        return Writer(self.work.staging)

    def _create(self, n_voxels: int, widths: Mapping[str, int]) -> None:
        root = create_group(self.work.staging)
        dim, seeds = self.params.universal_dim, self.params.seeds
        for model in self.axes.models:
            keep = ("timm", "grid", "class_token", "image_size", "weights", "layers")
            root.create_group(model.name, attributes={k: model.attributes[k] for k in keep if k in model.attributes})
            shape = (len(model.layers), widths[model.name], dim)
            dims = ["layer", "channel", "universal"]
            name = f"{model.name}/weight"
            create_array(root, name, shape=shape, dtype="float32", dims=dims, chunks=(1, *shape[1:]))
        block = min(n_voxels, VOXELS_PER_BLOCK)
        create_array(
            root,
            "readout/weight",
            shape=(dim, n_voxels),
            dtype="float32",
            dims=["universal", "voxel"],
            chunks=(dim, block),
        )
        create_array(root, "readout/bias", shape=(n_voxels,), dtype="float32", dims=["voxel"])
        for name in ("r2", "r", "ridge_r2", "ridge_r"):
            create_array(root, f"scores/{name}", shape=(n_voxels,), dtype="float32", dims=["voxel"])
        for name in ("seed_r2", "seed_r"):
            create_array(
                root,
                f"scores/{name}",
                shape=(seeds, n_voxels),
                dtype="float32",
                dims=["seed", "voxel"],
                chunks=(1, n_voxels),
            )
        for name, mask in self.responses.rois.items():
            put(root, f"roi/{name}", mask, ["voxel"])
        if self.responses.noise_ceiling is not None:
            put(root, "scores/ceiling", self.responses.noise_ceiling, ["voxel"])

    def _write_maps(self, maps: AlignmentMaps) -> None:
        for model, weight in zip(self.axes.models, maps.weights, strict=True):
            self.writer.write(f"{model.name}/weight", ..., weight.cpu().numpy())
        self.writer.write("readout/weight", ..., maps.readout.cpu().numpy())
        self.writer.write("readout/bias", ..., maps.bias.cpu().numpy())

    def _write_scores(self, seed: int, maps: AlignmentMaps) -> None:
        """Score on the held-out images, which neither the fit nor its stopping has seen."""
        test = self.split.test
        targets, mean, deviation = self.targets
        measured = targets[test] * deviation + mean
        pooled = [torch.from_numpy(values[:, test]).to(self.device) for values in self.pooled]
        predicted = predict_from_pooled(pooled, maps).cpu().numpy()
        r2, r = score_r2(predicted, measured), score_r(predicted, measured)
        self.writer.write("scores/seed_r2", seed, r2)
        self.writer.write("scores/seed_r", seed, r)
        if seed == 0:
            self.writer.write("scores/r2", ..., r2)
            self.writer.write("scores/r", ..., r)
            baseline = predict_by_ridge(self.ridge, targets, self.split.train, test, voxels_per_block=VOXELS_PER_BLOCK)
            baseline = baseline * deviation + mean
            self.writer.write("scores/ridge_r2", ..., score_r2(baseline, measured))
            self.writer.write("scores/ridge_r", ..., score_r(baseline, measured))

    def _finish(self) -> Outcome:
        summary = self._summarize()
        fits = [json.loads((self.work.wip / f"fit-{s}.json").read_text()) for s in range(self.params.seeds)]
        controls = [] if self.params.control == "none" else [self.params.control]
        outcome = self.work.finish(
            models=self.axes.names,
            summary=summary,
            controls=controls,
            responses=dict(self.responses.record) | {"synthetic": self.paths.are_synthetic()},
            fits=fits,
        )
        for line in format_scores(summary, controls):
            self.console.note(line)
        return outcome

    def _summarize(self) -> dict[str, Any]:
        """Return scores on held-out images: per ROI means over voxels, with mean and deviation over seeds."""
        rois, ceiling = self.responses.rois, self.responses.noise_ceiling
        read = {name: self.writer.read(f"scores/{name}") for name in ("seed_r2", "seed_r", "ridge_r2", "ridge_r")}
        seeds = [average_over_rois(row, rois) for row in read["seed_r2"]]
        seeds_r = [average_over_rois(row, rois) for row in read["seed_r"]]
        ridge, ridge_r = average_over_rois(read["ridge_r2"], rois), average_over_rois(read["ridge_r"], rois)
        normalized = average_over_rois(read["seed_r2"][0], rois, ceiling=ceiling) if ceiling is not None else {}
        table = {}
        for name in seeds[0]:
            values = [value for seed in seeds if (value := seed[name]) is not None]
            values_r = [value for seed in seeds_r if (value := seed[name]) is not None]
            if not values:
                continue
            table[name] = {
                "voxels": int(rois[name].sum()) if name in rois else self.responses.shape[1],
                "r2": float(np.mean(values)),
                "r2_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "r": float(np.mean(values_r)),
                "ridge_r2": ridge[name],
                "ridge_r": ridge_r[name],
                "r2_of_ceiling": normalized.get(name),
            }
        return {
            "images": len(self.joined.feature_rows),
            "test_images": len(self.split.test),
            "voxels": self.responses.shape[1],
            "control": self.params.control,
            "synthetic": self.paths.are_synthetic(),
            "median_r": float(np.median(read["seed_r"][0])),
            "median_ridge_r": float(np.median(read["ridge_r"])),
            "scores": table,
        }


def format_scores(summary: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    """Write the scores as a table, ROI by ROI, with the ridge beside them."""
    from aligncut_cli.console import format_table

    columns = ["voxels", "r2", "r2_sd", "r", "ridge_r2", "ridge_r", "r2_of_ceiling"]
    rows = [[name, *(scores[column] for column in columns)] for name, scores in summary["scores"].items()]
    used = [i for i in range(len(columns)) if any(row[i + 1] is not None for row in rows)]
    title = f"held-out images: {summary['test_images']:,}"
    if summary["synthetic"]:
        title += "; SYNTHETIC responses, computed and not recorded"
    table = format_table(
        ["ROI", *(columns[i] for i in used)],
        [[row[0], *(row[i + 1] for i in used)] for row in rows],
        title=title_with_controls(title, controls),
    )
    medians = f"median r over voxels {summary['median_r']:.3f}, by ridge {summary['median_ridge_r']:.3f}"
    return [table, medians]
