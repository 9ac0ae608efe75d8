"""Activities as classes: the head on the encoder, its loss and its metrics."""

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
from casita.train.training.objectives import Objective

BATCH_SIZE = 256  # windows at once where nothing is learned


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
        self.model = model
        self.dropout = nn.Dropout(model.config.hidden_dropout)
        trained_parts = ("classifier",) if config.mode == "frozen" else ("classifier", "sensor_model")
        for name, weight in model.named_parameters():
            weight.requires_grad_(weight.requires_grad and name.startswith(trained_parts))
        if config.mode == "full" and config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if config.mode == "full" and config.compile:
            model.sensor_model.compile(dynamic=True)

    def forward(self, inputs: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
        """Return logits `(b, K)` from `inputs`, or from stored `embeddings` `(b, C)` if their width is not 0."""
        pooled = embeddings if embeddings.shape[1] else self.model.sensor_model(**inputs).pooler_output
        head: Any = self.model.classifier
        return head(self.dropout(pooled))


class ClassificationObjective(Objective):
    """Cross-entropy over `classes`; unwrapped, `model` is a `Classifier`.

    `class_counts` `(K,)` are the train windows of each class, for `class_weights`; `vocab` the keys of the table's
    rows, for `sensor_dropout`.
    """

    trained: Classifier

    def __init__(
        self,
        config: FinetuneConfig,
        accelerator: Accelerator,
        model: nn.Module,
        classes: Sequence[str],
        class_counts: Tensor,
        vocab: Sequence[str] = (),
    ):
        super().__init__(config, accelerator, model)
        self.config = config
        self.classes = list(classes)
        self.row_sensors = row_sensors(vocab).to(accelerator.device)
        if config.class_weights:
            weights = class_counts.sum() / class_counts.clamp(min=1) / len(class_counts)
        else:
            weights = torch.ones(len(class_counts))
        self.class_weights = weights.to(accelerator.device)

    def backward(self, batch: Batch) -> dict[str, Tensor]:
        """Add the gradients of the mean, by class weights, over the windows of all ranks."""
        inputs = batch.inputs
        labels = batch.caption_ids
        if self.config.sensor_dropout:
            mask = drop_sensors(
                inputs["input_ids"], inputs["attention_mask"], self.row_sensors, self.config.sensor_dropout
            )
            inputs = {**inputs, "attention_mask": mask}
        logits = self.model(inputs, batch.texts).float()
        total = nn.functional.cross_entropy(
            logits, labels, self.class_weights, reduction="sum", label_smoothing=self.config.label_smoothing
        )
        loss = total / gather(self.class_weights[labels].sum()[None]).mean()  # ranks are averaged: over all windows
        self.accelerator.backward(loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self, split: WindowDataset) -> dict[str, float]:
        """Return accuracy, macro F1 and `loss`: mean cross-entropy of the windows whose class the train windows show.

        The loss is without weights or smoothing.
        """
        logits = self.logits(split)
        labels = split.caption_ids
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels).to(logits.device), reduction="sum")
        predicted = [self.classes[i] for i in logits.argmax(dim=1).cpu().numpy()]
        expected = ["unknown" if label == UNKNOWN else self.classes[label] for label in labels]
        known = int((labels != UNKNOWN).sum())
        return {"loss": float(loss) / max(1, known), **classification_metrics(expected, predicted)}

    def logits(self, split: WindowDataset) -> Tensor:
        """Return `(N, K)` of all windows; each rank computes its share."""
        self.model.eval()
        parts = []
        for rows in self.rank_chunks(len(split), BATCH_SIZE, "validating"):
            batch = split.batch(rows, rows, self.accelerator.device)
            parts.append(self.trained(batch.inputs, batch.texts).float())
        return gather(torch.cat(parts))[: len(split)]


def row_sensors(vocab: Sequence[str]) -> Tensor:
    """Return the number of the sensor that each row of the table is a state of, `(V,)`.

    The reserved rows are a sensor of their own.
    """
    names = [""] * NUM_RESERVED_ROWS + [key.rpartition("_")[0] for key in vocab]
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].reshape(-1))


def drop_sensors(
    input_ids: Tensor, attention_mask: Tensor, sensors: Tensor, share: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return `attention_mask` `(b, L)` without the events of dropped sensors: of a window's, each by chance `share`.

    `sensors` `(V,)` as `row_sensors` returns them. A window that would lose every event keeps them all.
    """
    num_sensors = int(sensors.max()) + 1
    kept = torch.rand(len(input_ids), num_sensors, generator=generator, device=input_ids.device) >= share
    # Each event takes from its window's row of `kept` the column of its sensor.
    mask = attention_mask * kept.gather(1, sensors[input_ids])
    return torch.where(mask.any(dim=1, keepdim=True), mask, attention_mask)


@torch.inference_mode()
def encode_split(tower: nn.Module, split: WindowDataset, description: str) -> np.ndarray:
    """Return `logits` of each window, `(N, K)`, or from a tower without them its `pooler_output` `(N, C)`."""
    device = next(tower.parameters()).device
    parts = []
    for first in tqdm(range(0, len(split), BATCH_SIZE), description, unit="batch", leave=False):
        rows = np.arange(first, min(first + BATCH_SIZE, len(split)))
        out: Any = tower(**split.batch(rows, rows, device).inputs)
        output = out.logits if "logits" in out else out.pooler_output
        parts.append(output.float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def probabilities(model: nn.Module, split: WindowDataset) -> np.ndarray:
    """Return the classifier's probabilities of the classes for each window, `(N, K)`."""
    return softmax(encode_split(model, split, "classify"), axis=1)
