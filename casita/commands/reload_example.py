"""Use a model as somebody without casita does: load it by the Auto classes, then compare windows with sentences.

Run as a script: reload_example.py MODEL_DIRECTORY FOLDER TEXT_MODEL.
Reads FOLDER/windows.json, writes FOLDER/embeds.json.
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

sys.modules["casita"] = None  # type: ignore[assignment]  # importing it fails from here on, as where it is absent

directory, _, text_model = sys.argv[1:]
folder = Path(sys.argv[2])
request = json.loads((folder / "windows.json").read_text())

model = AutoModel.from_pretrained(directory, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
inputs = processor([window["events"] for window in request["windows"]], return_tensors="pt")
# processor.text_model names the sentence model; here its weights lie in a directory.
sentences = torch.from_numpy(SentenceTransformer(text_model).encode(request["sentences"], normalize_embeddings=True))
with torch.inference_mode():
    output = model(**inputs, text_embeds=sentences)
(folder / "embeds.json").write_text(json.dumps(output.sensor_embeds.tolist()))

print(f"   {type(model).__name__} and {type(processor).__name__}; texts by {processor.text_model}")
print(f"   {'gold activity':<22} {'first event':<20} best of {len(sentences)} sentences")
for window, scores in zip(request["windows"], output.logits_per_sensor.softmax(dim=-1), strict=True):
    best = int(scores.argmax())
    start = window["events"][0][0][:19]
    print(f"   {window['activity']:<22} {start:<20} {scores[best]:.2f}  {request['sentences'][best]}")
