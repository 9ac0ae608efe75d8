"""Pipelines: a home's events in, a row a window out. They travel to the Hub beside the model.

    pipeline("sensor-embedding", model=DIRECTORY_OR_HUB_ID, trust_remote_code=True)
    pipeline("zero-shot-activity", model=DIRECTORY_OR_HUB_ID, trust_remote_code=True)

`B` windows, `K` candidates, `P` width of the shared space, `T` width of the sentence embeddings.
"""

# Every pipeline of transformers narrows the signatures and the flags of its base class.
# mypy: disable-error-code="override, assignment"
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

from .streaming_casita import CasitaStream, refuse_training_mode, window_rows


def window_batches(
    inputs: Mapping[str, np.ndarray], batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Yield the processor's arrays `(B, L, ...)` in batches: row numbers `(b,)` and tensors `(b, l, ...)` on `device`.

    Windows of like length share a batch, and a batch ends at its longest window, so padding costs next to nothing.
    """
    mask = np.asarray(inputs["attention_mask"]) != 0
    ends = mask.shape[1] - mask[:, ::-1].argmax(axis=1)  # one past the last event, wherever the padding is
    for rows in np.array_split(np.argsort(ends, kind="stable"), max(1, math.ceil(len(mask) / batch_size))):
        end = ends[rows].max()
        yield rows, {name: torch.from_numpy(array[rows, :end]).to(device) for name, array in inputs.items()}


def candidate_logits(model: Any, vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Score candidates `(K, P)` for windows `(B, P)`, unit rows: `(B, K)` scale * cosine / temperature."""
    scale = min(model.logit_scale.float().exp().item(), float(model.config.logit_scale_max))
    return scale / model.config.zero_shot_temperature * vectors @ directions.T


class CasitaPipeline(Pipeline):
    """Base of both tasks: events to windows to unit vectors.

    Args:
        model: a `CasitaModel` in eval mode.
        processor: its `CasitaProcessor`.
        batch_size: windows encoded at once (64).
        unknown: a sensor or state that the vocabulary lacks: "error" (default), "skip", or "unk".
        home: whose events these are, where the processor holds several homes.

    Raises:
        ValueError: another kind of model, no processor, no events, or what the processor refuses.
    """

    model: Any
    processor: Any
    _load_processor = True
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "get_text_features") or self.processor is None:
            found = f"{type(self.model).__name__} and {type(self.processor).__name__}"
            raise ValueError(f"{type(self).__name__} needs a CasitaModel and its CasitaProcessor, found {found}.")

    def __call__(self, events: Any, batch_size: int | None = None, **options: Any) -> list[dict[str, Any]]:
        """Encode events; each task adds its results to a row.

        Args:
            events: one stream, which is cut into windows, or a list of windows, each taken as it is, in every form
                that the processor takes: DataFrame, Arrow table, tuples, dicts.
            batch_size, unknown, home: for this call.

        Returns:
            A row a window, by session and time, or in the order of the windows given: `start` and `end`, datetimes of
            the first and last event, and `events`, their number.
        """
        chosen = next(size for size in (batch_size, self._batch_size, 64) if size is not None)
        if chosen < 1:
            raise ValueError(f"batch_size={chosen} must be at least 1.")
        stored = (self._preprocess_params, self._forward_params, self._postprocess_params)
        steps = [{**old, **new} for old, new in zip(stored, self._sanitize_parameters(**options), strict=True)]
        return self.run_single(events, steps[0], {"batch_size": chosen, **steps[1]}, steps[2])

    def _sanitize_parameters(
        self, unknown: str | None = None, home: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reading = {"unknown": unknown, "home": home}
        return {name: value for name, value in reading.items() if value is not None}, {}, {}

    def preprocess(self, events: Any, unknown: str = "error", home: str | None = None) -> dict[str, Any]:
        """Make windows and the model's inputs of events."""
        stream = self.processor.stream(events, unknown=unknown, home=home)
        if not len(stream.first):
            raise ValueError("there are no events left to encode: the vocabulary lacks all of them. See `unknown`.")
        return {"stream": stream, "inputs": self.processor.tensors(stream)}

    def _forward(self, windows: dict[str, Any], batch_size: int) -> dict[str, Any]:
        """Add `vectors` `(B, P)`."""
        refuse_training_mode(self.model)
        vectors = torch.empty(len(windows["stream"].first), self.model.config.projection_dim)
        for rows, batch in window_batches(windows["inputs"], batch_size, self.device):
            vectors[rows] = self.model(**batch).sensor_embeds.float().cpu()
        return {"stream": windows["stream"], "vectors": vectors}

    def open_stream(self, **options: Any) -> CasitaStream:
        """Open a stream on the same model, for events as they happen; `options` are those of `CasitaStream`."""
        return CasitaStream(self.model, self.processor, **options)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write a model directory: model, processor, their code, and both pipelines.

        Raises:
            ValueError: a model whose code is not marked to travel with it.
        """
        if self.model._auto_class is None or self.processor._auto_class is None:
            raise ValueError(
                f"the code of {type(self.model).__name__} and its processor is not marked to travel with them. Use "
                "casita.train.inference.model_directory.publish, or register_for_auto_class() on config, model and "
                "processor."
            )
        add_pipelines(self.model.config, save_directory)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class SensorEmbeddingPipeline(CasitaPipeline):
    """Task `sensor-embedding`: events to one unit vector a window, `vector` `(P,)` float32 of each row."""

    def postprocess(self, windows: dict[str, Any]) -> list[dict[str, Any]]:
        """Make a row of each window."""
        return window_rows(windows["stream"], vector=windows["vectors"].numpy())


class ZeroShotActivityPipeline(CasitaPipeline):
    """Task `zero-shot-activity`: events and candidate sentences to probabilities.

    A candidate's score is the softmax of scale * cosine / temperature over the candidates, with the model's own scale
    and `config.zero_shot_temperature` (1 unless calibrated). Sentences go through the text model that the processor
    names; it needs sentence-transformers.

    Args:
        text_model: that model's directory or Hub id, where the processor's cannot be reached, or the loaded
            `SentenceTransformer` itself.
        candidate_labels: sentences, or label -> its sentences, which count by the mean of their directions; by default
            the processor's `label_prompts`.

    Raises:
        ValueError: no candidates, or a text model that is missing or of another width than the model was trained with.
        ImportError: sentence-transformers is not installed.
    """

    def __init__(self, *args: Any, text_model: Any = None, **kwargs: Any):
        self._text_model = text_model
        self._embedded: tuple[list[str], torch.Tensor] | None = None  # the last call's sentences, (n, T)
        super().__init__(*args, **kwargs)

    def __call__(self, events: Any, candidate_labels: Any = None, **options: Any) -> list[dict[str, Any]]:
        """Encode events as the base class; each row has `labels` (K) and `scores` (K, sum 1), the best first."""
        return super().__call__(events, candidate_labels=candidate_labels, **options)

    def _sanitize_parameters(
        self, candidate_labels: Any = None, **reading: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        candidates = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super()._sanitize_parameters(**reading)[0], candidates, {}

    def _forward(self, windows: dict[str, Any], batch_size: int, candidate_labels: Any = None) -> dict[str, Any]:
        """Add `labels` (K) and `scores` `(B, K)`."""
        self._directions(self._prompts(candidate_labels))  # first, since they can be refused; `score` has them cached
        encoded = super()._forward(windows, batch_size)
        labels, scores = self.score(encoded["vectors"], candidate_labels)
        return {**encoded, "labels": labels, "scores": scores}

    def postprocess(self, windows: dict[str, Any]) -> list[dict[str, Any]]:
        """Make a row of each window, its labels by falling score."""
        scores, order = windows["scores"].sort(dim=-1, descending=True, stable=True)
        labels = [[windows["labels"][i] for i in row] for row in order.tolist()]
        return window_rows(windows["stream"], labels=labels, scores=scores.tolist())

    @torch.inference_mode()
    def score(self, vectors: torch.Tensor, candidate_labels: Any = None) -> tuple[list[str], torch.Tensor]:
        """Return labels (K) and their probabilities `(B, K)` for windows that are unit rows `(B, P)` already."""
        prompts = self._prompts(candidate_labels)
        return list(prompts), candidate_logits(self.model, vectors, self._directions(prompts)).softmax(dim=-1)

    def _prompts(self, candidates: Sequence[str] | Mapping[str, Any] | None) -> dict[str, list[str]]:
        """Map each label to its sentences."""
        candidates = self.processor.label_prompts if candidates is None else candidates
        if isinstance(candidates, str):
            raise ValueError(f"candidate_labels={candidates!r} is one sentence; expected a list of them, or a dict.")
        named = candidates if isinstance(candidates, Mapping) else {sentence: sentence for sentence in candidates}
        prompts = {label: [texts] if isinstance(texts, str) else list(texts) for label, texts in named.items()}
        if not prompts:
            raise ValueError(
                "there are no candidates: pass candidate_labels=[sentence, ...]; the processor carries no prompts."
            )
        if empty := [label for label, sentences in prompts.items() if not sentences]:
            raise ValueError(f"candidate {empty[0]!r} has no sentence. Give it one or leave it out.")
        return prompts

    def _directions(self, prompts: Mapping[str, Sequence[str]]) -> torch.Tensor:
        """Return `(K, P)` unit rows: for each label the mean direction of its sentences."""
        texts = [sentence for sentences in prompts.values() for sentence in sentences]
        if self._embedded is None or self._embedded[0] != texts:
            self._embedded = texts, self._embed(texts)
        embeds = self._embedded[1].to(self.model.device, self.model.dtype)
        rows = nn.functional.normalize(self.model.get_text_features(embeds).pooler_output.float(), dim=-1).cpu()
        means = [part.mean(dim=0) for part in rows.split([len(sentences) for sentences in prompts.values()])]
        return nn.functional.normalize(torch.stack(means), dim=-1)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        """Embed sentences as `(n, T)` unit rows, with the prompt that the processor names."""
        if self._text_model is None or isinstance(self._text_model, (str, os.PathLike)):
            self._text_model = load_text_model(self._text_model or self.processor.text_model, str(self.device))
        read_as_trained(self._text_model)
        vectors = self._text_model.encode(
            texts,
            prompt_name=self.processor.text_prompt_name,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return torch.from_numpy(np.asarray(vectors, dtype=np.float32))


def load_text_model(name: str | os.PathLike | None, device: str) -> Any:
    """Load the `SentenceTransformer` of a Hub id or directory, in eval mode."""
    if name is None:
        raise ValueError(
            "the processor names no text model. Pass text_model= with the one that the model was aligned with."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ImportError("sentences need sentence-transformers: pip install sentence-transformers") from None
    try:
        return SentenceTransformer(str(name), device=device, trust_remote_code=False).eval()
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(" .")
        raise ValueError(
            f"text model {str(name)!r} could not be loaded ({reason}). Without network pass text_model= with its "
            "directory, or a loaded SentenceTransformer."
        ) from None


def read_as_trained(text_model: Any) -> None:
    """Let CLIP and SigLIP cut, and SigLIP pad, texts as they were trained; other models stay as they are.

    SigLIP reads texts padded to its full length without a mask; sentence-transformers pads to the longest of a batch.
    """
    first = text_model[0]
    config = getattr(first, "config", None)
    if config is None or hasattr(config, "max_position_embeddings"):
        return
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is not None:
        first.max_seq_length = min(first.max_seq_length or length, length)
        if config.model_type in ("siglip", "siglip2"):
            padded = {"padding": "max_length", "max_length": length, "return_attention_mask": False}
            first.processing_kwargs = {"text": padded}


PIPELINES = {"sensor-embedding": SensorEmbeddingPipeline, "zero-shot-activity": ZeroShotActivityPipeline}


def add_pipelines(config: Any, folder: str | os.PathLike) -> None:
    """Name both tasks in `config`, and copy their code into `folder`; save the model after it."""
    config.custom_pipelines = {
        task: {"impl": f"pipeline_casita.{kind.__name__}", "pt": ["AutoModel"]} for task, kind in PIPELINES.items()
    }
    os.makedirs(folder, exist_ok=True)
    custom_object_save(SensorEmbeddingPipeline, folder)


__all__ = ["CasitaPipeline", "SensorEmbeddingPipeline", "ZeroShotActivityPipeline"]
