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
    """The contrastive loss by `config.loss`."""
    if config.loss == "info_nce":
        return InfoNCE()
    return SigmoidLoss(config.gamma, config.focal_alpha)


class Objective(ABC):
    """What a batch teaches a model, and what a validation tells. All methods: call on every rank.

    `model` is as `accelerator.prepare` gave it; unwrapped, its `model` is the `CasitaModel` to publish.
    """

    def __init__(self, config: RunConfig, accelerator: Accelerator, model: nn.Module):
        self.accelerator, self.model = accelerator, model
        self.trained: Any = accelerator.unwrap_model(model)

    @abstractmethod
    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the batch's gradients to the weights'; `loss`, that of this rank's rows, and its parts."""

    def after_step(self) -> dict[str, Tensor]:
        """What is to be done and told once the weights have moved."""
        return {}

    @abstractmethod
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """`loss` over `split` and whatever else tells how good the model is."""

    def chunks(self, count: int, size: int, told: str) -> Iterator[np.ndarray]:
        """This rank's share of `count` rows in chunks of `size`; the last rank's surplus wraps around."""
        share = math.ceil(count / self.accelerator.num_processes)
        mine = np.arange(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share) % count
        places = range(0, share, size)
        for i in tqdm(places, told, unit="batch", leave=False, disable=not self.accelerator.is_main_process):
            yield mine[i : i + size]


class AlignmentObjective(Objective):
    """`contrast_weight` times the contrastive loss, `masked_weight` times that of masked events, `context_weight` that
    of the captions before and after (InfoNCE at the first temperature; validation leaves it out).

    Unwrapped, `model` is a `TrainedModel`. The contrast always sees clean events.
    """

    trained: TrainedModel

    def __init__(self, config: TrainConfig, accelerator: Accelerator, model: nn.Module):
        super().__init__(config, accelerator, model)
        self.config, self.contrast = config, make_loss(config)

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the batch's gradients to the weights'; the losses of this rank's rows as `told` names them."""
        masked = self.hide(batch.inputs) if self.config.masked_weight else None
        in_chunks = self.config.micro_batch_size is not None and self.config.micro_batch_size < len(batch.caption_ids)
        found = self._backward_in_chunks(batch, masked) if in_chunks else self._backward_whole(batch, masked)
        if self.trained.queue is not None:  # only now: the batch must not meet itself
            self.trained.queue.push(found.pop("sensors"), found.pop("texts"), batch.caption_ids)
        return self.told({name: loss.detach() for name, loss in found.items() if name.endswith("_loss")})

    @torch.no_grad()
    def after_step(self) -> dict[str, Tensor]:
        """`scale`, kept at its limit: here, not in the loss, where the gradient beyond it would be 0 for ever."""
        self.trained.model.logit_scale.clamp_(max=math.log(self.config.max_logit_scale))
        return {"scale": self.trained.model.logit_scale.exp()}

    @torch.no_grad()
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """`loss` over fixed batches of the training size (full ones), its parts where there are two, and recall at 1.

        Recall is over all windows, both ways. The same events are hidden at each validation.
        """
        sensor, text, groups, masked = self._embed(split)
        losses = {} if masked is None else {"masked_loss": masked}
        if self.config.contrast_weight:
            batches = BatchSampler(len(split), min(self.config.batch_size, len(split)), self.config.seed).epoch(0)
            compared = [self.compare(sensor[rows], text[rows], groups[rows]) for rows in batches]
            losses["contrast_loss"] = torch.stack(compared).mean()
        told = {name: float(loss) for name, loss in self.told(losses).items()}
        if not self.config.contrast_weight:  # the shared space was not trained
            return told
        arrays = sensor.cpu().numpy(), text.cpu().numpy(), groups.cpu().numpy()
        recall = retrieval_metrics(*arrays)
        return told | {
            "recall_at_1_sensor_to_text": recall["sensor_to_text"]["recall_at_1"],
            "recall_at_1_text_to_sensor": recall["text_to_sensor"]["recall_at_1"],
            **recall_by_home(*arrays, split.homes, split.home_names),
        }

    def _embed(self, split: WindowDataset) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Unit rows `(N, P)` of windows and of captions, caption groups `(N,)`, and the mean loss of masked events.

        Each rank embeds its share.
        """
        self.model.eval()
        n, device = len(split), self.accelerator.device
        captions = split.choose_captions(self.config.seed, 0)
        generator = torch.Generator(device).manual_seed(self.config.seed + self.accelerator.process_index)
        sensors, texts, masked_losses, counts = [], [], [], []
        for rows in self.chunks(n, self.config.micro_batch_size or self.config.batch_size, "validating"):
            batch = split.batch(rows, captions[rows], device)
            masked = self.hide(batch.inputs, generator) if self.config.masked_weight else None
            out = self.trained(batch.inputs, batch.texts, masked)
            sensors.append(out["sensors"].float())
            texts.append(out["texts"].float())
            if masked is not None:
                masked_losses.append(out["masked_loss"] * masked["num_items_in_batch"])
                counts.append(masked["num_items_in_batch"])
        groups = torch.from_numpy(split.caption_ids[captions]).to(device)
        masked_loss = None
        if counts:  # each rank's sums are over the mean count of all ranks: their mean is the mean over all events
            masked_loss = gather((torch.stack(masked_losses).sum() / torch.stack(counts).sum())[None]).mean()
        return gather(torch.cat(sensors))[:n], gather(torch.cat(texts))[:n], groups, masked_loss

    def compare(self, sensors: Tensor, texts: Tensor, groups: Tensor) -> Tensor:
        """The contrastive loss of a batch that every rank holds whole, without the queue: for validation."""
        model = self.trained.model
        return self.contrast(sensors, texts, groups, model.logit_scale, model.logit_bias, alone=True)

    def hide(self, inputs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """`inputs` with spans of events hidden, `labels` `(b, L)`, and what their summed loss is divided by.

        That is the mean number of hidden events a rank: the mean over ranks is then the mean over all hidden events.
        """
        asked = {"start_probability": self.config.mask_probability, "mean_length": self.config.mask_mean_length}
        shown, labels = mask_spans(
            inputs["input_ids"],
            inputs["attention_mask"],
            vocab_size=self.trained.model.config.vocab_size,
            mask_token_id=self.trained.model.config.mask_token_id,
            generator=generator,
            **{name: value for name, value in asked.items() if value is not None},
        )
        hidden = gather((labels != IGNORED).sum()[None]).float().mean()
        return {**inputs, "input_ids": shown, "labels": labels, "num_items_in_batch": hidden}

    def told(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, the weighted sum; and its parts where there are two."""
        weighted = [getattr(self.config, name.replace("_loss", "_weight")) * loss for name, loss in losses.items()]
        return {"loss": torch.stack(weighted).sum(), **(losses if len(losses) > 1 else {})}

    def _texts(self, batch: Batch) -> Tensor | None:
        return batch.texts if self.config.contrast_weight else None

    def _backward_whole(self, batch: Batch, masked: dict[str, Tensor] | None) -> dict[str, Tensor]:
        found = self.model(batch.inputs, self._texts(batch), masked, None, batch.neighbours)
        model = self.trained.model
        if batch.neighbour_ids is not None:
            found["context_loss"] = self._context(found, batch.neighbour_ids)
        if self.config.contrast_weight:
            found["contrast_loss"] = self.contrast(
                found["sensors"],
                found["texts"],
                batch.caption_ids,
                model.logit_scale,
                model.logit_bias,
                self.trained.queue,
            )
        losses = {name: loss for name, loss in found.items() if name.endswith("_loss")}
        self.accelerator.backward(self.told(losses)["loss"])
        return found

    def _context(self, found: Mapping[str, Tensor], groups: Tensor) -> Tensor:
        """Mean of both sides' loss: guesses and captions `(b, 2, P)`, the captions' `groups` `(b, 2)`."""
        scale = torch.tensor(1 / self.config.first_temperature, device=groups.device).log()
        sides = zip(
            found["context_sensors"].unbind(1), found["context_texts"].unbind(1), groups.unbind(1), strict=True
        )
        return torch.stack([InfoNCE()(*side, scale, scale) for side in sides]).mean()

    def _backward_in_chunks(self, batch: Batch, masked: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """The same gradients with the activations of one chunk at a time: Gao et al. 2021 (arXiv:2101.06983), sec. 3.

        First all embeddings without activations; then the loss and its gradient for the embeddings; then chunk by
        chunk the embeddings again, with the same dropout, each multiplied with its gradient: the sum's gradient for
        the weights is that of the loss. Ranks average only at the last chunk.
        """
        chunks = _chunks({"texts": batch.texts, **batch.inputs}, self.config.micro_batch_size)
        hidden = _chunks(masked, self.config.micro_batch_size) if masked else [None] * len(chunks)
        texts = [chunk.pop("texts") for chunk in chunks]
        dropouts, embeds = [], []
        with torch.no_grad():
            for chunk, of_chunk in zip(chunks, texts, strict=True):
                dropouts.append(RandomState())
                embeds.append(self.trained(chunk, of_chunk))
        found = {name: torch.cat([each[name] for each in embeds]) for name in ("sensors", "texts")}
        found["contrast_loss"], gradients = self._gradients(found["sensors"], found["texts"], batch.caption_ids)
        size = self.config.micro_batch_size
        of_sensors, of_texts = (gradients.pop(name).split(size) for name in ("sensors", "texts"))
        masked_losses = []
        for i, (chunk, of_chunk) in enumerate(zip(chunks, texts, strict=True)):
            last = i == len(chunks) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                out = self.model(chunk, of_chunk, hidden[i], dropouts[i])
                product = (out["sensors"] * of_sensors[i]).sum() + (out["texts"] * of_texts[i]).sum()
                if masked:
                    product = product + self.config.masked_weight * out["masked_loss"]
                    masked_losses.append(out["masked_loss"].detach())
                for name, gradient in gradients.items() if last else ():
                    product = product + getattr(self.trained.model, name) * gradient
                self.accelerator.backward(product)
        if masked:
            found["masked_loss"] = torch.stack(masked_losses).sum()
        return found

    def _gradients(self, sensors: Tensor, texts: Tensor, groups: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss, and its weighted gradient for the embeddings and for scale and bias if trained."""
        names = ("logit_scale", "logit_bias")
        model = self.trained.model
        leaves = {"sensors": sensors, "texts": texts, **{name: getattr(model, name) for name in names}}
        trained = [name for name in leaves if name not in names or leaves[name].requires_grad]
        leaves = {name: leaf.detach().requires_grad_(name in trained) for name, leaf in leaves.items()}
        loss = self.contrast(
            leaves["sensors"],
            leaves["texts"],
            groups,
            leaves["logit_scale"],
            leaves["logit_bias"],
            self.trained.queue,
        )
        gradients = torch.autograd.grad(self.config.contrast_weight * loss, [leaves[name] for name in trained])
        return loss.detach(), dict(zip(trained, gradients, strict=True))


def _chunks(tensors: Mapping[str, Tensor], size: int | None) -> list[dict[str, Tensor]]:
    """`tensors`, all with rows of one batch, as dictionaries of `size` rows; a scalar goes into each."""
    assert size is not None
    rows = max(len(tensor) for tensor in tensors.values() if tensor.ndim)
    return [
        {name: tensor[first : first + size] if tensor.ndim else tensor for name, tensor in tensors.items()}
        for first in range(0, rows, size)
    ]
