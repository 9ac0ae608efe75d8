"""The loss of one batch and its gradients: windows against captions, hidden events, whole or in chunks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from casita.modeling.heads_casita import IGNORED, mask_spans
from casita.train.configs.train_config import RunConfig, TrainConfig
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.dataset import Batch, WindowDataset
from casita.train.metrics.ranking import recall_by_home, retrieval_metrics
from casita.train.training.losses import ContrastiveLoss, InfoNCE, gather
from casita.train.training.model import TrainedModel
from casita.train.training.rng import RandomState
from casita.train.training.sigmoid_loss import SigmoidLoss


def make_loss(config: TrainConfig) -> ContrastiveLoss:
    """Return the contrastive loss by `config.loss`."""
    if config.loss == "info_nce":
        return InfoNCE()
    return SigmoidLoss(config.gamma, config.focal_alpha)


class Objective(ABC):
    """A loss with its gradients, and a validation. All methods: call on every rank.

    `model` is as `accelerator.prepare` gave it; `trained` is it unwrapped, whose `model` is the `CasitaModel` to
    publish.
    """

    def __init__(self, config: RunConfig, accelerator: Accelerator, model: nn.Module):
        self.accelerator = accelerator
        self.model = model
        self.trained: Any = accelerator.unwrap_model(model)

    @abstractmethod
    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the batch's gradients to the weights'; return `loss`, that of this rank's rows, and its parts."""

    def after_step(self) -> dict[str, Tensor]:
        """Do what is to be done once the weights have moved, and return scalars to log."""
        return {}

    @abstractmethod
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """Return `loss` over `split` and other metrics of the model."""

    def rank_chunks(self, count: int, size: int, description: str) -> Iterator[np.ndarray]:
        """Yield this rank's share of `count` rows in chunks of `size`; the last rank's surplus wraps around."""
        share = math.ceil(count / self.accelerator.num_processes)
        first = self.accelerator.process_index * share
        rows = np.arange(first, first + share) % count
        is_main = self.accelerator.is_main_process
        for start in tqdm(range(0, share, size), description, unit="batch", leave=False, disable=not is_main):
            yield rows[start : start + size]


class AlignmentObjective(Objective):
    """`contrast_weight` times the contrastive loss, `masked_weight` times that of masked events, `context_weight` that
    of the captions before and after (InfoNCE at the first temperature; validation leaves it out).

    Unwrapped, `model` is a `TrainedModel`. The contrast always sees clean events.
    """

    trained: TrainedModel

    def __init__(self, config: TrainConfig, accelerator: Accelerator, model: nn.Module):
        super().__init__(config, accelerator, model)
        self.config = config
        self.contrast = make_loss(config)

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the batch's gradients to the weights'; return the losses of this rank's rows with their sum."""
        masked = self.mask_events(batch.inputs) if self.config.masked_weight else None
        micro_batch_size = self.config.micro_batch_size
        if micro_batch_size is not None and micro_batch_size < len(batch.caption_ids):
            outputs = self._backward_in_chunks(batch, masked, micro_batch_size)
        else:
            outputs = self._backward_whole(batch, masked)
        if self.trained.queue is not None:  # only now: the batch must not meet itself
            self.trained.queue.push(outputs["sensors"], outputs["texts"], batch.caption_ids)
        return self.with_sum({name: loss.detach() for name, loss in outputs.items() if name.endswith("_loss")})

    @torch.no_grad()
    def after_step(self) -> dict[str, Tensor]:
        """Return the scale, kept at its limit: here, for in the loss the gradient beyond it would be 0 for ever."""
        self.trained.model.logit_scale.clamp_(max=math.log(self.config.max_logit_scale))
        return {"scale": self.trained.model.logit_scale.exp()}

    @torch.no_grad()
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """Return `loss` over fixed full batches of the training size, its parts where there are two, and recall.

        Recall at 1 is over all windows, both ways. The same events are hidden at each validation.
        """
        sensors, texts, caption_ids, masked_loss = self._embed(split)
        losses = {} if masked_loss is None else {"masked_loss": masked_loss}
        if self.config.contrast_weight:
            sampler = BatchSampler(len(split), min(self.config.batch_size, len(split)), self.config.seed)
            model = self.trained.model
            contrast_losses = [  # every rank holds all windows; the queue is left out
                self.contrast(
                    sensors[rows], texts[rows], caption_ids[rows], model.logit_scale, model.logit_bias, local=True
                )
                for rows in sampler.epoch(0)
            ]
            losses["contrast_loss"] = torch.stack(contrast_losses).mean()
        metrics = {name: float(loss) for name, loss in self.with_sum(losses).items()}
        if not self.config.contrast_weight:  # the shared space was not trained
            return metrics
        arrays = sensors.cpu().numpy(), texts.cpu().numpy(), caption_ids.cpu().numpy()
        recall = retrieval_metrics(*arrays)
        return metrics | {
            "recall_at_1_sensor_to_text": recall["sensor_to_text"]["recall_at_1"],
            "recall_at_1_text_to_sensor": recall["text_to_sensor"]["recall_at_1"],
            **recall_by_home(*arrays, split.homes, split.home_names),
        }

    def _embed(self, split: WindowDataset) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return unit rows `(N, P)` of windows and of captions, caption ids `(N,)`, and the masked events' mean loss.

        Each rank embeds its share.
        """
        self.model.eval()
        count = len(split)
        device = self.accelerator.device
        captions = split.choose_captions(self.config.seed, 0)
        generator = torch.Generator(device).manual_seed(self.config.seed + self.accelerator.process_index)
        sensors: list[Tensor] = []
        texts: list[Tensor] = []
        masked_losses: list[Tensor] = []
        masked_counts: list[Tensor] = []
        for rows in self.rank_chunks(count, self.config.micro_batch_size or self.config.batch_size, "validating"):
            batch = split.batch(rows, captions[rows], device)
            masked = self.mask_events(batch.inputs, generator) if self.config.masked_weight else None
            outputs = self.trained(batch.inputs, batch.texts, masked)
            sensors.append(outputs["sensors"].float())
            texts.append(outputs["texts"].float())
            if masked is not None:
                masked_losses.append(outputs["masked_loss"] * masked["num_items_in_batch"])
                masked_counts.append(masked["num_items_in_batch"])
        caption_ids = torch.from_numpy(split.caption_ids[captions]).to(device)
        masked_loss = None
        if masked_counts:
            # Each rank's sums are over the mean count of all ranks: their mean is the mean over all events.
            rank_loss = torch.stack(masked_losses).sum() / torch.stack(masked_counts).sum()
            masked_loss = gather(rank_loss[None]).mean()
        return gather(torch.cat(sensors))[:count], gather(torch.cat(texts))[:count], caption_ids, masked_loss

    def mask_events(self, inputs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return `inputs` with spans of events hidden, `labels` `(b, L)`, and the divisor of their summed loss.

        That is the mean number of hidden events a rank: the mean over ranks is then the mean over all hidden events.
        """
        options = {"start_probability": self.config.mask_probability, "mean_length": self.config.mask_mean_length}
        input_ids, labels = mask_spans(
            inputs["input_ids"],
            inputs["attention_mask"],
            vocab_size=self.trained.model.config.vocab_size,
            mask_token_id=self.trained.model.config.mask_token_id,
            generator=generator,
            **{name: value for name, value in options.items() if value is not None},
        )
        hidden = gather((labels != IGNORED).sum()[None]).float().mean()
        return {**inputs, "input_ids": input_ids, "labels": labels, "num_items_in_batch": hidden}

    def with_sum(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `loss`, the weighted sum; and its parts where there are two."""
        weighted = [getattr(self.config, name.replace("_loss", "_weight")) * loss for name, loss in losses.items()]
        parts = losses if len(losses) > 1 else {}
        return {"loss": torch.stack(weighted).sum(), **parts}

    def _backward_whole(self, batch: Batch, masked: dict[str, Tensor] | None) -> dict[str, Tensor]:
        texts = batch.texts if self.config.contrast_weight else None
        outputs = self.model(batch.inputs, texts, masked, None, batch.neighbours)
        model = self.trained.model
        if batch.neighbour_ids is not None:
            outputs["context_loss"] = self._context_loss(outputs, batch.neighbour_ids)
        if self.config.contrast_weight:
            outputs["contrast_loss"] = self.contrast(
                outputs["sensors"],
                outputs["texts"],
                batch.caption_ids,
                model.logit_scale,
                model.logit_bias,
                self.trained.queue,
            )
        losses = {name: loss for name, loss in outputs.items() if name.endswith("_loss")}
        self.accelerator.backward(self.with_sum(losses)["loss"])
        return outputs

    def _context_loss(self, outputs: Mapping[str, Tensor], caption_ids: Tensor) -> Tensor:
        """Return the mean of both sides' loss: predictions and captions `(b, 2, P)`, their `caption_ids` `(b, 2)`."""
        log_scale = torch.tensor(1 / self.config.first_temperature, device=caption_ids.device).log()
        contrast = InfoNCE()
        losses = [
            contrast(
                outputs["context_sensors"][:, side],
                outputs["context_texts"][:, side],
                caption_ids[:, side],
                log_scale,
                log_scale,
            )
            for side in (0, 1)
        ]
        return torch.stack(losses).mean()

    def _backward_in_chunks(self, batch: Batch, masked: dict[str, Tensor] | None, size: int) -> dict[str, Tensor]:
        """Add the same gradients, chunk by chunk: Gao et al. 2021 (arXiv:2101.06983), sec. 3.

        First all embeddings without activations; then the loss and its gradient for the embeddings; then chunk by
        chunk the embeddings again, with the same dropout, each multiplied with its gradient: the sum's gradient for
        the weights is that of the loss. Ranks average only at the last chunk.
        """
        inputs = _chunks(batch.inputs, size)
        texts = batch.texts.split(size)
        masked_inputs = _chunks(masked, size) if masked else [None] * len(inputs)
        dropouts = []
        embeddings = []
        with torch.no_grad():
            for chunk_inputs, chunk_texts in zip(inputs, texts, strict=True):
                dropouts.append(RandomState())
                embeddings.append(self.trained(chunk_inputs, chunk_texts))
        outputs = {name: torch.cat([chunk[name] for chunk in embeddings]) for name in ("sensors", "texts")}
        loss, gradients = self._embedding_gradients(outputs["sensors"], outputs["texts"], batch.caption_ids)
        outputs["contrast_loss"] = loss
        sensor_gradients = gradients.pop("sensors").split(size)
        text_gradients = gradients.pop("texts").split(size)
        masked_losses = []
        for i in range(len(inputs)):
            is_last = i == len(inputs) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                chunk = self.model(inputs[i], texts[i], masked_inputs[i], dropouts[i])
                product = (chunk["sensors"] * sensor_gradients[i]).sum() + (chunk["texts"] * text_gradients[i]).sum()
                if masked:
                    product = product + self.config.masked_weight * chunk["masked_loss"]
                    masked_losses.append(chunk["masked_loss"].detach())
                if is_last:  # what is left are the gradients of scale and bias
                    for name, gradient in gradients.items():
                        product = product + getattr(self.trained.model, name) * gradient
                self.accelerator.backward(product)
        if masked:
            outputs["masked_loss"] = torch.stack(masked_losses).sum()
        return outputs

    def _embedding_gradients(
        self, sensors: Tensor, texts: Tensor, caption_ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the contrastive loss and its weighted gradients for the embeddings, scale and bias (if trained)."""
        model = self.trained.model
        leaves = {"sensors": sensors.detach().requires_grad_(), "texts": texts.detach().requires_grad_()}
        for name in ("logit_scale", "logit_bias"):
            parameter = getattr(model, name)
            leaves[name] = parameter.detach().requires_grad_(parameter.requires_grad)
        loss = self.contrast(
            leaves["sensors"],
            leaves["texts"],
            caption_ids,
            leaves["logit_scale"],
            leaves["logit_bias"],
            self.trained.queue,
        )
        trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(self.config.contrast_weight * loss, list(trained.values()))
        return loss.detach(), dict(zip(trained, gradients, strict=True))


def _chunks(tensors: Mapping[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    """Cut `tensors`, all with rows of one batch, into dictionaries of `size` rows; a scalar goes into each."""
    rows = max(len(tensor) for tensor in tensors.values() if tensor.ndim)
    return [
        {name: tensor[first : first + size] if tensor.ndim else tensor for name, tensor in tensors.items()}
        for first in range(0, rows, size)
    ]
