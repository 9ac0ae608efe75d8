"""Make the golden checkpoints anew: `python tests/golden/make.py`. Only when the numbers are meant to change.

A folder each: a checkpoint of 2 layers and 32 wide with untrained weights, a few windows (`input.*` in
`expected.safetensors`) and what the model makes of them (`output.*`). `processor/` holds a processor, raw events, and
the tensors that it makes of them. `test_golden.py` compares; a difference means that published models changed too.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import (
    CasitaForMaskedEventModeling,
    CasitaForSequenceClassification,
    CasitaModel,
)
from casita.processing.processing_casita import CasitaProcessor

HERE = Path(__file__).parent
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "projection_dim": 16,
    "image_embedding_dim": 24,
    "text_embedding_dim": 12,
    "vocab_size": 20,
}
EVERYTHING = {"use_coordinates": True, "use_time_deltas": True, "alibi_distance": "time", "projection_type": "mlp"}
LEARNED = {"embedding_source": "learned", "num_sensors": 4, "num_states": 2, "num_rooms": 3}
CHECKPOINTS: dict[str, tuple[type[PreTrainedModel], dict]] = {
    "image": (CasitaModel, {}),
    "everything": (CasitaModel, {**EVERYTHING, "projection_hidden_size": 48}),
    "masked_events": (CasitaForMaskedEventModeling, {}),
    "classification": (CasitaForSequenceClassification, {**LEARNED, "num_labels": 3, "pooling": "mean"}),
}
EVENTS = [
    ["2024-05-01 07:00:00", "M001", "ON"],
    ["2024-05-01 07:00:04.5", "M001", "OFF"],
    ["2024-05-01 07:03:00", "D001", "OPENED"],
    ["2024-05-01 07:03:01", "T001", "17.5"],
    ["2024-05-01 09:00:00", "D001", "CLOSE"],
]
VOCAB = ["D001_CLOSE", "D001_OPEN", "M001_OFF", "M001_ON", "T001_HIGH", "T001_LOW", "T001_NORMAL"]


def windows(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Three windows: whole, padded on the right, padded on the left; and sentences where the model takes them."""
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "input_ids": torch.randint(3, 20, (3, 9), generator=generator),
        "attention_mask": torch.ones(3, 9, dtype=torch.long),
        "time_deltas": torch.rand(3, 9, generator=generator) * 100,
        "coordinates": torch.rand(3, 9, 2, generator=generator),
        "timestamps": (torch.rand(3, 9, generator=generator) * 60).cumsum(1),
    }
    inputs["attention_mask"][1, 6:] = 0
    inputs["attention_mask"][2, :4] = 0
    if isinstance(model, CasitaModel):
        inputs["text_embeds"] = torch.randn(2, 12, generator=generator)
    return inputs


def outputs(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model says of them, by name."""
    with torch.no_grad():
        said = model(**inputs)
    return {name: value.contiguous() for name, value in said.items() if isinstance(value, torch.Tensor)}


def make_processor() -> CasitaProcessor:
    return CasitaProcessor(
        VOCAB,
        home="golden",
        coordinates={"D001": [0.1, 0.2], "M001": [0.5, 0.25], "T001": [0.9, 0.75]},
        levels={"T001": [18.0, 22.0]},
        length=3,
        overlap=0.5,
        use_time_deltas=True,
        use_coordinates=True,
        use_timestamps=True,
    )


def main() -> None:
    for name, (cls, config) in CHECKPOINTS.items():
        torch.manual_seed(0)
        model = cls(CasitaConfig(**SIZES, **config)).eval()
        model.save_pretrained(HERE / name)
        inputs = windows(model)
        named = {f"input.{key}": value for key, value in inputs.items()}
        named |= {f"output.{key}": value for key, value in outputs(model, inputs).items()}
        save_file(named, HERE / name / "expected.safetensors")
    processor = make_processor()
    processor.save_pretrained(HERE / "processor")
    (HERE / "processor" / "events.json").write_text(json.dumps(EVENTS, indent=1) + "\n")
    save_file(dict(processor(EVENTS, return_tensors="pt")), HERE / "processor" / "expected.safetensors")


if __name__ == "__main__":
    main()
