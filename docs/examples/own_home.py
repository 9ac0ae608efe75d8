"""Read your own home with a trained model, without training: own_home.py MODEL LOG LAYOUT

MODEL is a model directory or a Hub id, LOG a raw log, LAYOUT a JSON file with a position for each sensor.
"""

import sys
from pathlib import Path

from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_table
from casita.datasets_scripts.stages import BuildSettings, build_home
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.inference.model_directory import load_published

model_id, log, layout = sys.argv[1:]
model, processor = load_published(model_id)
vision = processor.vision_model  # the pictures must be embedded by the model's own vision model
seen = SensorEmbeddingTable.load(model_id)

home = HomeFolder("my_home")
stages = ("read", "draw", "embed-images")
build_home(
    home,
    [Path(log)],
    BuildSettings(layout=layout, vision_model=vision, picture_size=seen.image_size, stages=stages),
)
processor.set_home(model, home.image_embeddings(vision), home.layout)

events = read_table(home.events, EVENTS)
vectors = model(**processor(events, return_tensors="pt", unknown="skip")).sensor_embeds
print(f"{len(events):,} events of {home.name}: {len(vectors):,} windows, a vector of {vectors.shape[1]} numbers each")
