"""Image embeddings, with tiny random checkpoints of the three real architectures and their real image processors."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from casita.cli import main
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.pictures.draw import draw_home
from casita.datasets_scripts.pictures.image_embeddings import (
    VISION_MODELS,
    HubEncoder,
    embed_home,
    embed_pictures,
    load_vision_model,
)
from casita.datasets_scripts.schema import EVENTS, HomeFolder, write_table
from casita.processing.sensor_embeddings import SensorEmbeddingTable, normalize

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**VISION, "vocab_size": 50, "max_position_embeddings": 16}
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_checkpoint(kind: str, folder: Path) -> Path:
    """A tiny checkpoint of a real architecture, 224 px pictures; weights large enough for pictures to differ."""
    torch.manual_seed(0)
    if kind == "clip":
        vision = CLIPVisionConfig(**VISION, patch_size=32)
        config = CLIPConfig(text_config=CLIPTextConfig(**TEXT), vision_config=vision, projection_dim=24)
        model, processor = CLIPModel(config), CLIPImageProcessorPil()
    elif kind == "clip_vision":
        model, processor = CLIPVisionModel(CLIPVisionConfig(**VISION, patch_size=32)), CLIPImageProcessorPil()
    elif kind == "dinov2":
        model = Dinov2Model(
            Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}, image_size=224)
        )
        # as in facebook/dinov2-base
        processor = BitImageProcessorPil(
            size={"shortest_edge": 256},
            crop_size={"height": 224, "width": 224},
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
        )
    else:
        vision = SiglipVisionConfig(**VISION, image_size=224)
        model = SiglipModel(SiglipConfig(text_config=SiglipTextConfig(**TEXT), vision_config=vision))
        processor = SiglipImageProcessorPil(size={"height": 224, "width": 224})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(kind, root / kind) for kind in ("clip", "clip_vision", "dinov2", "siglip")}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    folder = HomeFolder(tmp_path_factory.mktemp("home"))
    folder.describe(home="kasteren_a", layout=load_layout("kasteren_a"))
    write_table(folder.events, pa.Table.from_pylist([], schema=EVENTS), EVENTS)
    draw_home(folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def paths(home) -> list[Path]:
    return sorted(home.pictures.glob("*.png"))[:5]


def pixel_values(paths: list[Path], mean: list[float], std: list[float]) -> torch.Tensor:
    """`(B, 3, 224, 224)`: what every processor should do with a whole picture of 224 px, by hand."""
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB"), np.float64) for path in paths]) / 255
    return torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)


@torch.no_grad()
def by_hand(kind: str, checkpoint: Path, paths: list[Path]) -> np.ndarray:
    """The documented output, from the parts of the model, one picture at a time."""
    classes = {"clip": CLIPModel, "clip_vision": CLIPVisionModel, "dinov2": Dinov2Model, "siglip": SiglipModel}
    model = classes[kind].from_pretrained(checkpoint).eval()
    rows = []
    for path in paths:
        if kind == "siglip":
            rows.append(model.vision_model(pixel_values([path], [0.5] * 3, [0.5] * 3)).pooler_output)
            continue
        if kind == "dinov2":
            rows.append(model(pixel_values([path], IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 0])
            continue
        pixels = pixel_values([path], CLIP_MEAN, CLIP_STD)
        if kind == "clip_vision":
            rows.append(model(pixels).pooler_output)
        else:
            hidden = model.vision_model(pixels).last_hidden_state[:, 0]
            rows.append(model.vision_model.post_layernorm(hidden) @ model.visual_projection.weight.T)
    return torch.cat(rows).numpy()


@pytest.mark.parametrize(
    ("kind", "output", "width"),
    [("clip", "projected", 24), ("clip_vision", "pooled", 32), ("dinov2", "cls", 32), ("siglip", "pooled", 32)],
)
def test_each_architecture_gives_its_documented_output(checkpoints, paths, kind, output, width):
    encoder = load_vision_model(str(checkpoints[kind]), device="cpu")
    vectors = embed_pictures(encoder, paths, progress=False)
    assert (encoder.output, vectors.shape, vectors.dtype) == (output, (len(paths), width), np.float32)
    expected = by_hand(kind, checkpoints[kind], paths)
    np.testing.assert_allclose(vectors, expected, atol=2e-5)  # float32 sums in another order
    assert np.abs(expected - expected[0]).max() > 1e-3  # else the line above could not distinguish pictures
    if kind in VISION_MODELS:
        assert VISION_MODELS[kind].output == output


@pytest.mark.parametrize("kind", ["clip", "dinov2", "siglip", "pixels"])
def test_the_batch_size_changes_nothing(checkpoints, paths, kind):
    encoder = load_vision_model(str(checkpoints.get(kind, kind)), device="cpu")
    together, alone = (embed_pictures(encoder, paths, batch_size=n, progress=False) for n in (5, 1))
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_dot_on_the_plans_edge_is_seen_by_dinov2_whose_own_processor_would_crop_it_away(checkpoints):
    blank = Image.new("RGB", (224, 224), (255, 255, 255))
    edge = blank.copy()
    edge.paste((213, 94, 0), (0, 100, 10, 110))
    encoder = load_vision_model(str(checkpoints["dinov2"]), device="cpu")
    assert isinstance(encoder, HubEncoder)
    cropped = encoder.processor(images=[blank, edge], return_tensors="pt")["pixel_values"]
    assert torch.equal(cropped[0], cropped[1])
    vectors = encoder([blank, edge])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_bfloat16_is_float32_roughly(checkpoints, paths):
    full, half = (
        embed_pictures(load_vision_model(str(checkpoints["dinov2"]), device="cpu", dtype=dtype), paths, progress=False)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    assert np.abs(full - half).max() < 0.1  # 8 bits of mantissa, values of size 1 to 3, two layers


@pytest.mark.parametrize("side", [224, 100])
def test_pixels_is_the_mean_of_16_by_16_cells(side):
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    vector = load_vision_model("pixels")([Image.fromarray(picture)])[0]
    # every pixel 16 times in each direction: cells become whole blocks whatever the side
    fine = picture.repeat(16, axis=0).repeat(16, axis=1).reshape(16, side, 16, side, 3)
    np.testing.assert_allclose(vector, fine.mean(axis=(1, 3)).ravel() / 255, atol=1e-5)
    assert vector.shape == (VISION_MODELS["pixels"].width,)


def test_a_home_is_embedded_once_and_the_table_says_how(checkpoints, home):
    model = str(checkpoints["clip"])
    table = embed_home(home, model, batch_size=5, device="cpu", progress=False)
    assert embed_home(home, model, batch_size=9, device="cpu", progress=False) is None
    stored = SensorEmbeddingTable.load(home.image_embeddings(model))
    assert np.array_equal(stored.embeddings, table.embeddings)
    assert (stored.home, stored.output, stored.image_size) == ("kasteren_a", "projected", 224)
    assert (stored.vision_model, stored.normalization, stored.revision) == (model, "center", None)
    paths = [home.pictures / f"{key}.png" for key in stored.keys]
    raw = embed_pictures(load_vision_model(model, device="cpu"), paths, progress=False)
    rows, mean, _ = normalize(raw, "center")
    np.testing.assert_allclose(stored.embeddings, rows, atol=1e-4)
    np.testing.assert_allclose(stored.mean, mean, atol=1e-5)
    assert embed_home(home, model, "l2", device="cpu", progress=False).mean is None


def test_new_pictures_or_new_weights_are_embedded_anew(home, tmp_path):
    checkpoint = make_checkpoint("siglip", tmp_path / "siglip")
    first = embed_home(home, str(checkpoint), device="cpu", progress=False)
    torch.manual_seed(5)
    model = SiglipModel.from_pretrained(checkpoint)
    torch.nn.init.normal_(model.vision_model.post_layernorm.weight)
    model.save_pretrained(checkpoint)
    second = embed_home(home, str(checkpoint), device="cpu", progress=False)
    assert np.abs(first.embeddings - second.embeddings).max() > 0.01
    draw_home(home, radius=0.06, progress=False)
    third = embed_home(home, str(checkpoint), device="cpu", progress=False)
    assert third.pictures_hash != second.pictures_hash
    draw_home(home, palette="okabe-ito", progress=False)
    fourth = embed_home(home, str(checkpoint), device="cpu", progress=False)
    assert fourth.pictures_hash not in (second.pictures_hash, third.pictures_hash)
    draw_home(home, progress=False)


@pytest.mark.parametrize("normalization", ["l2", "center", "whiten"])
def test_equal_pictures_have_equal_rows_unless_all_of_a_home_are_equal(tmp_path, normalization):
    layout = load_layout("kasteren_a")
    one = {name: sensor for name, sensor in layout["sensors"].items() if name == "Microwave"}
    for name, sensors in (("many", layout["sensors"]), ("one", one)):
        folder = HomeFolder(tmp_path / name)
        folder.describe(home=name, layout={**layout, "sensors": sensors})
        write_table(folder.events, pa.Table.from_pylist([], schema=EVENTS), EVENTS)
        draw_home(folder, size=64, palette="mono", progress=False)
    table = embed_home(HomeFolder(tmp_path / "many"), "pixels", normalization, progress=False)
    rows = {key: tuple(row) for key, row in zip(table.keys, table.embeddings.tolist(), strict=True)}
    assert rows["Microwave_OPEN"] == pytest.approx(rows["Microwave_CLOSE"], abs=1e-6)
    assert np.linalg.matrix_rank(table.embeddings, tol=1e-4) == len(layout["sensors"]) - (normalization != "l2")
    if normalization != "l2":
        with pytest.raises(ValueError, match="all pictures the same"):
            embed_home(HomeFolder(tmp_path / "one"), "pixels", normalization, progress=False)


def test_a_model_that_cannot_be_had_is_one_line(home, tmp_path, capsys):
    assert main(["embed-images", str(home.root)]) == 2  # the Hub is offline in tests
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "openai/clip-vit-base-patch32" in error
    assert "--vision-model pixels" in error
    assert not home.image_embeddings("clip").exists()
    home_without_pictures = HomeFolder(tmp_path)
    home_without_pictures.describe(home="a")
    with pytest.raises(FileNotFoundError, match="casita draw"):
        embed_home(home_without_pictures, "pixels")


def test_the_command_writes_the_table(home, capsys):
    assert main(["embed-images", str(home.root), "--vision-model", "pixels", "--normalization", "none"]) == 0
    assert "28 rows of 768, output pixels" in capsys.readouterr().out
    plain = SensorEmbeddingTable.load(home.image_embeddings("pixels"))
    assert plain.embeddings.min() >= 0
    assert plain.embeddings.max() <= 1
    assert main(["embed-images", str(home.root), "--vision-model", "pixels", "--normalization", "whiten"]) == 0
    table = SensorEmbeddingTable.load(home.image_embeddings("pixels"))
    rows, mean, whitening = normalize(plain.embeddings, "whiten")
    assert (table.normalization, table.whitening.shape) == ("whiten", (27, 768))
    for found, expected in ((table.embeddings, rows), (table.mean, mean), (table.whitening, whitening)):
        assert np.array_equal(found, expected)
