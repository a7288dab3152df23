"""Training of the text-to-image minis' text encoders, two CLIPs and a T5, by contrast of captions with images.

One contrastive training (Radford et al. 2021) serves all three: each caption's embedding, by each encoder, shall be
nearer to its own picture than to the others of the batch. The image encoder is thrown away afterwards.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn

from attrbench.models.late import transformers
from attrbench_tasks.training.loop import LatentRecipe, Progress, finish, fit
from attrbench_tasks.training.training_state import has_state

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<pad>"
CLIPS = ("text_encoder", "text_encoder_2")
T5 = "text_encoder_3"
WORD_END = "</w>"


class TextEncoderRecipe(LatentRecipe):
    """Training settings of the small text encoders: vocabulary, prompt length, architectures, steps, seed.

    Attributes:
        vocabulary: entries of each tokenizer.
        length: tokens a prompt, its padding included: short, so that text does not outnumber the image's tokens.
        clip: keyword arguments of `transformers.CLIPTextConfig` for both CLIPs.
        t5: keyword arguments of `transformers.T5Config`.
        image_channels: of the four convolutions of the image encoder.
    """

    vocabulary: int
    length: int
    clip: dict[str, Any]
    t5: dict[str, Any]
    image_channels: tuple[int, int, int, int]


def clip_tokenizer(captions: Sequence[str], recipe: TextEncoderRecipe) -> transformers.CLIPTokenizer:
    """Return a CLIP tokenizer whose byte-pair vocabulary is learned from captions and covers any other text."""
    learned = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learned.normalizer = normalizers.Lowercase()
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = recipe.vocabulary - 2 - 2 * len(alphabet)
    trainer = trainers.BpeTrainer(vocab_size=room, end_of_word_suffix=WORD_END, show_progress=False)
    learned.train_from_iterator(captions, trainer)
    merges: Any = [tuple(pair) for pair in _merges(learned)]
    pieces = [*alphabet, *(byte + WORD_END for byte in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=recipe.length)


def t5_tokenizer(captions: Sequence[str], recipe: TextEncoderRecipe) -> transformers.T5Tokenizer:
    """Return a T5 tokenizer with the captions' whole words and learned pieces for other words."""
    learned = Tokenizer(models.Unigram())
    learned.normalizer = normalizers.Lowercase()
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=recipe.vocabulary // 2,
        special_tokens=[PAD, "</s>", "<unk>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    learned.train_from_iterator(captions, trainer)
    scores = dict(_state(learned)["vocab"])
    words = Counter(word for caption in captions for word in caption.lower().split())
    total = sum(words.values())
    for word, count in sorted(words.items()):
        scores["\u2581" + word] = math.log(count / total)
    return transformers.T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=recipe.length)


def train_text_encoders(
    recipe: TextEncoderRecipe,
    images: torch.Tensor,
    captions: Sequence[str],
    device: torch.device,
    progress: Progress,
) -> None:
    """Train two CLIP text encoders and a T5 against images, and save them with their tokenizers.

    Args:
        recipe: what to do.
        images: [n, 3, H, W] in [-1, 1].
        captions: n.
        device: where to train.
        progress: folder and report.
    """
    clip_tokens, t5_tokens = _tokenizers(captions, recipe, progress.folder)
    ids, ids_t5 = (
        tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=recipe.length, return_tensors="pt"
        ).input_ids.to(device)
        for tokenizer in (clip_tokens, t5_tokens)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _build(recipe, clip_tokens, t5_tokens).to(device)
    images = images.to(device)

    def loss(chosen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        dropout_seed = int(torch.randint(2**62, (), generator=rng))
        chosen = chosen.to(device)
        own = torch.arange(len(chosen), device=device)
        pictures = model.image(images[chosen]).chunk(3, dim=1)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(dropout_seed)
            texts = _texts(model, ids[chosen], ids_t5[chosen])
        total = torch.zeros((), device=device)
        for text, picture in zip(texts, pictures, strict=True):
            logits = F.normalize(text.float(), dim=1) @ F.normalize(picture.float(), dim=1).T * model.scale.exp()
            total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 6
        return total

    model.train()
    model.load_state_dict(fit(recipe, model, len(images), loss, progress), strict=False)
    model.eval()
    for name in (*CLIPS, T5):
        encoder = model.get_submodule(name).to(getattr(torch, recipe.dtype))
        encoder.save_pretrained(progress.folder / name, safe_serialization=True)
    finish(recipe, progress.folder)


def _tokenizers(
    captions: Sequence[str], recipe: TextEncoderRecipe, folder: Path
) -> tuple[transformers.CLIPTokenizer, transformers.T5Tokenizer]:
    """Return the CLIP and T5 tokenizers, newly trained and saved, or loaded when a cut-off training resumes.

    The library `tokenizers` orders pieces of equal frequency by chance, so a second training of them gives others.
    """
    clip_folder, t5_folder = folder / "tokenizer", folder / "tokenizer_3"
    if has_state(folder):
        return (
            transformers.CLIPTokenizer.from_pretrained(str(clip_folder), local_files_only=True),
            transformers.T5Tokenizer.from_pretrained(str(t5_folder), local_files_only=True),
        )
    tokenizers = clip_tokenizer(captions, recipe), t5_tokenizer(captions, recipe)
    for tokenizer, target in zip(tokenizers, (clip_folder, t5_folder), strict=True):
        tokenizer.save_pretrained(target)
    return tokenizers


def _texts(model: Any, ids: torch.Tensor, ids_t5: torch.Tensor) -> list[torch.Tensor]:
    """Return the embeddings, [B, width] each, of B captions by both CLIPs and by T5 (mean over its tokens)."""
    embeddings = [model.get_submodule(name)(input_ids=ids).text_embeds for name in CLIPS]
    words = (ids_t5 != model.text_encoder_3.config.pad_token_id)[..., None]
    hidden = model.text_encoder_3(input_ids=ids_t5).last_hidden_state
    return [*embeddings, model.pool((hidden * words).sum(1) / words.sum(1))]


def _build(
    recipe: TextEncoderRecipe, clip_tokens: transformers.CLIPTokenizer, t5_tokens: transformers.T5Tokenizer
) -> Any:
    clip = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokens),
        max_position_embeddings=recipe.length,
        bos_token_id=clip_tokens.bos_token_id,
        eos_token_id=clip_tokens.eos_token_id,
        pad_token_id=clip_tokens.pad_token_id,
        **recipe.clip,
    )
    t5 = transformers.T5Config(vocab_size=len(t5_tokens), pad_token_id=t5_tokens.pad_token_id, **recipe.t5)
    model = nn.Module()
    for name in CLIPS:
        model.add_module(name, transformers.CLIPTextModelWithProjection(clip))
    model.add_module(T5, transformers.T5EncoderModel(t5))
    width = int(recipe.clip["projection_dim"])
    model.add_module("pool", nn.Linear(recipe.t5["d_model"], width))
    layers: list[nn.Module] = []
    before = 3
    for channels in recipe.image_channels:
        layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.GroupNorm(8, channels), nn.SiLU()]
        before = channels
    model.add_module("image", nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4, 3 * width)))
    model.register_parameter("scale", nn.Parameter(torch.tensor(2.3)))
    return model


def _state(tokenizer: Any) -> Any:
    return json.loads(tokenizer.to_str())["model"]


def _merges(tokenizer: Any) -> list[Any]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in _state(tokenizer)["merges"]]
