"""Speed and memory of Casita beside its peers, in one run: `casita benchmark`.

Every variant has the same width, depth, heads, feed-forward size, dropout and number of positions (a CLS token and `L`
events), reads the same windows, all full, and gives one vector a window. The rounds are interleaved (each runs every
variant once, in another order) and a ratio is the median over the rounds of the ratio within a round, so a machine
that others use at the same time slows all of them alike.

Matrix products are counted by formula, the same for all: a position costs `8 C^2 + 4 C F + 4 S C` a layer (query, key,
value and output; feed-forward; attention among `S = 1 + L` positions), a backward pass twice its forward. The share is
what a variant reaches of the rate of one large product of the same dtype, timed in the same rounds.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm
from transformers import BertConfig, BertModel

from casita.files import write_json
from casita.modeling.configuration_casita import NUM_RESERVED_ROWS, PRESETS, CasitaConfig
from casita.modeling.modeling_casita import CasitaModel

ROWS = 80  # sensor states of a home
IMAGE_WIDTH = 512  # CLIP's
DROPOUT = 0.1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case on which all variants are measured."""

    preset: str
    length: int
    precision: str
    mode: str  # forward | train
    batch: int
    attention_dropout: float = DROPOUT

    @property
    def flops(self) -> int:
        """Count the operations of a step's matrix products by the formula above, without other projections."""
        size = PRESETS[self.preset]
        width = size["hidden_size"]
        positions = 1 + self.length
        layer = 8 * width**2 + 4 * width * size["intermediate_size"] + 4 * positions * width
        forward = self.batch * positions * size["num_hidden_layers"] * layer
        return forward * (3 if self.mode == "train" else 1)


# ----------------------------------------------------------------------------------------------------------- variants
class Casita(nn.Module):
    """Casita's sensor tower: `(B, L)` ids and mask to `(B, P)`."""

    def __init__(self, case: Case, source: str):
        super().__init__()
        config = CasitaConfig.from_preset(
            case.preset,
            embedding_source=source,
            vocab_size=NUM_RESERVED_ROWS + ROWS,
            image_embedding_dim=IMAGE_WIDTH,
            text_embedding_dim=1,
            num_sensors=ROWS // 2,
            num_states=2,
            hidden_dropout=DROPOUT,
            attention_dropout=case.attention_dropout,
        )
        self.model = CasitaModel(config)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).sensor_embeds


class Bert(nn.Module):
    """transformers' BertModel with sdpa; `(B, L)` ids and mask to `(B, C)`."""

    def __init__(self, case: Case):
        super().__init__()
        sizes: dict[str, Any] = {name: size for name, size in PRESETS[case.preset].items() if name != "projection_dim"}
        config = BertConfig(
            vocab_size=NUM_RESERVED_ROWS + ROWS,
            max_position_embeddings=1 + case.length,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=case.attention_dropout,
            **sizes,
        )
        self.model = BertModel._from_config(config, attn_implementation="sdpa")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ids = nn.functional.pad(ids, (1, 0))
        mask = nn.functional.pad(mask, (1, 0), value=1)
        return self.model(input_ids=ids, attention_mask=mask).pooler_output


class TorchEncoder(nn.Module):
    """torch's own encoder, pre-norm, without a mask: the windows are full. `(B, L)` ids to `(B, C)`."""

    def __init__(self, case: Case):
        super().__init__()
        size = PRESETS[case.preset]
        width = size["hidden_size"]
        self.embedding = nn.Embedding(NUM_RESERVED_ROWS + ROWS, width)
        self.position = nn.Parameter(torch.randn(1 + case.length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            size["num_attention_heads"],
            size["intermediate_size"],
            DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        layer.self_attn.dropout = case.attention_dropout
        self.encoder = nn.TransformerEncoder(
            layer, size["num_hidden_layers"], nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.embedding(nn.functional.pad(ids, (1, 0))) + self.position)[:, 0]


VARIANTS: dict[str, Callable[[Case], nn.Module]] = {
    "image": lambda case: Casita(case, "image"),
    "learned": lambda case: Casita(case, "learned"),
    "bert": Bert,
    "torch": TorchEncoder,
}


# ---------------------------------------------------------------------------------------------------------- measuring
class Step:
    """A step of variant `name`, forward or forward and backward; a call returns the model's output `(B, ...)`."""

    def __init__(self, name: str, case: Case, device: str, seed: int = 0):
        torch.manual_seed(seed)
        self.trains = case.mode == "train"
        self.model = VARIANTS[name](case).to(device).train(self.trains)
        shape = (case.batch, case.length)
        self.ids = torch.randint(NUM_RESERVED_ROWS, NUM_RESERVED_ROWS + ROWS, shape, device=device)
        self.mask = torch.ones_like(self.ids)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16")

    def __call__(self) -> torch.Tensor:
        self.model.zero_grad(set_to_none=True)
        with torch.inference_mode(not self.trains), self.autocast:
            output = self.model(self.ids, self.mask)
        if self.trains:
            output.float().square().sum(dim=0)[::2].sum().backward()  # all of a unit row's squares would be constant
        return output.detach()


def make_matmul(precision: str, device: str) -> tuple[Callable[[], torch.Tensor], int]:
    """Make a product of two large square matrices, and count its operations."""
    n = MATMUL_SIZE[device]
    a, b, out = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in range(3))
    return lambda: torch.mm(a, b, out=out), 2 * n**3


def interleave(
    steps: Mapping[str, Callable[[], Any]], rounds: int, device: str, clock: Callable[[], float]
) -> Iterator[dict[str, float]]:
    """Time every step in each round, in seconds, after one that is not counted."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for turn in range(-1, rounds):
        names = list(steps)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        seconds = {}
        for name in names:
            synchronize()
            began = clock()
            steps[name]()
            synchronize()
            seconds[name] = clock() - began
        if turn >= 0:
            yield seconds


def peak_mib(step: Callable[[], Any], device: str) -> float:
    """Measure the most memory that torch holds during `step` beyond what it held before, in MiB."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    in_use = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(in_use, default=0) / 2**20


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep the profiler's library from reporting its every start and stop, which no setting of it prevents."""
    with open(os.devnull, "w") as nothing:
        kept = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def measure(case: Case, variants: list[str], rounds: int, device: str, clock: str) -> list[dict[str, Any]]:
    """Measure a row for each variant: median ms, share of the matrix product's rate, peak memory, ratios to peers."""
    models = {name: Step(name, case, device) for name in variants}
    memory = {}
    for name, step in models.items():
        at_rest = sum(tensor.nbytes for tensor in [*step.model.parameters(), *step.model.buffers()])
        memory[name] = at_rest / 2**20 + peak_mib(step, device)
    matmul, matmul_flops = make_matmul(case.precision, device)
    seconds = list(interleave({**models, "matmul": matmul}, rounds, device, CLOCKS[clock]))
    matmul_rate = matmul_flops / statistics.median(s["matmul"] for s in seconds)
    rows = []
    for name in variants:
        median = statistics.median(s[name] for s in seconds)
        share = statistics.median(case.flops / s[name] * s["matmul"] / matmul_flops for s in seconds)
        faster = {other: statistics.median(s[other] / s[name] for s in seconds) for other in variants if other != name}
        rows.append(
            {
                **vars(case),
                "variant": name,
                "ms": median * 1e3,
                "windows_per_s": case.batch / median,
                "faster_than": faster,
                "gflop_per_s": round(case.flops / median / 1e9, 1),
                "matmul_gflop_per_s": round(matmul_rate / 1e9, 1),
                "share_of_matmul": share,
                "peak_mib": round(memory[name], 1),
            }
        )
    return rows


def machine(device: str) -> dict[str, Any]:
    """Describe the machine, so that a reader can compare figures with their own."""
    facts = {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
    if device == "cuda":
        return {**facts, "gpu": torch.cuda.get_device_name()}
    instructions = {"avx512_bf16": torch.cpu._is_avx512_bf16_supported(), "amx": torch.cpu._is_amx_tile_supported()}
    return {**facts, "vectors": torch.backends.cpu.get_cpu_capability(), **instructions}


# ---------------------------------------------------------------------------------------------------------- the table
def table(rows: list[dict[str, Any]]) -> str:
    """Render a Markdown table, a row for each variant and case."""
    head = ["preset", "L", "B", "dtype", "mode", "variant", "ms", "x bert", "x torch", "x learned", "of matmul", "MiB"]
    lines = [head, ["---"] * 6 + ["---:"] * 6]
    for row in rows:
        case = [row["preset"], row["length"], row["batch"], row["precision"], row["mode"], row["variant"]]
        ratios = [row["faster_than"].get(other) for other in ("bert", "torch", "learned")]
        lines.append(
            [
                *map(str, case),
                f"{row['ms']:,.1f}",
                *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                f"{row['share_of_matmul']:.0%}",
                f"{row['peak_mib']:,.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cases(args: argparse.Namespace) -> list[Case]:
    """Combine what the options name, every combination a case."""
    return [
        Case(
            preset=preset,
            length=length,
            precision=precision,
            mode=mode,
            batch=args.batch,
            attention_dropout=args.attention_dropout,
        )
        for preset, length, precision, mode in itertools.product(args.preset, args.length, args.precision, args.mode)
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita benchmark`."""
    parser.description = "Speed and memory of Casita beside BertModel (sdpa) and nn.TransformerEncoder of equal size."
    parser.epilog = "example: casita benchmark --preset tiny --length 20 50 --batch 32 --out benchmark.json"
    parser.add_argument("--preset", nargs="+", default=["tiny", "base"], choices=list(PRESETS))
    parser.add_argument("--length", nargs="+", type=int, default=[20, 50, 256], metavar="L", help="events a window")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=list(DTYPES))
    parser.add_argument("--mode", nargs="+", default=["forward", "train"], choices=["forward", "train"])
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=128, help="windows a step (default %(default)s)")
    parser.add_argument("--attention-dropout", type=float, default=DROPOUT, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="the medians are over so many (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="cpu: this process's own time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the figures")


def run(args: argparse.Namespace) -> None:
    """Measure all cases, and print or keep the figures."""
    if min(args.rounds, args.batch, *args.length) < 1:
        raise ValueError("--rounds, --batch and --length must be at least 1.")
    if args.device == "cuda" and (args.clock == "cpu" or not torch.cuda.is_available()):
        raise ValueError("--device cuda needs a GPU that torch sees, and --clock wall.")
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = []
    for case in tqdm(cases(args), desc="benchmark", unit=" cases"):
        rows += measure(case, args.variant, args.rounds, args.device, args.clock)
    figures = {"machine": machine(args.device), "clock": args.clock, "rounds": args.rounds, "rows": rows}
    if args.out:
        write_json(args.out, figures)
    if args.json:
        print(json.dumps(figures))
        return
    print(", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    for precision in args.precision:
        rates = [row["matmul_gflop_per_s"] for row in rows if row["precision"] == precision]
        print(f"one large matrix product, {precision}: {min(rates):,.0f} to {max(rates):,.0f} GFLOP/s")
    print(table(rows))
