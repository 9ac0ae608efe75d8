"""Casita's classification metrics for the `evaluate` library: `evaluate.load(".../casita_classification")`.

The numbers are `casita.train.metrics.classification.classification_metrics`'; this file only hands them over.
"""

import datasets
import evaluate

from casita.train.metrics.classification import classification_metrics

_DESCRIPTION = """Accuracy, balanced accuracy, macro and weighted F1 over the labels that occur in the references.
A label that only the predictions have is no class of its own: each such prediction is a miss of its true label."""


class CasitaClassification(evaluate.Metric):
    """`compute(predictions=labels, references=labels)`, both lists of texts."""

    def _info(self) -> evaluate.MetricInfo:
        labels = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=_DESCRIPTION, citation="", inputs_description="", features=labels)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return classification_metrics(references, predictions)
