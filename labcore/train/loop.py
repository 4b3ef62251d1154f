"""The training loop: one function that counts steps, for every model and objective of the lab.

To resume, run the same command again: the loop takes the newest complete checkpoint and continues with bit-equal weights,
batches, noise and log, up to the order in which a GPU's kernels add. SIGTERM and Ctrl-C finish the step, save and return. A
loss that is not finite stops the run and keeps the last good checkpoint. Previews and evaluations see the averaged weights
in eval mode.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labcore import provenance, tf32
from labcore.config import TrainConfig
from labcore.data.loaders import Numbered, StepSampler, micro_batches
from labcore.data.transforms import to_model_input
from labcore.nn.pretrained import WEIGHTS, load_strictly, read_tensors
from labcore.processes import process_share
from labcore.rng import StepNoise
from labcore.train import checkpoint, environment, faults, precision, shard
from labcore.train.log import Reporter, RunLog, check_records, count_records
from labcore.train.means import RunningMeans
from labcore.train.optim import Ema, learning_rate, make_optimizer
from labcore.train.recompute import recompute_layers, transformer_layers
from labcore.train.signals import StopSignals
from labcore.types import Batch

PATIENCE = timedelta(hours=1)
"""How long processes wait for one that works alone: previews, evaluation, a slow disk. NCCL's own 10 minutes end a run then."""
Values = dict[str, float]
Prepare = Callable[[Tensor, StepNoise], tuple[Tensor, Tensor]]
"""A data set's items on the device -> clean images (b, c, h, w), and which of them are mirrored (b,)."""


class TrainResult(NamedTuple):
    """Where a run stands: steps done, whether that is all of them, its folder, and its averaged weights."""

    step: int
    finished: bool
    folder: Path
    ema: nn.Module


class Hooks(NamedTuple):
    """What a run looks at, each optional.

    diagnose(model, x, y) -> values, at every log record, with the current weights and a sample of clean images: up to 32 of
    the step's last micro-batch on the first process. What is to be of the whole step, the objective reports.
    evaluate(ema) -> values, every eval_every steps and at the end. preview(ema, step) writes pictures at the same steps.
    reporter shows the progress; None is `labcore.train.log.usual_reporter`.
    """

    diagnose: Callable[[nn.Module, Tensor, Tensor | None], Values] | None = None
    evaluate: Callable[[nn.Module], Values] | None = None
    preview: Callable[[nn.Module, int], None] | None = None
    reporter: Reporter | None = None


class Trained(nn.Module):
    """Model and objective as one module, so that data parallelism sees one forward pass with all trained parameters."""

    def __init__(self, model: nn.Module, objective: nn.Module):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, noise: StepNoise) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch, noise)


def train(
    model: nn.Module,
    objective: nn.Module,
    dataset: Any,
    config: TrainConfig,
    folder: str | Path,
    prepare: Prepare = to_model_input,
    describe: dict[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train `model` (with save_pretrained) on `objective` until config.steps; resumes what `folder` holds.

    dataset: items (uint8 (c, h, w), int64 label), or whatever `prepare` makes images of. describe: the run's configuration,
    saved with every checkpoint; resuming with another one is a ValueError, and so is a device with too little memory.
    """
    with (
        environment.configuration_alone(),
        faults.enough_memory(config, process_share()[1]),
        tf32.use(config.tf32),
        checkpoint.lock_folder(Path(folder)),
        StopSignals() as stop,
    ):
        run = _Run(model, objective, dataset, config, Path(folder), prepare, describe or {}, hooks or Hooks())
        return run.go(stop)


class _Run:
    """State of one call of `train`."""

    def __init__(self, model, objective, dataset, config, folder, prepare, describe, hooks):
        from accelerate import Accelerator, PartialState
        from accelerate.state import AcceleratorState
        from accelerate.utils import broadcast_object_list

        self.model, self.objective, self.dataset, self.config = model, objective, dataset, config
        self.folder, self.prepare, self.hooks = folder, prepare, hooks
        self.describe = {**describe, "train": config.model_dump(mode="json")}
        world = PartialState(cpu=environment.on_cpu(), timeout=PATIENCE)  # without `cpu`, processes on a CPU stay alone
        self.device = torch.device("cpu") if world.device.type == "cpu" else world.device  # torch.load knows no "cpu:0"
        found = checkpoint.latest(folder)
        if found:
            checkpoint.check_same_run(found, self.describe, checkpoint.MAY_CHANGE)
        if world.num_processes > 1:
            self._check_same_step(found.step if found else 0)
        self.sampler = StepSampler(
            len(dataset),
            config.batch_size,
            config.seed,
            found.step if found else 0,
            config.steps,
            config.accumulation,
            world.process_index,
            world.num_processes,
        )
        model.to(self.device)
        objective.to(self.device)
        chosen = [found.state["precision"] if found and config.precision == "auto" else None]
        if world.is_main_process and chosen[0] is None:
            chosen[0] = self._precision()
        broadcast_object_list(chosen)
        self.precision = chosen[0]
        AcceleratorState._reset_state()  # it is a singleton: a second run in one process may have another precision
        self.accelerator = Accelerator(mixed_precision="no" if self.precision == "fp32" else self.precision)
        self.ema = Ema(model, config.ema_decay)
        if config.recompute:
            recompute_layers(model)
        trained = Trained(model, objective)
        optimizer = make_optimizer(trained.parameters(), config)
        self.means = RunningMeans(self.accelerator)
        self.step = 0
        self.written: int | None = found.state.get("log_records") if found else None  # not in older checkpoints
        if found:
            self._restore(found, optimizer)
        self.compiled = config.compile and precision.try_compile(transformer_layers(model), self._trial_step)
        self.sharded = config.parallel == "fsdp2" and world.num_processes > 1
        if self.sharded:
            optimizer, trained = self._share_out(optimizer, trained)
            self.trained, self.optimizer = trained, self.accelerator.prepare_optimizer(optimizer)
        else:
            self.trained, self.optimizer = self.accelerator.prepare(trained, optimizer)

    def go(self, stop: StopSignals) -> TrainResult:
        """Steps until the end, a signal or an error; an error that is not the model's own still saves what was done."""
        if self.accelerator.is_main_process and self.written is not None:
            check_records(self.folder, self.step, self.written)
        log = RunLog(self.folder, self.step, self.config.steps, self.accelerator.is_main_process, self.hooks.reporter)
        if self.step < self.config.steps:
            log.say(precision.describe(self.config, self.precision, self.device))
        self.saved = self.step
        try:
            self._steps(log, stop)
        except FloatingPointError:
            raise
        except Exception:
            if log.enabled and self.step > self.saved and not self.sharded:
                with contextlib.suppress(Exception):  # the error at hand matters more
                    optimizer, objective = self.optimizer.state_dict(), self.objective.state_dict()
                    self._write_checkpoint(self._models(), optimizer, objective, self.means.state(alone=True))
            raise
        finally:
            log.close()
        ema = self._whole(self.ema.model) or self.ema.model  # a process that has but a part gives that
        return TrainResult(self.saved, self.saved == self.config.steps, self.folder, ema)

    def _steps(self, log: RunLog, stop: StopSignals) -> None:
        config, main = self.config, self.accelerator.is_main_process
        # forked readers share the pages of a file that is mapped; others would be sent a copy of it
        reads = config.num_workers and multiprocessing.get_start_method() == "fork"
        beside = getattr(self.objective, "beside", None) if reads else None
        pin = self.device.type == "cuda"
        batches = iter(micro_batches(self.dataset, self.sampler, config.num_workers, pin, beside))
        self.trained.train()
        bad_step = torch.full((), torch.iinfo(torch.int64).max, device=self.device)
        stopping = False
        while self.step < config.steps and not stopping:
            batch, sound = self._one_step(batches)
            bad_step = torch.where(sound, bad_step, bad_step.clamp_max(self.step))
            done, last = self.step, self.step == config.steps
            stopping = self._everyone_stops(stop, done)
            log.advance(done)
            record = last or done % config.log_every == 0
            look = last or done % config.eval_every == 0
            save = last or stopping or done % config.save_every == 0
            if record or look or save:
                self._check_finite(bad_step)
            values: Values = {}
            if record:
                values |= self.means.take() | self.block_norms | {"lr": learning_rate(done - 1, config)}
                model = self._whole(self.model) if self.hooks.diagnose else None
                if main and model is not None:
                    with precision.uncompiled(self.compiled):
                        values |= self.hooks.diagnose(model, batch.x[:32], None if batch.y is None else batch.y[:32])
            try:
                ema = self._whole(self.ema.model) if look else None
                if main and ema is not None:
                    with precision.uncompiled(self.compiled):
                        values |= self._look(ema, done)
            finally:
                if values:
                    log.write(done, values)
            if save:
                self._save()
            if look or save:
                self.accelerator.wait_for_everyone()

    def _one_step(self, batches) -> tuple[Batch, Tensor]:
        """One optimizer step; returns the last micro-batch and whether loss and gradient were finite (on the device)."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        self.optimizer.zero_grad(set_to_none=True)
        noise = StepNoise(config.seed, self.step, config.batch_size, self.device)
        if self.sharded:
            for buffer in self.model.buffers():  # as DDP does
                torch.distributed.broadcast(buffer, 0)
        total = torch.zeros((), device=self.device)
        parts: list[dict[str, Tensor]] = []
        for number, share in enumerate(self.sampler.shares(), 1):
            rows = noise.share(share)
            batch = self._prepare(next(batches), rows)
            with self._maybe_sync(number == config.accumulation):
                loss, logs = self.trained(batch, rows)
                self.accelerator.backward(loss / config.accumulation)
            total += loss.detach() / config.accumulation
            parts.append(logs)
        limit = float("inf") if config.clip_norm is None else config.clip_norm
        norm = shard.whole(self.accelerator.clip_grad_norm_(self.trained.parameters(), limit))
        self.block_norms = self._block_norms(norm, limit) if (self.step + 1) % config.log_every == 0 else {}
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.model, self.step)
        self.means.add_parts(parts)
        self.means.add("loss", total)
        self.means.add("grad_norm", norm.detach() if self.precision != "fp16" else norm.detach().nan_to_num())
        self.means.steps += 1
        sound = total.isfinite() if self.precision == "fp16" else total.isfinite() & norm.isfinite()
        return batch, sound

    def _block_norms(self, norm: Tensor, limit: float) -> Values:
        """Gradient norm of each block at this step, before clipping (whose factor is taken out again)."""
        factor = (norm / limit).clamp_min(1)
        norms = [
            torch.nn.utils.get_total_norm([p.grad for p in block.parameters() if p.grad is not None]) * factor
            for block in getattr(self.model, "blocks", ())
        ]
        return {f"grad_norm/block_{i}": float(shard.whole(n)) for i, n in enumerate(norms, 1)}

    def _prepare(self, read: tuple[Tensor, ...], noise: StepNoise) -> Batch:
        images, labels, index, *beside = read
        x, mirrored = self.prepare(self._sent(images), noise)
        conditional = getattr(self.model.config, "num_classes", 0) > 0
        y = self._sent(labels) if conditional else None
        return Batch(x, y, index, mirrored, tuple(map(self._sent, beside)))

    def _sent(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=True)

    def _maybe_sync(self, last: bool):
        """Processes exchange gradients with the last micro-batch of a step only."""
        if self.sharded:
            self.trained.set_requires_gradient_sync(last)
            return contextlib.nullcontext()
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.trained)

    def _look(self, ema: nn.Module, step: int) -> Values:
        """Evaluation and preview with the averaged weights."""
        values = self.hooks.evaluate(ema) if self.hooks.evaluate else {}
        if self.hooks.preview:
            self.hooks.preview(ema, step)
        return values

    def _everyone_stops(self, stop: StopSignals, step: int) -> bool:
        """Whether a signal has come to any process.

        Several processes agree on it after every step; on CUDA, where that would wait for the device, at every tenth.
        """
        if self.accelerator.num_processes == 1:
            return stop.came
        if self.device.type == "cuda" and step % 10:
            return False
        flag = torch.tensor(float(stop.came), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _check_finite(self, bad_step: Tensor) -> None:
        bad = int(self.accelerator.gather(bad_step[None]).min())
        if bad <= self.step:
            raise faults.not_finite(bad, self.folder)

    def _share_out(
        self, optimizer: torch.optim.Optimizer, trained: nn.Module
    ) -> tuple[torch.optim.Optimizer, nn.Module]:
        """FSDP2 instead of DDP: what this process keeps of optimizer and model, and a whole model where one is looked at."""
        self.looked_at = copy.deepcopy(self.ema.model) if self.accelerator.is_main_process else None
        trained = self.accelerator.prepare_model(trained, evaluation_mode=True)  # autocast alone, without DDP
        state = optimizer.state_dict()
        shard.shard_(trained, self.model, self.ema.model, self.device.type)
        mine = make_optimizer(trained.parameters(), self.config)
        mine.load_state_dict(shard.shared_out(state, list(trained.parameters())))
        return mine, trained

    def _whole(self, model: nn.Module) -> nn.Module | None:
        """`model` to be looked at; where it is shared out, every process has to ask, and the first one gets it."""
        if not self.sharded:
            return model
        main = self.accelerator.is_main_process
        state = shard.whole_state(model.state_dict(), main)
        return shard.Whole(self.looked_at, state).fill() if main else None

    def _save(self) -> None:
        means, main = self.means.state(), self.accelerator.is_main_process
        models, optimizer, objective = self._models(), self.optimizer.state_dict(), self.objective.state_dict()
        if self.sharded:
            models = {
                name: shard.Whole(self.looked_at, shard.whole_state(model.state_dict(), main))
                for name, model in models.items()
            }
            optimizer, objective = shard.whole_state(optimizer, main), shard.whole_state(objective, main)
        if main:
            self._write_checkpoint(models, optimizer, objective, means)
        self.saved = self.step

    def _models(self) -> dict[str, nn.Module]:
        return {"model": self.model, "ema": self.ema.model}

    def _write_checkpoint(self, models: dict, optimizer: dict, objective: dict, means: dict) -> None:
        weights = models["model"].state if self.sharded else self.model.state_dict()
        if not all(bool(p.isfinite().all()) for p in weights.values()):
            raise faults.not_finite(self.step, self.folder)
        scaler = self.accelerator.scaler
        training = {
            "optimizer": optimizer,
            "objective": objective,
            "scaler": scaler.state_dict() if scaler else {},
            **means,
        }
        records = count_records(self.folder, self.step)
        state = {"precision": self.precision, "run": self.describe, "log_records": records, **provenance.stamp()}
        checkpoint.save(self.folder, self.step, models, training, state, self.config.keep)

    def _restore(self, found: checkpoint.Checkpoint, optimizer: torch.optim.Optimizer) -> None:
        for name, model in (("model", self.model), ("ema", self.ema.model)):
            load_strictly(model, read_tensors(found.path / name / WEIGHTS), found.path / name)
        training = checkpoint.read_training(found, self.device)
        optimizer.load_state_dict(training["optimizer"])
        self.objective.load_state_dict(training["objective"])
        if training["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        self.means.load(training)
        self.step = found.step

    def _trial_step(self) -> None:
        """One forward and backward pass as in training, without consequences."""
        with self.accelerator.autocast():
            loss = self._trial_loss()
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        self.objective.zero_grad(set_to_none=True)

    def _check_same_step(self, step: int) -> None:
        """Processes on several machines must see one folder, or some would start anew where others resume."""
        from accelerate.utils import gather_object

        steps = gather_object([step])
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes find checkpoints of steps {steps} in {self.folder}; give a folder that all nodes share"
            )

    def _precision(self) -> str:
        trial = precision.autocast_step(self.model, self._trial_loss)
        return precision.resolve(self.config.precision, self.device, trial)

    def _trial_loss(self) -> Tensor:
        """The objective on a micro-batch of the first images, for timing and compiling; in eval mode it changes no state."""
        count = self.config.batch_size // (self.config.accumulation * self.sampler.world)
        noise = StepNoise(self.config.seed, 0, count, self.device)
        batch = self._prepare(Numbered(self.dataset).__getitems__(list(range(count))), noise)
        self.objective.eval()
        try:
            return self.objective(self.model, batch, noise)[0]
        finally:
            self.objective.train()
