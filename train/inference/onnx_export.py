"""Export the sensor tower as ONNX (`casita export`), measured against PyTorch before anybody relies on it.

    OUT/model.onnx        sensor_embeds (B, P) unit rows, last_hidden_state (B, L, C); any B and L
    OUT/model_int8.onnx   with --int8: weights of the linear maps as int8, activations quantised as they come
    OUT/export.json       inputs, outputs, versions, and what was measured
    OUT/README.md         how to load it; the processor and its code lie beside it

The home's table is inside the file: another home is another export.
"""

import argparse
import importlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from casita import __version__
from casita.files import write_beside, write_json
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.inference.model_directory import code_travels, load_published

OUTPUTS = ("sensor_embeds", "last_hidden_state")
SHAPES = ((1, 1), (1, 4), (3, 10), (5, 23), (2, 257))  # windows and events on which the files are compared
TOLERANCE = 1e-4  # float32 sums in another order, through all layers
EXTRA = ("onnx", "onnxruntime", "onnxscript")


class SensorTower(nn.Module):
    """A tower with positional inputs, for the exporter: the tensors of `names`, in this order, to `OUTPUTS`."""

    def __init__(self, model: CasitaModel, names: list[str]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(**dict(zip(self.names, tensors, strict=True)))
        return output.sensor_embeds, output.sensor_model_output.last_hidden_state


def input_names(model: CasitaModel) -> list[str]:
    """Name the tensors that the model reads by its config."""
    config = model.config
    optional = {
        "time_deltas": config.use_time_deltas,
        "coordinates": config.use_coordinates,
        "timestamps": config.alibi_distance == "time",
    }
    return ["input_ids", "attention_mask", *(name for name, used in optional.items() if used)]


def random_windows(model: CasitaModel, windows: int, events: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw windows of any rows of the table; the second is padded on the right, the third left, the fourth inside."""
    rng = np.random.default_rng(seed)
    mask = np.ones((windows, events), dtype=np.int64)
    paddings = (slice(events // 2 + 1, None), slice(0, events // 3), slice(1, events // 2))
    for row, padded in zip(range(1, windows), paddings, strict=False):
        mask[row, padded] = 0
    seconds = rng.exponential(30.0, (windows, events)).astype(np.float32)
    tensors: dict[str, np.ndarray] = {
        "input_ids": rng.integers(0, model.config.vocab_size, (windows, events)),
        "attention_mask": mask,
        "time_deltas": seconds,
        "coordinates": rng.random((windows, events, 2), dtype=np.float32),
        "timestamps": seconds.cumsum(axis=1),
    }
    return {name: tensors[name] for name in input_names(model)}


@torch.inference_mode()
def by_torch(model: CasitaModel, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compute `OUTPUTS` by PyTorch."""
    output = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return [output.sensor_embeds.numpy(), output.sensor_model_output.last_hidden_state.numpy()]


def write_onnx(model: CasitaModel, path: Path) -> None:
    """Trace the tower with free batch and length into one file."""
    names = input_names(model)
    example = random_windows(model, 3, 7)
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            SensorTower(model, names),
            tuple(torch.from_numpy(example[name]) for name in names),
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    path.write_bytes(without_traces(program.model_proto).SerializeToString())


def without_traces(proto: Any) -> Any:
    """Remove the exporter's notes on each node: they name files of this machine and are long."""
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def quantize(source: Path, target: Path) -> None:
    """Write the same graph with int8 weights, a scale for each output, in its matrix products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preparation that the exporter has already done
    try:
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
        )
    finally:
        root.setLevel(level)


def session(path: Path) -> Any:
    """Open an onnxruntime session on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def parity(model: CasitaModel, path: Path) -> dict[str, float]:
    """Measure the largest absolute difference to PyTorch of either output, for each of `SHAPES`.

    Raises:
        RuntimeError: one is above `TOLERANCE`.
    """
    runtime = session(path)
    worst = {}
    for seed, (windows, events) in enumerate(SHAPES):
        inputs = random_windows(model, windows, events, seed)
        pairs = zip(runtime.run(list(OUTPUTS), inputs), by_torch(model, inputs), strict=True)
        worst[f"{windows}x{events}"] = max(float(np.abs(onnx - ours).max()) for onnx, ours in pairs)
    if not max(worst.values()) <= TOLERANCE:  # also when it is not a number
        raise RuntimeError(f"{path.name} differs from PyTorch by {max(worst.values()):.1e}, allowed are {TOLERANCE}.")
    return worst


def cosines(model: CasitaModel, path: Path) -> np.ndarray:
    """Compute cosines `(B,)` of the file's `sensor_embeds` and PyTorch's, on random windows of the home's sensors."""
    inputs = random_windows(model, windows=256, events=20, seed=1)
    return (session(path).run(["sensor_embeds"], inputs)[0] * by_torch(model, inputs)[0]).sum(axis=1)


def require_extra() -> None:
    """Raise a `ValueError` that says what to install when a part of the extra is missing."""
    for name in EXTRA:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ValueError(f"export needs {name}, which is not installed: pip install 'casita[onnx]'.") from None


def export(run: Path | str, out: Path | str, int8: bool = False) -> dict[str, Any]:
    """Write `out` from a run, a model directory or a Hub id; returns what `export.json` holds.

    Raises:
        ValueError: onnx, onnxruntime or onnxscript is missing, or `out` holds something other than an export.
        RuntimeError: the ONNX file does not give PyTorch's numbers; nothing is written then.
    """
    require_extra()
    out = Path(out)
    if out.exists() and not (out / "export.json").is_file():
        raise ValueError(f"{out} exists and holds no export, which would be replaced. Name another folder.")
    model, processor = load_published(run)
    model = model.float()
    with write_beside(out) as folder:
        folder.mkdir()
        write_onnx(model, folder / "model.onnx")
        description = describe(model, folder / "model.onnx")
        if int8:
            quantize(folder / "model.onnx", folder / "model_int8.onnx")
            cosine = cosines(model, folder / "model_int8.onnx")
            description["int8"] = {
                "bytes": (folder / "model_int8.onnx").stat().st_size,
                "mean_cosine": float(cosine.mean()),
                "min_cosine": float(cosine.min()),
            }
        with code_travels(model, processor):
            processor.save_pretrained(folder)
        write_json(folder / "export.json", description)
        (folder / "README.md").write_text(readme(description, processor), encoding="utf-8")
    return description


def describe(model: CasitaModel, path: Path) -> dict[str, Any]:
    """Describe the float32 file for `export.json`, its parity measured."""
    import onnx

    graph = session(path)
    return {
        "casita": __version__,
        "torch": torch.__version__,
        "opset": onnx.load(path).opset_import[0].version,
        "inputs": {x.name: {"type": x.type, "shape": x.shape} for x in graph.get_inputs()},
        "outputs": {x.name: {"type": x.type, "shape": x.shape} for x in graph.get_outputs()},
        "bytes": path.stat().st_size,
        "max_abs_difference": parity(model, path),
    }


def readme(description: Mapping[str, Any], processor: CasitaProcessor) -> str:
    """Render the README: how to use the folder, with what was measured."""
    differences = description["max_abs_difference"]
    lines = [
        "# A Casita sensor tower as ONNX",
        "",
        f"Home: {', '.join(processor.homes) or processor.home}. "
        f"Inputs: {', '.join(description['inputs'])}; outputs: {', '.join(description['outputs'])}.",
        "",
        "```python",
        "import onnxruntime",
        "from transformers import AutoProcessor",
        "",
        'processor = AutoProcessor.from_pretrained(".", trust_remote_code=True)',
        'session = onnxruntime.InferenceSession("model.onnx")',
        'vectors, _ = session.run(None, dict(processor(events, return_tensors="np")))  # (windows, P), unit length',
        "```",
        "",
        f"`model.onnx` ({description['bytes'] / 1e6:.1f} MB): at most {max(differences.values()):.1e} from "
        f"PyTorch at windows x events {', '.join(differences)}, padded on either side and inside.",
    ]
    if "int8" in description:
        int8 = description["int8"]
        lines += [
            "",
            f"`model_int8.onnx` ({int8['bytes'] / 1e6:.1f} MB): cosine to PyTorch's vectors {int8['mean_cosine']:.4f} "
            f"in the mean and {int8['min_cosine']:.4f} at worst, on random windows of the home's sensors.",
        ]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita export`."""
    parser.description = "Write the sensor tower as ONNX and measure it against PyTorch."
    parser.epilog = "example: casita export runs/milan --out exports/milan --int8"
    parser.add_argument("run_dir", metavar="RUN", help="a run folder, a model directory, or a Hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--int8", action="store_true", help="also a variant with int8 weights, its loss measured")


def run(args: argparse.Namespace) -> None:
    """Export, and print what was measured."""
    description = export(args.run_dir, args.out, args.int8)
    print(f"{args.out / 'model.onnx'}: {description['bytes'] / 1e6:.1f} MB", end=", ")
    print(f"at most {max(description['max_abs_difference'].values()):.1e} from PyTorch")
    if args.int8:
        int8 = description["int8"]
        print(f"{args.out / 'model_int8.onnx'}: {int8['bytes'] / 1e6:.1f} MB", end=", ")
        print(f"cosine {int8['mean_cosine']:.4f} (worst {int8['min_cosine']:.4f}) to PyTorch's vectors")
