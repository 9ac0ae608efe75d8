"""Image embeddings: every picture of a home goes once through a frozen vision model; the vectors are the frozen table.

| short name | model | output | D |
|---|---|---|---|
| `clip` | openai/clip-vit-base-patch32 | projected (the space that CLIP shares with its text tower) | 512 |
| `dinov2` | facebook/dinov2-base | CLS token after the last norm | 768 |
| `siglip` | google/siglip-base-patch16-224 | pooled by the attention head | 768 |
| `pixels` | none: the picture averaged over 16 x 16 cells, a control that has learned nothing | pixels | 768 |

Anything else is a Hub id or a folder; its output is what its architecture offers first among: image features
(`get_image_features`, projected or pooled), the CLS token, the pooled output.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel

from casita.datasets_scripts.pictures.files import open_picture
from casita.datasets_scripts.schema import HomeFolder, add_folder_argument, home_folders, slug, writes
from casita.files import hash_file, read_json, write_beside
from casita.processing.sensor_embeddings import NORMALIZATIONS, SensorEmbeddingTable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PIXEL_CELLS = 16  # a side: 16 * 16 * 3 = 768 values, as wide as the base-sized models


@dataclass(frozen=True, kw_only=True)
class VisionModel:
    """A vision model with a short name: its Hub id (None: no model), the output taken, its length D."""

    model_id: str | None
    output: str
    width: int


VISION_MODELS: dict[str, VisionModel] = {
    "clip": VisionModel(model_id="openai/clip-vit-base-patch32", output="projected", width=512),
    "dinov2": VisionModel(model_id="facebook/dinov2-base", output="cls", width=768),
    "siglip": VisionModel(model_id="google/siglip-base-patch16-224", output="pooled", width=768),
    "pixels": VisionModel(model_id=None, output="pixels", width=PIXEL_CELLS * PIXEL_CELLS * 3),
}


class VisionEncoder(Protocol):
    """A frozen encoder of pictures into vectors; `output` and `revision` say what the vectors are."""

    output: str
    revision: str | None

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Encode RGB pictures into `(B, D)` float32, not normalised."""
        ...


class PixelEncoder:
    """An encoder that averages a picture over 16 x 16 cells: `(B, 768)` in [0, 1], ordered row, column, channel."""

    output: str = "pixels"
    revision: str | None = None

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        pooled = []
        for picture in pictures:
            down = cell_weights(picture.height)
            across = cell_weights(picture.width)
            pixels = np.asarray(picture, np.float64) / 255
            pooled.append(np.einsum("iy,yxc,jx->ijc", down, pixels, across, optimize=True))
        return np.stack(pooled).reshape(len(pooled), -1).astype(np.float32)


@cache
def cell_weights(side: int) -> np.ndarray:
    """Return `(16, side)`: the share of each pixel in each cell's mean; a pixel across a border counts for both."""
    borders = np.arange(PIXEL_CELLS + 1) * side / PIXEL_CELLS
    pixel = np.arange(side)
    overlap = np.minimum(borders[1:, None], pixel + 1) - np.maximum(borders[:-1, None], pixel)
    return np.maximum(overlap, 0) * PIXEL_CELLS / side


class HubEncoder:
    """A vision model of the Hub or of a folder, with its own image processor.

    Raises:
        ValueError: the model is not there and cannot be fetched, or it has no vision output.
    """

    def __init__(self, model_id: str, *, revision: str | None, device: torch.device, dtype: torch.dtype):
        try:
            # PIL, not torchvision: the same vectors on every machine, whether torchvision is installed or not
            # and never a model's own code: who wants a model that needs it can export its vectors
            known = {"revision": revision, "trust_remote_code": False}
            self.processor = AutoImageProcessor.from_pretrained(model_id, backend="pil", **known)
            self.model = AutoModel.from_pretrained(model_id, dtype=dtype, **known).to(device).eval()
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"vision model {model_id!r} asks to run code of its own, which casita never does. Choose one whose "
                "architecture transformers knows."
            ) from None
        except OSError as error:
            raise ValueError(
                f"vision model {model_id!r}: no folder with a model and image processor, not in the local cache, and "
                f"the Hub did not give it. Give a folder, or --vision-model pixels, which needs no model."
            ) from error
        self.output = output_of(self.model)
        self.revision = getattr(self.model.config, "_commit_hash", None)
        self.uncropped = uncropped(self.processor)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        pixels = self.processor(images=list(pictures), return_tensors="pt", **self.uncropped)["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)
        if hasattr(self.model, "get_image_features"):
            vectors = self.model.get_image_features(pixel_values=pixels).pooler_output
        else:
            out = self.model(pixel_values=pixels)
            vectors = out.last_hidden_state[:, 0] if self.output == "cls" else out.pooler_output
        return vectors.flatten(1).float().cpu().numpy()


def output_of(model: torch.nn.Module) -> str:
    """Return which output to take from a vision model: `"projected"`, `"pooled"` or `"cls"`.

    `ValueError` when the architecture has none of them.
    """
    parts = {name.rpartition(".")[2] for name, _ in [*model.named_parameters(), *model.named_modules()]}
    if hasattr(model, "get_image_features"):
        return "projected" if "visual_projection" in parts else "pooled"
    if "cls_token" in parts:
        return "cls"
    if parts & {"pooler", "head", "post_layernorm"}:
        return "pooled"
    raise ValueError(
        f"{type(model).__name__} has no image features, no CLS token and no pooled output. "
        f"Choose another vision model, such as {', '.join(VISION_MODELS)}."
    )


def uncropped(processor: Any) -> dict[str, Any]:
    """Return arguments by which an image processor scales a square picture to the side of its crop, and crops none.

    DINOv2's scales to 256 and keeps the middle 224: made for photographs, it would cut off sensors along the walls.
    """
    if not getattr(processor, "do_center_crop", False):
        return {}
    crop = processor.crop_size
    return {"do_center_crop": False, "size": {"height": crop["height"], "width": crop["width"]}}


def load_vision_model(
    name: str, *, revision: str | None = None, device: str | None = None, dtype: str = "float32"
) -> VisionEncoder:
    """Load the encoder behind a short name, a Hub id or a folder; `ValueError` when it cannot be had."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; known: {', '.join(DTYPES)}.")
    model_id = VISION_MODELS[name].model_id if name in VISION_MODELS else name
    if model_id is None:
        return PixelEncoder()
    chosen_device = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return HubEncoder(model_id, revision=revision, device=chosen_device, dtype=DTYPES[dtype])


def embed_pictures(
    encoder: VisionEncoder, paths: Sequence[Path], *, batch_size: int = 32, progress: bool = True
) -> np.ndarray:
    """Embed picture files: `(N, D)` float32, not normalised; a batch of files is in memory at a time."""
    if batch_size < 1 or not paths:
        raise ValueError(f"batch_size={batch_size} and {len(paths)} pictures: expected at least one of each.")
    rows = []
    with tqdm(total=len(paths), desc="embed images", unit="picture", disable=not progress) as bar:
        for start in range(0, len(paths), batch_size):
            batch = [_read_picture(path) for path in paths[start : start + batch_size]]
            rows.append(encoder(batch))
            bar.update(len(batch))
    return np.concatenate(rows)


def _read_picture(path: Path) -> Image.Image:
    try:
        return open_picture(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture, though index.json names it. Run: casita draw") from None
    except ValueError as error:
        raise ValueError(f"{error} Run: casita draw") from None


@writes("embed-images")
def embed_home(
    folder: HomeFolder,
    vision_model: str = "clip",
    normalization: str = "center",
    batch_size: int = 32,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    progress: bool = True,
    load: Callable[[], VisionEncoder] | None = None,
) -> SensorEmbeddingTable | None:
    """Embed a home's pictures into `image_embeddings/<vision model>.safetensors`.

    Args:
        folder: the home, drawn already.
        vision_model: `clip`, `dinov2`, `siglip`, `pixels`, a Hub id or a folder.
        normalization: `none`, `l2`, `center`: the home's mean picture vector subtracted, then unit rows, or `whiten`:
            the mean subtracted, then the directions brought to like variance, then unit rows.
        batch_size: pictures at a time; changes nothing but speed and memory.
        device: such as `cuda:1`; by default the best that is there.
        dtype: of the weights, `float32` or `bfloat16`; the table is float32 always.
        revision: commit, branch or tag of a Hub model.
        load: gives the model, where several homes share one.

    Returns:
        The table, or None when the file is up to date.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization={normalization!r} is unknown; known: {', '.join(NORMALIZATIONS)}.")
    index_path = folder.require(folder.pictures / "index.json", "draw")
    stage = f"embed-images:{slug(vision_model)}"
    path = folder.image_embeddings(vision_model)
    settings = {"vision_model": vision_model, "normalization": normalization, "dtype": dtype, "revision": revision}
    known = VISION_MODELS.get(vision_model)
    is_folder = known is None and Path(vision_model).is_dir()
    inputs = [folder.pictures, *([Path(vision_model)] if is_folder else [])]
    if folder.is_current(stage, settings, inputs):
        return None
    index: dict[str, str] = read_json(index_path)
    paths = [folder.pictures / name for name in index.values()]
    encoder = load() if load else load_vision_model(vision_model, revision=revision, device=device, dtype=dtype)
    vectors = embed_pictures(encoder, paths, batch_size=batch_size, progress=progress)
    with Image.open(paths[0]) as first:
        side = first.width
    table = SensorEmbeddingTable.build(
        list(index),
        vectors,
        home=folder.name,
        vision_model=(known.model_id if known else None) or vision_model,  # to be looked up without casita
        output=encoder.output,
        normalization=normalization,
        revision=encoder.revision,
        image_size=side,
        pictures_hash=hash_file(folder.pictures),
    )
    with write_beside(path) as temporary:
        table.save(temporary)
    folder.record(stage, settings, inputs, [path], {"rows": len(index), "width": table.width, "output": table.output})
    return table


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--vision-model` and `--normalization`, as `casita embed-images` and `casita build` take them."""
    parser.add_argument("--vision-model", default="clip", help="short name, Hub id or folder (default: %(default)s)")
    parser.add_argument(
        "--normalization",
        default="center",
        choices=NORMALIZATIONS,
        help="l2: unit length; center: less the home's mean vector, then unit length; whiten: less the mean, then "
        "whitened with the home's own covariance (ZCA), then unit length (default: %(default)s)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita embed-images`."""
    known = [
        f"{name} ({model.model_id or 'no model, a control'}: {model.output}, {model.width})"
        for name, model in VISION_MODELS.items()
    ]
    parser.description = "Pass every picture of a home once through a frozen vision model."
    parser.epilog = (
        f"short names: {', '.join(known)}\n"
        "example: casita embed-images homes/milan --vision-model dinov2 --batch-size 64"
    )
    add_folder_argument(parser)
    add_model_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--device", help="such as cuda:1 (default: the best that is there)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the weights (default: %(default)s)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub model")


def run(args: argparse.Namespace) -> None:
    """Run `casita embed-images DIR`."""
    options = {"device": args.device, "dtype": args.dtype, "revision": args.revision}
    load = cache(lambda: load_vision_model(args.vision_model, **options))  # once for all homes, if at all
    for folder in home_folders(args.dir):
        table = embed_home(folder, args.vision_model, args.normalization, args.batch_size, load=load, **options)
        result = f"{len(table.keys)} rows of {table.width}, output {table.output}" if table else "up to date"
        print(f"{folder.image_embeddings(args.vision_model)}: {result}")
