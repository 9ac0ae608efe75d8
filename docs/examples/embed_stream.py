"""Embed events as they happen, without casita installed: embed_stream.py MODEL < events.csv

A line an event: time,sensor,state. Prints a line for each window as soon as it is due.
"""

import csv
import sys

from transformers import pipeline

stream = pipeline("sensor-embedding", model=sys.argv[1], trust_remote_code=True).open_stream(unknown="skip")
due = (stream.push((time, sensor, state)) for time, sensor, state in csv.reader(sys.stdin))
for row in due:
    if row is not None:
        print(f"{row['start']} to {row['end']}: {row['events']} events, vector {row['vector'][:3].round(3)} ...")
if (row := stream.flush()) is not None:
    print(f"{row['start']} to {row['end']}: {row['events']} events at the end of the stream")
