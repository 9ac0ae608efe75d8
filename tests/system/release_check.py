"""The walk of docs/RELEASING.md, end to end: `make release-check`. No part of the quick suite, since it takes minutes.

Runs the page's own commands and snippets, in its order, against the Hub of `hub_server.py`: builds, trains, evaluates,
pushes all four repositories; then loads and uses each in a fresh environment that has torch, transformers and datasets
alone, and starts the pushed page. Stops at the first thing that is not as the page says.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gradio_client import Client
from hub_server import HubServer
from snippets import ROOT
from space_server import running

PAGE = "docs/RELEASING.md"
WRITE, READ = "hf_write_token_of_ana", "hf_read_token_of_ana"
BARE = (
    "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('casita', 'sentence_transformers', 'gradio'))))"
)
KEEP = "\nimport json\nfrom pathlib import Path\nPath('vectors.json').write_text(json.dumps(vectors.tolist()))\n"
HERE = """
import json, sys
import torch
from casita.train.inference.model_directory import load_published
model, processor = load_published("runs/synthetic")
with torch.inference_mode():
    vectors = model(**processor(json.loads(sys.argv[1]), return_tensors="pt")).sensor_embeds
print(json.dumps(vectors.tolist()))
"""
STRANGER = """
from transformers import pipeline
try:
    pipeline("zero-shot-activity", model="lab/casita-synthetic", device="cpu", trust_remote_code=True)([
        ("2024-01-09 07:30:00", "M004", "ON")], ["somebody cooks", "somebody sleeps"])
except ImportError as error:
    assert "pip install sentence-transformers" in str(error), error
else:
    raise SystemExit("zero-shot-activity answered without sentence-transformers")
"""


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading -> its blocks of bash and Python, in order, as (language, text)."""
    parts = re.split(r"^## (.+)$", (ROOT / PAGE).read_text(encoding="utf-8"), flags=re.M)
    blocks = re.compile(r"^```(bash|python)\n(.*?)^```$", flags=re.M | re.S)
    return {title: blocks.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    yield
    print(f"   ({time.monotonic() - began:.0f} s)", flush=True)


class Walk:
    """A folder in which the page is walked, and the environment of its commands."""

    def __init__(self, folder: Path, hub: HubServer):
        self.folder, self.hub = folder, hub
        self.page = sections()

    def environment(self, token: str, home: str, **more: str) -> dict[str, str]:
        return self.hub.environment(self.folder / home, token) | more

    def commands(self, title: str) -> list[str]:
        """Run the bash lines of a section by this checkout's casita; what each printed."""
        lines = [line for language, text in self.page[title] if language == "bash" for line in text.splitlines()]
        environment = self.environment(WRITE, "hf", PYTHONPATH=str(ROOT))
        outputs = []
        for line in lines:
            print(f"$ {line}", flush=True)
            command = re.sub(r"^casita ", f"{sys.executable} -m casita.cli ", line)
            command = re.sub(r"^python ", f"{sys.executable} ", command)
            outputs.append(self.run(["bash", "-c", command], environment))
        return outputs

    def run(self, command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, errors="replace"
        )
        if done.returncode:
            raise SystemExit(f"{command[-1][:200]}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def fresh(self, source: str, **more: str) -> str:
        """Run Python in the fresh environment, which sees no checkout."""
        environment = self.environment(READ, "fresh_hf", **more)
        environment.pop("PYTHONPATH", None)
        return self.run([str(self.folder / "fresh" / "bin" / "python"), "-I", "-c", source], environment)


def build_train_evaluate(walk: Walk) -> None:
    walk.commands("Build, train, evaluate")
    results = json.loads((walk.folder / "runs" / "synthetic" / "results.json").read_text())
    assert sum(results["data"]["leak_audit"].values()) == 0


def push(walk: Walk) -> None:
    print(walk.commands("Pushing")[1], end="")
    trees = {path.name for path in (walk.folder / "trees").iterdir()}
    assert trees == {"model", "dataset", "embeddings", "space"}, trees
    uploads = [line for line in walk.hub.requests if line.startswith("POST") and "/commit/" in line]
    assert len(uploads) == 4, uploads  # one commit each, and none for the second push
    assert not walk.hub.leaks, walk.hub.leaks


def use(walk: Walk) -> None:
    walk.commands("In a fresh environment")
    walk.fresh(BARE)
    snippets = "\n".join(text for language, text in walk.page["In a fresh environment"] if language == "python")
    print(walk.fresh(snippets + KEEP), end="")
    walk.fresh(STRANGER)
    walk.fresh(snippets.partition("from datasets")[0], HF_HUB_OFFLINE="1")  # from the cache that the first load left
    names: dict[str, list] = {}
    exec(re.search(r"^events = \[.*?^\]$", snippets, flags=re.M | re.S)[0], names)
    environment = walk.environment(READ, "hf", PYTHONPATH=str(ROOT))
    output = walk.run([sys.executable, "-c", HERE, json.dumps(names["events"])], environment)
    expected = json.loads(output.splitlines()[-1])
    got = json.loads((walk.folder / "vectors.json").read_text())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def start_page(walk: Walk) -> None:
    """The page's files as the Hub would start them, its model fetched by name."""
    environment = walk.environment(READ, "page_hf", HF_HUB_OFFLINE="0")
    with running(["app.py"], walk.folder / "page", **environment) as (url, _):
        page = Client(url, verbose=False)
        day = page.predict(api_name="/days")[-1]
        (best, *_) = page.predict("Somebody is cooking a meal.", day, 3, api_name="/search")
        print(f"   {url}: {best['day']} {best['start']} to {best['end']}, {best['room']}, logged as {best['logged']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep everything there (default: a temporary folder, removed)")
    args = parser.parse_args()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    with tempfile.TemporaryDirectory(prefix="casita-release-") as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        hub = HubServer(folder / "hub")
        walk = Walk(folder, hub)
        for title, part in (
            ("build, train, evaluate", build_train_evaluate),
            ("push all four, twice", push),
            ("load and use each in a fresh environment", use),
            ("start the pushed page", start_page),
        ):
            with step(title):
                part(walk)
        hub.shutdown()
    print("\nThe walk is sound.")


if __name__ == "__main__":
    main()
