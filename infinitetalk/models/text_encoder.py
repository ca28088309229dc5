"""Prompts as umT5 embeddings."""

import html

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from infinitetalk.models.video_transformer import TEXT_TOKENS


def clean_prompt(prompt: str) -> str:
    """Unicode repaired, HTML entities resolved, white space folded: what the model was trained on."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


@torch.inference_mode()
def embed_prompt(encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    """Embeddings (1, 512, channels) of a prompt, zero beyond its end. Longer prompts are cut at 512 tokens."""
    tokens = tokenizer(
        [clean_prompt(prompt)],
        padding="max_length",
        max_length=TEXT_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    mask = tokens.attention_mask.to(encoder.device)
    states: Tensor = encoder(tokens.input_ids.to(encoder.device), attention_mask=mask).last_hidden_state
    embeddings: Tensor = states * mask.unsqueeze(-1)
    return embeddings


def count_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """Tokens of a prompt before it is cut at 512."""
    return len(tokenizer(clean_prompt(prompt)).input_ids)
