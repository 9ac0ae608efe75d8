"""Casita's retrieval metrics for the `evaluate` library: `evaluate.load(".../evaluate_modules/casita_retrieval")`.

The numbers are `casita.train.metrics.ranking.score_queries`'; this file only hands them over.
"""

import datasets
import evaluate
import numpy as np

from casita.train.metrics.ranking import Ranked, score_queries

_DESCRIPTION = """Recall@1/5/10, MRR, mAP and nDCG@10 of rankings. A prediction is the scores of one query's
candidates, a reference tells which are right (1) and wrong (0). Ties count by expectation over all their orders."""


class CasitaRetrieval(evaluate.Metric):
    """Means over queries, `compute(predictions=scores, references=relevance)`, both `(Q, n)`."""

    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("float32")),
                "references": datasets.Sequence(datasets.Value("int8")),
            }
        )
        return evaluate.MetricInfo(description=_DESCRIPTION, citation="", inputs_description="", features=scores)

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        scores, right = np.array(predictions), np.array(references, dtype=bool)
        if not right.any(axis=1).all():
            raise ValueError(f"query {int((~right.any(axis=1)).argmax())}: no candidate is right. Leave it out.")
        return Ranked(score_queries(scores, right), np.arange(len(scores)), scores.shape[1]).mean()
