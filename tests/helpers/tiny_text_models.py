"""Tiny random checkpoints of each architecture that text models have, with real tokenizers, as authors save them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

WIDTH, LENGTH = 32, 96
SMALL = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"initializer_range": 0.5}  # large enough that other words give visibly other vectors
VISION = {**SMALL, "num_hidden_layers": 1, "patch_size": 16}
STS = "task: sentence similarity | query: "
CORPUS = [
    "the fridge was opened and closed on tuesday morning .",
    "somebody went from the kitchen to the hallway and back , then to the office .",
    STS,
]


def make_tokenizer(special: Sequence[str], template: str, **tokens: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the spot; `special` get the ids 0, 1, ...; `template` stands around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    around = [(name, tokenizer.token_to_id(name)) for name in special if name in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def write_modules(folder: Path, kinds: Sequence[str], prompts: dict[str, str]) -> None:
    """The files by which sentence-transformers knows what follows the transformer, written by hand."""
    listed: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        path = f"{i}_{kind}" if i else ""
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        if kind == "Pooling":
            mode = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
            (folder / path / "config.json").write_text(json.dumps(mode))
        if kind == "Dense":
            size = (2 * WIDTH, WIDTH) if i == 2 else (WIDTH, 2 * WIDTH)
            config = {"in_features": size[1], "out_features": size[0], "bias": False}
            config["activation_function"] = "torch.nn.modules.linear.Identity"
            (folder / path / "config.json").write_text(json.dumps(config))
            weight = torch.randn(size, generator=torch.Generator().manual_seed(i))
            save_file({"linear.weight": weight}, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))


def make_bert(folder: Path) -> None:
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = make_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]", **names)
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **SMALL, **WIDE)).save_pretrained(
        folder
    )
    write_modules(folder, ["Transformer", "Pooling", "Normalize"], {})


def make_roberta(folder: Path) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>", **names)
    tokenizer.model_max_length = LENGTH - 2  # positions start behind the padding's
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=LENGTH, **SMALL, **WIDE)
    RobertaModel(config).save_pretrained(folder)
    write_modules(folder, ["Transformer", "Pooling", "Normalize"], {})


def make_gemma(folder: Path) -> None:
    """As EmbeddingGemma: attention both ways, mean of all tokens, two dense layers, prompts without a default."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(["<pad>", "<eos>", "<bos>", "<unk>"], "<bos> $A <eos>", **names)
    tokenizer.save_pretrained(folder)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        head_dim=16,
        num_key_value_heads=1,
        sliding_window=8,
        max_position_embeddings=LENGTH,
        use_bidirectional_attention=True,
        **SMALL,
        **WIDE,
    )
    Gemma3TextModel(config).save_pretrained(folder)
    prompts = {"query": "task: search result | query: ", "STS": STS}
    write_modules(folder, ["Transformer", "Pooling", "Dense", "Dense", "Normalize"], prompts)


def make_clip(folder: Path) -> None:
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    ends = "<|endoftext|>"
    tokenizer = make_tokenizer(
        [*names.values()], f"<|startoftext|> $A {ends}", **names, pad_token=ends, unk_token=ends
    )
    text = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **SMALL, **WIDE}
    config = CLIPConfig(text_config=text, vision_config={**VISION, "image_size": 32}, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)


def make_siglip(folder: Path) -> None:
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(["<unk>", "</s>"], "$A </s>", **names)
    text = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1, **SMALL}
    SiglipModel(SiglipConfig(text_config=text, vision_config={**VISION, "image_size": 32})).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessorPil(), tokenizer).save_pretrained(folder)


def make_siglip2(folder: Path) -> None:
    names = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = make_tokenizer(["<pad>", "<eos>", "<unk>"], "$A <eos>", **names)
    text = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, **SMALL}
    Siglip2Model(Siglip2Config(text_config=text, vision_config={**VISION, "num_patches": 16})).save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessorPil(), tokenizer).save_pretrained(folder)


MAKERS = {
    "bert": make_bert,
    "roberta": make_roberta,
    "gemma": make_gemma,
    "clip": make_clip,
    "siglip": make_siglip,
    "siglip2": make_siglip2,
}


def make_text_model(kind: str, folder: Path) -> Path:
    """The checkpoint `folder/kind`."""
    torch.manual_seed(0)
    (folder / kind).mkdir(parents=True)
    MAKERS[kind](folder / kind)
    return folder / kind
