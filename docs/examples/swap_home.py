"""Read another home with the same checkpoint, without casita installed: swap_home.py MODEL TABLE

TABLE holds the other home's picture embeddings, which `casita embed-images` writes. The weights stay as they are.
"""

import sys

import torch
from transformers import AutoModel, AutoProcessor

model_id, table = sys.argv[1:]
model = AutoModel.from_pretrained(model_id, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(model_id, trust_remote_code=True)
weights = {name: value.clone() for name, value in model.named_parameters()}
first = processor.home

processor.set_home(model, table)
assert all(torch.equal(weights[name], value) for name, value in model.named_parameters())

sensor, _, state = processor.vocab[0].rpartition("_")
with torch.inference_mode():
    vector = model(**processor([("2024-05-01 08:00:00", sensor, state)], return_tensors="pt")).sensor_embeds[0]
print(f"from {first} to {processor.home}: {len(processor.vocab)} states, {sensor} {state} at {vector[:3].tolist()}")
