"""Fit of one member: from batches to a trained network.

:class:`MemberFit` is independent of slides and Ray. It consumes batches, returns the
measures of each epoch, and can be saved and resumed between epochs.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from digipath_ray.config.recipe import Recipe, check_can_be_frozen
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import freeze_encoder
from digipath_ray.networks.encoder_file import encoder_license
from digipath_ray.networks.normalization import normalization_of, normalize
from digipath_ray.networks.weights import dtype_on
from digipath_ray.training.calibration import Histogram, auroc, scores_at
from digipath_ray.training.class_dice import count_classes, dice_by_class
from digipath_ray.training.loss import (
    count_sums,
    reduced_sums,
    segmentation_loss,
    segmentation_sums,
)
from digipath_ray.training.reader import Columns
from digipath_ray.training.start import start_network

Row = dict[str, Any]
State = dict[str, Any]


class FitStopped(RuntimeError):  # noqa: N818 - named after the condition, not "Error"
    """A fit cannot continue; resuming would not help."""

    def __init__(self, message: str, *, batch: int | None = None) -> None:
        super().__init__(message)
        self.batch = batch


def freezes(spec: MemberSpec, recipe: Recipe, *, pretrained: bool) -> bool:
    """Whether the member's encoder is frozen in the first epochs.

    The paper freezes its two U-Nets, not DeepLabV3+. An encoder with random weights is
    never frozen: it would stay random. With ``freeze_encoder`` all are, in all epochs.

    Raises:
        ValueError: ``freeze_encoder``, and the encoder's weights are random.
    """
    if recipe.fit.freeze_encoder:
        check_can_be_frozen(spec, pretrained=pretrained)
        return True
    is_deeplab = "DeepLab" in spec.architecture
    return pretrained and not is_deeplab and recipe.fit.frozen_epochs > 0


def columns_of(spec: MemberSpec) -> tuple[str, ...]:
    """The columns of a batch that a member sees."""
    factor = spec.context_mpp_factor
    return ("pixels",) if factor is None else ("pixels", f"context{factor}")


class MemberFit:
    """Network, optimizer and history of a member during training.

    With torch.distributed every worker has one, all with equal weights.
    """

    def __init__(self, spec: MemberSpec, recipe: Recipe, device: torch.device) -> None:
        """Build the network and optimizer of a member.

        Raises:
            ValueError: the start weights are missing or do not fit the network.
        """
        start = start_network(spec)
        self.spec, self.recipe, self.device = spec, recipe, device
        self.pretrained, self.origin = start.pretrained, start.origin
        self.encoder_license = encoder_license(spec)
        self.freezes = freezes(spec, recipe, pretrained=start.pretrained)
        network = _synchronized(start.network).to(device)
        self.network = network.to(memory_format=torch.channels_last)
        mean, std = normalization_of(spec)
        self.mean = torch.tensor(mean, device=device).reshape(3, 1, 1)
        self.std = torch.tensor(std, device=device).reshape(3, 1, 1)
        self.dtype = dtype_on(device, recipe.fit.precision)
        freeze_encoder(self.network, recipe.fit.freeze_encoder)
        fitted = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(fitted, lr=1.0, amsgrad=recipe.fit.amsgrad)
        half = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self.history: list[Row] = []

    @property
    def epoch(self) -> int:
        """Next epoch, from 0."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest validation loss."""
        losses = [row["validation_loss"] for row in self.history]
        return int(np.argmin(losses))

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or early stopping applies."""
        fit = self.recipe.fit
        if not self.history or self.epoch >= fit.epochs:
            return self.epoch >= fit.epochs
        return self.epoch - 1 - self.best_epoch >= fit.patience

    def frozen_in(self, epoch: int) -> bool:
        """Whether the encoder is frozen in an epoch."""
        return epoch < self.frozen_epochs

    @property
    def frozen_epochs(self) -> int:
        """In how many first epochs the encoder is frozen."""
        fit = self.recipe.fit
        first = fit.epochs if fit.freeze_encoder else fit.frozen_epochs
        return first if self.freezes else 0

    def fit_epoch(self, batches: Iterable[Columns]) -> Row:
        """Fit an epoch, one step per batch; returns its measures.

        Raises:
            FitStopped: the loss is not finite, or too many patches could not be read.
        """
        module, epoch = self._begin_epoch(), self.epoch
        total = _Tally()
        for number, batch in enumerate(total.timed(batches)):
            loss = self._step(module, batch)
            if not math.isfinite(loss):
                raise FitStopped(f"epoch {epoch}: the loss is {loss}", batch=number)
            total.count(batch, loss)
        total.reduce(self.device)
        self._check_readable(total)
        return {
            "epoch": epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "frozen": self.frozen_in(epoch),
            **total.row(),
        }

    def _begin_epoch(self) -> nn.Module:
        """Set mode and learning rate; returns the module to call, maybe distributed."""
        rate = self.recipe.fit.learning_rate(
            self.epoch, pretrained=self.pretrained, freezes=self.freezes
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        freeze_encoder(self.network, self.frozen_in(self.epoch))
        if _workers() == 1:
            return self.network
        # Rebuilt every epoch, because DDP records at construction which parameters need
        # gradients, and freezing changes that. find_unused_parameters because a U-Net
        # of less than full depth does not use all of its encoder.
        return DistributedDataParallel(
            self.network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=True,
        )

    def _step(self, module: nn.Module, batch: Columns) -> float:
        truth, weight = self._truth(batch)
        sums = reduced_sums(
            segmentation_sums(self._logits(module, batch), truth, weight)
        )
        loss = self._loss(sums)
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return value

    def _logits(self, module: nn.Module, batch: Columns) -> Tensor:
        views = [self._input(batch[name]) for name in columns_of(self.spec)]
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=mixed):
            logits: Tensor = module(*views)
        return logits.float()

    def _input(self, patches: NDArray[np.uint8]) -> Tensor:
        pixels = _to(patches, self.device).permute(0, 3, 1, 2)
        inputs = normalize(pixels, self.mean, self.std)
        return inputs.contiguous(memory_format=torch.channels_last)

    def _truth(self, batch: Columns) -> tuple[Tensor, Tensor]:
        truth = batch["classes" if self.recipe.classes.several else "tumor"]
        return _to(truth, self.device), _to(batch["weight"], self.device)

    def _loss(self, sums: Tensor) -> Tensor:
        """The loss of summed-up batches."""
        tumor = self.recipe.classes.tumor_numbers
        return segmentation_loss(sums, self.recipe.loss, tumor)

    def _odds(self, logits: Tensor) -> Tensor:
        """The logit of tumor [B, H, W] from those of the classes."""
        tumor = self.recipe.classes.tumor_numbers
        if logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        others = [i for i in range(logits.shape[1]) if i not in tumor]
        parts = logits[:, list(tumor)], logits[:, others]
        of_tumor, of_others = (part.logsumexp(dim=1) for part in parts)
        return of_tumor - of_others

    def _check_readable(self, total: "_Tally") -> None:
        limit = self.recipe.fit.max_failed
        if total.failed > limit * max(total.patches, 1):
            # Only errors of this worker; the failed slides may be another worker's.
            errors = (f"; slide {i}: {e}" for i, e in total.errors.items())
            raise FitStopped(
                f"epoch {self.epoch}: {total.failed:.0f} of {total.patches:.0f} "
                f"patches could not be read, more than --max-failed {limit:g}"
                f"{next(errors, '')}"
            )

    @torch.inference_mode()
    def validate(self, batches: Iterable[Columns]) -> tuple[Row, Histogram]:
        """Compute loss and scores over all batches, and the histogram of logits.

        Patches are weighted by the tissue area they represent, so that threshold and
        calibration hold for slides, not for the class-balanced sample.
        """
        self.network.eval()
        names = self.recipe.classes.of_networks
        sums = torch.zeros(count_sums(len(names)), device=self.device)
        by_class = np.zeros((3, len(names)))
        histogram = Histogram(scale="logit")
        for batch in batches:
            logits = self._logits(self.network, batch)
            truth, weight = self._truth(batch)
            sums += segmentation_sums(logits, truth, weight)
            odds = self._odds(logits).cpu().numpy()
            area = batch["weight"] * batch["area_mm2"][:, None, None] / odds[0].size
            histogram.add(odds, batch["tumor"], area)
            if self.recipe.classes.several:
                found = logits.argmax(dim=1).cpu().numpy()
                by_class += count_classes(found, batch["classes"], area, len(names))
        _add_up(sums)
        counts = torch.from_numpy(histogram.counts).to(self.device, torch.float32)
        histogram = Histogram(
            scale="logit", counts=_add_up(counts).double().cpu().numpy()
        )
        scores = scores_at(histogram, 0.5)
        row = {
            "validation_loss": float(self._loss(sums)),
            "validation_dice": scores.dice,
            "validation_jaccard": scores.jaccard,
            "validation_auroc": auroc(histogram),
        }
        if self.recipe.classes.several:
            areas = torch.from_numpy(by_class).to(self.device, torch.float32)
            row |= dice_by_class(_add_up(areas).double().cpu().numpy(), names)
        return row, histogram

    def end_epoch(self, row: Row) -> bool:
        """Record an epoch; returns whether it is the best so far.

        Raises:
            FitStopped: the validation loss is not finite.
        """
        if not math.isfinite(row["validation_loss"]):
            raise FitStopped(
                f"epoch {self.epoch}: the validation loss is {row['validation_loss']}"
            )
        self.history.append(row)
        return self.best_epoch == len(self.history) - 1

    def state(self) -> State:
        """Complete state to resume a fit from, between two epochs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a fit from :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = list(state["history"])


class _Tally:
    """Sums over an epoch's batches, on this worker and then over all."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.waited = self.patches = self.failed = self.tumor = 0.0
        self.losses: list[float] = []
        self.errors: dict[str, str] = {}

    def timed(self, batches: Iterable[Columns]) -> Iterator[Columns]:
        """Yield the batches, measuring the waiting time."""
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def count(self, batch: Columns, loss: float) -> None:
        """Add a batch."""
        self.losses.append(loss)
        self.patches += len(batch["weight"])
        self.failed += float((batch["error"] != "").sum())
        self.tumor += float(batch["tumor"].any(axis=(1, 2)).sum())
        for slide_id, error in zip(batch["slide_id"], batch["error"], strict=True):
            if error:
                self.errors[str(slide_id)] = str(error)

    def reduce(self, device: torch.device) -> None:
        """Sum over the workers."""
        mine = torch.tensor(
            [self.patches, self.failed, self.tumor, self.waited], device=device
        )
        self.patches, self.failed, self.tumor, self.waited = _add_up(mine).tolist()
        self.waited /= _workers()

    def row(self) -> Row:
        """Columns of the learning curves from these sums."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        return {
            "train_loss": float(np.mean(self.losses)) if self.losses else math.nan,
            "tumor_share": self.tumor / max(self.patches, 1),
            "patches": int(self.patches),
            "failed": int(self.failed),
            "samples_per_s": self.patches / seconds,
            "data_wait": self.waited / seconds,
            "seconds": seconds,
            "errors": self.errors,
        }


def _workers() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _add_up(values: Tensor) -> Tensor:
    """All-reduce by sum over the workers, in place."""
    if _workers() > 1:
        torch.distributed.all_reduce(values)
    return values


def _synchronized(network: nn.Module) -> nn.Module:
    """Synchronize batch normalization over workers; supported by torch on GPUs only."""
    if _workers() > 1 and torch.cuda.is_available():
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network


def _to(values: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array from Ray (read-only) to a device."""
    host = torch.from_numpy(np.array(values))
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
