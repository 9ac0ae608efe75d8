"""Files of embedding tables: found, read and written. Nothing here unpickles.

A safetensors file: the vectors as tensor `embeddings`, what was taken off them as `mean` and `whitening` where there
is any, the rest as strings in the header. The older NPZ form holds `embeddings` and `image_keys`, and from here also
what the header would hold.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FILE_NAME = "sensor_embeddings.safetensors"  # in a model directory or a Hub repository
FORMAT_VERSION = "1.0"
LARGEST_NPZ = 4_000_000_000  # bytes when inflated: a million rows of 1024
_STATISTICS = ("mean", "whitening")  # tensors that a file has where the table has them
_HEADER = ("keys", "home", "vision_model", "revision", "output", "image_size", "pictures_hash", "normalization")


def find_table(source: str | os.PathLike, revision: str | None = None) -> Path:
    """Find a table's file: itself, that of a model directory, or that of a Hub repository, fetched into the cache.

    Raises:
        FileNotFoundError: none of these. ValueError: a file of another kind.
    """
    path = Path(source)
    if path.is_dir():
        path /= FILE_NAME
    elif not path.is_file() and path.suffix not in (".safetensors", ".npz"):
        try:
            return Path(hf_hub_download(str(source), FILE_NAME, revision=revision))
        except (OSError, ValueError) as error:  # absent, offline, no such revision, or no repository's name
            reason = str(error).partition("\n")[0]
            raise FileNotFoundError(
                f"{source}: no file, no folder, no Hub repository with a {FILE_NAME} "
                f"({type(error).__name__}: {reason})."
            ) from None
    check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such embedding table. Make one: casita embed-images.")
    return path


def check_suffix(path: Path) -> None:
    """Raise `ValueError` unless the name is a table's."""
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: an embedding table is a .safetensors file, or an older .npz file.")


def read_table(path: Path) -> dict[str, Any]:
    """Read the arguments of `SensorEmbeddingTable` from a file.

    Raises:
        ValueError: another format, missing metadata, pickled objects; the file is named.
    """
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_npz(path)
    except (ValueError, KeyError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: no sound embedding table: {error}") from None


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write the arguments of `SensorEmbeddingTable`, whole or not at all; equal tables give equal bytes."""
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        _write(temporary, table)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, table: Mapping[str, Any]) -> None:
    texts = {name: str(table[name] or "") for name in _HEADER if name != "keys"}
    header = {"format_version": FORMAT_VERSION, **texts}
    if table["homes"]:
        header["homes"] = json.dumps(table["homes"], ensure_ascii=False)
    tensors = {"embeddings": np.ascontiguousarray(table["embeddings"])}
    for name in _STATISTICS:
        if table[name] is not None:
            tensors[name] = np.ascontiguousarray(table[name], dtype=np.float32)
    if path.suffix == ".safetensors":
        keys = {"keys": json.dumps(table["keys"], ensure_ascii=False)}
        path.write_bytes(_ordered(save(tensors, metadata={**header, **keys})))
        return
    pairs = [key.rpartition("_")[::2] for key in table["keys"]]
    older = {
        "image_keys": np.array(table["keys"]),
        "sensor_ids": np.array([sensor for sensor, _ in pairs]),
        "states": np.array([state for _, state in pairs]),
        "embedding_dim": np.array(table["embeddings"].shape[1]),
        "model_name": np.array(table["vision_model"]),
    }
    arrays: dict[str, Any] = {**tensors, **older, **{name: np.array(text) for name, text in header.items()}}
    np.savez(path, **arrays)


def _ordered(data: bytes) -> bytes:
    """Sort the metadata of a safetensors file by name: the library's order is another one each time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        names = set(file.keys())
        if missing := [name for name in _HEADER if name not in header] + sorted({"embeddings"} - names):
            raise ValueError(f"it lacks {', '.join(missing)}. Write it with SensorEmbeddingTable.save.")
        embeddings = file.get_tensor("embeddings")
        statistics = {name: file.get_tensor(name) for name in _STATISTICS if name in names}
    return _arguments(header, json.loads(header["keys"]), embeddings, statistics)


def _read_npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        inflated = sum(member.file_size for member in archive.infolist())
    if inflated > LARGEST_NPZ:
        raise ValueError(f"it inflates to {inflated:,} bytes, expected at most {LARGEST_NPZ:,}.")
    with np.load(path, allow_pickle=False) as file:
        if missing := sorted({"embeddings", "image_keys"} - set(file.files)):
            raise ValueError(f"it lacks {', '.join(missing)}; found: {', '.join(file.files)}.")
        header = {name: str(file[name]) for name in (*_HEADER, "homes", "model_name") if name in file.files}
        keys = file["image_keys"].tolist()  # this line and the next raise on pickled objects
        embeddings = file["embeddings"].astype(np.float32)
        statistics = {name: file[name] for name in _STATISTICS if name in file.files}
    unit = np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    header.setdefault("vision_model", header.get("model_name", ""))
    header.setdefault("normalization", "l2" if unit else "none")
    return _arguments(header, keys, embeddings, statistics)


def _arguments(
    header: Mapping[str, str], keys: list[str], embeddings: np.ndarray, statistics: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "keys": keys,
        "embeddings": embeddings,
        "home": header.get("home", ""),
        "vision_model": header["vision_model"],
        "revision": header.get("revision") or None,
        "output": header.get("output", ""),
        "image_size": int(header.get("image_size") or 0),
        "pictures_hash": header.get("pictures_hash", ""),
        "normalization": header["normalization"],
        **{name: statistics.get(name) for name in _STATISTICS},
        "homes": json.loads(header.get("homes", "[]")),
    }
