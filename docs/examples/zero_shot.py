"""Activities of your own, described by sentences: zero_shot.py MODEL TEXT_MODEL < events.csv

A line an event: time,sensor,state. TEXT_MODEL is the sentence model's directory, or "-" for the one MODEL names.
"""

import csv
import sys

from transformers import pipeline

ACTIVITIES = {
    "asleep": ["Somebody is asleep in bed.", "It is night, and hardly anything moves."],
    "cooking": ["Somebody is cooking a meal."],
    "away": ["Nobody is at home.", "Somebody has left through the front door."],
}
model, text_model = sys.argv[1:]
where = {} if text_model == "-" else {"text_model": text_model}
ask = pipeline("zero-shot-activity", model=model, trust_remote_code=True, **where)
for row in ask([tuple(line) for line in csv.reader(sys.stdin)], ACTIVITIES, unknown="skip"):
    scores = ", ".join(f"{label} {score:.2f}" for label, score in zip(row["labels"], row["scores"], strict=True))
    print(f"{row['start']} to {row['end']}: {scores}")
