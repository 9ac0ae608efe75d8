"""Activities as classes: the head on the encoder, its loss, and what a validation tells of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import softmax
from torch import Tensor, nn
from tqdm.auto import tqdm

from casita.modeling.modeling_casita import CasitaModel
from casita.processing.sensor_vocabulary import NUM_RESERVED_ROWS
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.dataset import Batch, WindowDataset
from casita.train.data.labelled_windows import UNKNOWN
from casita.train.metrics.classification import classification_metrics
from casita.train.training.losses import gather
from casita.train.training.model import parameter_groups
from casita.train.training.objectives import Objective


def add_head(model: CasitaModel, classes: Sequence[str]) -> None:
    """Give `model` the head of `CasitaForSequenceClassification` as `classifier`, from torch's current seed.

    What is published loads as either then, with the names of the classes in its configuration.
    """
    model.config.id2label = dict(enumerate(classes))
    model.config.label2id = {label: i for i, label in enumerate(classes)}
    model.classifier = nn.Linear(model.config.hidden_size, len(classes))
    model._init_weights(model.classifier)


class Classifier(nn.Module):
    """`model` with its head, as `CasitaForSequenceClassification` computes; its state is a checkpoint.

    With `mode: frozen` only the head learns and the windows' embeddings are given to it.
    """

    def __init__(self, config: FinetuneConfig, model: CasitaModel):
        super().__init__()
        self.model, self.dropout = model, nn.Dropout(model.config.hidden_dropout)
        for name, weight in model.named_parameters():
            learns = "classifier" if config.mode == "frozen" else ("classifier", "sensor_model")
            weight.requires_grad_(weight.requires_grad and name.startswith(learns))
        if config.mode == "full" and config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if config.mode == "full" and config.compile:
            model.sensor_model.compile(dynamic=True)

    def forward(self, inputs: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
        """Logits `(b, K)` from the model's inputs, or from stored `embeddings` `(b, C)` if their width is not 0."""
        pooled = embeddings if embeddings.shape[1] else self.model.sensor_model(**inputs).pooler_output
        head: Any = self.model.classifier
        return head(self.dropout(pooled))


def learning_groups(model: nn.Module, config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: the head's, then the encoder's at its own rate."""
    head = {id(p) for name, p in model.named_parameters() if ".classifier." in name}
    groups = []
    for ours, rate in ((True, config.learning_rate), (False, config.encoder_rate)):
        for group in parameter_groups(model, config.weight_decay):
            chosen = [p for p in group["params"] if (id(p) in head) == ours]
            groups.append({**group, "params": chosen, "lr": rate})
    return groups


class ClassificationObjective(Objective):
    """Cross-entropy over `classes`; unwrapped, `model` is a `Classifier`.

    `counts` `(K,)` are the train windows of each class, for `class_weights`; `keys` those of the table's rows in
    their order, for `sensor_dropout`.
    """

    trained: Classifier

    def __init__(
        self,
        config: FinetuneConfig,
        accelerator: Accelerator,
        model: nn.Module,
        classes: Sequence[str],
        counts: Tensor,
        keys: Sequence[str] = (),
    ):
        super().__init__(config, accelerator, model)
        self.sensors = sensor_numbers(keys).to(accelerator.device)
        self.config, self.classes = config, list(classes)
        weight = counts.sum() / counts.clamp(min=1) / len(counts) if config.class_weights else torch.ones(len(counts))
        self.weight = weight.to(accelerator.device)

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradients of the mean, by class weights, over the windows of all ranks."""
        inputs = batch.inputs
        if share := self.config.sensor_dropout:
            shown = silence(inputs["input_ids"], inputs["attention_mask"], self.sensors, share)
            inputs = {**inputs, "attention_mask": shown}
        logits = self.model(inputs, batch.texts).float()
        smooth = self.config.label_smoothing
        cross_entropy = nn.functional.cross_entropy
        total = cross_entropy(logits, batch.caption_ids, self.weight, reduction="sum", label_smoothing=smooth)
        loss = (
            total / gather(self.weight[batch.caption_ids].sum()[None]).mean()
        )  # ranks are averaged: over all windows
        self.accelerator.backward(loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """Mean cross-entropy of the windows whose class is known, without weights or smoothing; accuracy, macro F1."""
        logits = self.logits(split)
        known = split.caption_ids != UNKNOWN
        loss = nn.functional.cross_entropy(
            logits, torch.from_numpy(split.caption_ids).to(logits.device), reduction="sum"
        )
        found = logits.argmax(dim=1).cpu().numpy()
        told = classification_metrics(
            ["unknown" if g == UNKNOWN else self.classes[g] for g in split.caption_ids],
            [self.classes[i] for i in found],
        )
        return {"loss": float(loss) / max(1, int(known.sum())), **told}

    def logits(self, split: WindowDataset) -> Tensor:
        """`(N, K)` of all windows; each rank computes its share."""
        self.model.eval()
        every, parts = np.arange(len(split)), []
        for rows in self.chunks(len(split), 256, "validating"):
            batch = split.batch(rows, every[rows], self.accelerator.device)
            parts.append(self.trained(batch.inputs, batch.texts).float())
        return gather(torch.cat(parts))[: len(split)]


def sensor_numbers(keys: Sequence[str]) -> Tensor:
    """`(V,)` which sensor each row of the table is a state of; the reserved rows are a sensor of their own."""
    names = [""] * NUM_RESERVED_ROWS + [key.rpartition("_")[0] for key in keys]
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].reshape(-1))


def silence(
    input_ids: Tensor, attention_mask: Tensor, sensors: Tensor, share: float, generator: torch.Generator | None = None
) -> Tensor:
    """`attention_mask` `(b, L)` without any event of some sensors, each of which a window loses by chance `share`.

    `sensors` `(V,)` as of `sensor_numbers`. A window that would lose every event keeps them all.
    """
    drawn = torch.rand(len(input_ids), int(sensors.max()) + 1, generator=generator, device=input_ids.device)
    shown = attention_mask * (drawn >= share).gather(1, sensors[input_ids])
    return torch.where(shown.any(dim=1, keepdim=True), shown, attention_mask)


@torch.inference_mode()
def encode_split(tower: nn.Module, split: WindowDataset, told: str, size: int = 256) -> np.ndarray:
    """What `tower` makes of each window, `(N, ...)`: its `logits`, or else its `pooler_output`."""
    device = next(tower.parameters()).device
    every, parts = np.arange(len(split)), []
    for first in tqdm(range(0, len(split), size), told, unit="batch", leave=False):
        rows = every[first : first + size]
        out: Any = tower(**split.batch(rows, rows, device).inputs)
        parts.append((out.logits if "logits" in out else out.pooler_output).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def probabilities(model: nn.Module, split: WindowDataset) -> np.ndarray:
    """`(N, K)`: the classifier's answers."""
    return softmax(encode_split(model, split, "classify"), axis=1)
