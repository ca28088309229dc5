"""The audio encoder: wav2vec2, small, taught to tell the mouth's height and width from the sound.

The head that tells them is dropped afterwards. The talker hears what the encoder's layers hold. The encoder is trained
first and alone, so that the talker's training can look up the features of the whole corpus in a table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from infinitetalk.shapes import SAMPLES_PER_FRAME
from training.log import Log
from training.optim import Trainer
from training.speech import Corpus

LAYERS, CHANNELS = 2, 64
OFFSETS = (-1, 0, 1)  # the head tells the mouth at these frames around the one it hears
CHUNK_FRAMES = 150


def make_voice_encoder() -> Wav2Vec2Model:
    """A wav2vec2 whose entries each hear exactly one video frame (640 samples), and 16 more through the positions.

    Loudness moves lips, so the first layers must not normalise it away: each entry is normalised by itself, beside a
    bias, and not over the clip. The attention starts at zero and stays there. What a mouth does depends on the sound
    near by, and an encoder without attention hears a minute exactly as it hears six seconds.
    """
    encoder = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=CHANNELS,
            intermediate_size=2 * CHANNELS,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            conv_dim=(48,) * 7,
            conv_kernel=(10, 3, 3, 3, 3, 3, 3),
            conv_bias=True,
            feat_extract_norm="layer",
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            attn_implementation="sdpa",
        )
    )
    for layer in encoder.encoder.layers:
        for parameter in layer.attention.out_proj.parameters():
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return encoder


def voice_features(encoder: Wav2Vec2Model, sound: Tensor) -> Tensor:
    """(B, frames, layers, channels) of sounds (B, frames * 640): what `embed_voice` computes, for a batch."""
    frames = sound.shape[1] // SAMPLES_PER_FRAME
    convolved = F.interpolate(encoder.feature_extractor(sound), size=frames, mode="linear", align_corners=True)
    projected, _ = encoder.feature_projection(convolved.transpose(1, 2))
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for layer in encoder.encoder.layers
    ]
    try:
        encoder.encoder(projected)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(outputs, 2)


def train_voice(
    encoder: Wav2Vec2Model, corpus: Corpus, device: torch.device, seconds: float, log: Log, batch: int, max_steps: int
) -> None:
    """Train in place for `seconds`."""
    head = nn.Linear(LAYERS * CHANNELS, 2 * len(OFFSETS)).to(device)
    sound = torch.from_numpy(corpus.sound).to(device)
    tracks = torch.from_numpy(corpus.tracks.height), torch.from_numpy(corpus.tracks.width)
    target = torch.stack(tracks, -1).float().to(device)
    generator = torch.Generator(device).manual_seed(11)
    trainer = Trainer({"voice": encoder, "head": head}, 2e-3, seconds, 0.995, max_steps=max_steps)
    reach = max(OFFSETS)
    errors: list[Tensor] = []
    while trainer.spent < 1:
        last = len(target) - CHUNK_FRAMES - reach
        starts = torch.randint(reach, last, (batch,), device=device, generator=generator)
        samples = starts[:, None] * SAMPLES_PER_FRAME + torch.arange(CHUNK_FRAMES * SAMPLES_PER_FRAME, device=device)
        frames = starts[:, None] + torch.arange(CHUNK_FRAMES, device=device)
        wanted = torch.cat([target[frames + offset] for offset in OFFSETS], -1)
        told = head(voice_features(encoder, sound[samples]).flatten(2))
        # The ends of a chunk hear silence beside them where the corpus goes on.
        loss = (told - wanted)[:, 8:-8].square().mean()
        trainer.step(loss)
        errors.append(loss.detach())
        if log.due():
            log(f"voice step {trainer.steps} error {torch.stack(errors[-100:]).mean().sqrt().item():.4f}")
    trainer.swap()
    last_error = torch.stack(errors[-100:]).mean().sqrt().item()
    log(f"voice trained: {trainer.steps} steps, mouth told to {last_error:.4f}")


@torch.no_grad()
def corpus_features(encoder: Wav2Vec2Model, corpus: Corpus, device: torch.device) -> Tensor:
    """(frames, layers, channels) of the whole corpus."""
    piece, reach = 500, 20
    features = []
    sound = torch.from_numpy(corpus.sound).to(device)
    frames = len(sound) // SAMPLES_PER_FRAME
    for start in range(0, frames, piece):
        low, high = max(0, start - reach), min(frames, start + piece + reach)
        part = voice_features(encoder, sound[None, low * SAMPLES_PER_FRAME : high * SAMPLES_PER_FRAME])[0]
        features.append(part[start - low :][:piece])
    return torch.cat(features)
