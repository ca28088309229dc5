"""The transformer with both adapters: flow matching on windows that are conditioned as the pipeline conditions them.

Clips are drawn, encoded and kept in pools, so that drawing does not hold up the training; new ones replace old
ones all the time.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from infinitetalk.masks import person_masks
from infinitetalk.models.transformer import (
    AudioContext,
    Context,
    InfiniteTalkTransformer,
    KeyValue,
    Rotary,
    person_attention,
    rotate_pairs,
)
from infinitetalk.shapes import TEMPORAL_STRIDE, latent_frames
from training.data import SETTLE_FRAMES, SIZES, Maker
from training.faces import Motion, Scene, mouth_region
from training.log import Log
from training.optim import Trainer
from training.train_vae import Codec, autocast
from training.train_voice import CHANNELS, LAYERS

TEXT_DIM = IMAGE_DIM = 32
OVERLAP = 9
MODE_FRAMES = (49, 65, 81, 121)
KINDS = ((0, 1, 0.27), (1, 1, 0.27), (0, 2, 0.26), (1, 2, 0.06), (2, 1, 0.03), (3, 1, 0.05), (2, 2, 0.06))
"""(size, people, share of the batches)"""
ROUND_TRIPS = 3
"""Motion latents go through the autoencoder up to this many times more than the clip: windows hand them on."""
WINDOWS = 3
"""Windows of a scene: one that begins with the reference frame, and later ones."""
WANDER_SIGMA = 0.8
"""Heads that move on their own are shown below this noise level only, where the latents tell how they move."""


def make_transformer() -> InfiniteTalkTransformer:
    """The architecture of the 14B model, small."""
    transformer = InfiniteTalkTransformer(
        num_attention_heads=5,
        attention_head_dim=32,
        text_dim=TEXT_DIM,
        ffn_dim=416,
        num_layers=6,
        image_dim=IMAGE_DIM,
        audio_layers=LAYERS,
        audio_channels=CHANNELS,
        audio_hidden=96,
        audio_tokens=8,
        audio_dim=64,
    )
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    embedder = transformer.condition_embedder
    for module in (embedder.time_embedder.linear_1, embedder.time_embedder.linear_2, embedder.time_proj):
        nn.init.normal_(module.weight, std=0.02)
    nn.init.zeros_(transformer.proj_out.weight)
    for block in transformer.blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    for adapter in transformer.adapters.values():
        for extra in adapter.blocks:
            # From the start, some heads tell the voices' rotary positions apart.
            nn.init.normal_(extra.audio_cross_attn.q_linear.bias, std=0.3)
            nn.init.normal_(extra.audio_cross_attn.kv_linear.bias[: transformer.blocks[0].attn1.inner_dim], std=0.3)
    return transformer


def keep_residuals_in_float32(transformer: InfiniteTalkTransformer) -> None:
    """Under autocast the patch embedding would hand on bfloat16, and every block adds up in its input's type."""
    transformer.patch_embedding.register_forward_hook(lambda _module, _inputs, output: output.float())


def picture_features(encoder: CLIPVisionModel, pictures: Tensor) -> Tensor:
    """What `embed_picture` computes, for a batch (B, 3, H, W)."""
    side = encoder.config.image_size
    square = F.interpolate(pictures.float(), size=(side, side), mode="bicubic", align_corners=False)
    mean, std = (square.new_tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return encoder((square * 0.5 + 0.5 - mean) / std, output_hidden_states=True).hidden_states[-2]


def scene_masks(scene: Scene, size: tuple[int, int], maker: Maker, boxed: bool) -> Tensor:
    """(B, 3, S) masks of the two people: halves, or boxes around the heads."""
    if not boxed:
        return person_masks(None, size, size).expand(len(scene.x), -1, -1).to(maker.device)
    width, height = size
    margin = maker.painter.uniform(1.3, 2.2, *scene.x.shape)
    top, low = maker.painter.uniform(1.5, 2.0, *scene.x.shape), maker.painter.uniform(1.4, 2.6, *scene.x.shape)
    x, y, unit = scene.x, scene.y, scene.unit
    edges = torch.stack(
        (
            (x - margin * unit) / width,
            (y - top * unit) / height,
            (x + margin * unit) / width,
            (y + low * unit) / height,
        ),
        -1,
    )
    # Boxes of neighbours do not overlap.
    middle = (x.sum(1) / 2 / width).clamp(0.3, 0.7)
    edges[:, 0, 2], edges[:, 1, 0] = torch.minimum(edges[:, 0, 2], middle), torch.maximum(edges[:, 1, 0], middle)
    boxes = edges.clamp(0, 1).tolist()
    return torch.cat([person_masks((tuple(a), tuple(b)), size, size) for a, b in boxes]).to(maker.device)


def condition_of(codec: Codec, pictures: Tensor, frames: int) -> Tensor:
    """Condition latents (B, 16, T, h, w) of reference pictures (B, 3, H, W): the picture, then zeros."""
    video = pictures.new_zeros(len(pictures), 3, frames, *pictures.shape[2:])
    video[:, :, 0] = pictures
    return codec.encode(video)


def with_mask(latents: Tensor) -> Tensor:
    """Mask and condition latents (B, 4 + 16, T, h, w)."""
    mask = torch.zeros_like(latents[:, :TEMPORAL_STRIDE])
    mask[:, :, 0] = 1
    return torch.cat((mask, latents), 1)


@dataclass(frozen=True)
class Batch:
    """What one step trains on; see `Pool`."""

    latents: Tensor
    condition: Tensor
    motion: Tensor
    held: Tensor
    starts: Tensor
    masks: Tensor | None
    weight: Tensor
    image: Tensor
    wanders: Tensor


@dataclass
class Pool:
    """Encoded clips of one size and number of people. Axes: N scenes, K windows.

    latents (N, K, 16, T, h, w); condition (N, 16, T, h, w); motion (N, K, 1 + ROUND_TRIPS, 16, 3, h, w) of later
    windows; starts (N, K, P); masks (N, 2, 3, S), halves and boxes; weight (N, h, w); image (N, tokens, channels);
    wanders (N, K).
    """

    size: tuple[int, int]
    people: int
    frames: int
    capacity: int
    count: int = 0
    made: int = 0
    stored: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def fill(self, scenes: int, maker: Maker, codec: Codec, image_encoder: CLIPVisionModel) -> None:
        """Draw and encode new scenes, in place of the oldest."""
        scene = maker.painter.scene(scenes, self.people, self.size)
        reference = maker.reference(scenes, self.people)
        starts = maker.starts((scenes, WINDOWS, self.people), self.frames, 0.06 if self.people == 1 else 0.16)
        repeated = scene.repeat(WINDOWS)
        first = (torch.arange(WINDOWS, device=maker.device) == 0).repeat(scenes)
        both = tuple(part.repeat_interleave(WINDOWS, 0) for part in reference)
        motion = maker.motion(starts.flatten(0, 1), self.frames, first, both)
        wanders = maker.painter.chance(0.15, scenes * WINDOWS)
        moved = maker.wander(motion, 1.0)
        shift = [
            torch.where(wanders[:, None, None], getattr(moved, axis), getattr(motion, axis))
            for axis in ("shift_x", "shift_y")
        ]
        # A later window of a filmed source: the window before left the head elsewhere than the new reference has it.
        offset = maker.painter.uniform(-0.2, 0.2, 2, scenes * WINDOWS, self.people, 1)
        offset = offset * (
            maker.painter.chance(0.25, scenes * WINDOWS, 1, 1) & ~first[:, None, None] & ~wanders[:, None, None]
        )
        after = (torch.arange(self.frames, device=maker.device) - (OVERLAP - 1)).clamp(min=0)
        settling = torch.exp(-after / SETTLE_FRAMES)
        motion = Motion(
            motion.height, motion.width, motion.eyes, shift[0] + offset[0] * settling, shift[1] + offset[1] * settling
        )

        video = maker.painter.draw(repeated, motion)
        pictures = video.unflatten(0, (scenes, WINDOWS))[:, 0, :, 0].contiguous()
        latents = codec.encode(video)
        handed = [latents[:, :, : latent_frames(OVERLAP)]]
        for _ in range(ROUND_TRIPS):
            handed.append(codec.encode(codec.decode(handed[-1])))
        mouth = mouth_region(scene, 0.05).amax(1, keepdim=True)
        new = {
            "latents": latents.unflatten(0, (scenes, WINDOWS)),
            "condition": condition_of(codec, pictures, self.frames),
            "motion": torch.stack(handed, 1).unflatten(0, (scenes, WINDOWS)),
            "starts": starts,
            "weight": 1 + 4 * F.max_pool2d(mouth, 8)[:, 0],
            "image": picture_features(image_encoder, pictures),
            "wanders": wanders.view(scenes, WINDOWS),
        }
        if self.people == 2:
            new["masks"] = torch.stack([scene_masks(scene, self.size, maker, boxed) for boxed in (False, True)], 1)
        place = self.made % self.capacity
        for name, value in new.items():
            kept = value.half() if value.is_floating_point() and value.is_cuda else value
            if name not in self.stored:
                self.stored[name] = kept.new_zeros(self.capacity, *kept.shape[1:])
            self.stored[name][place : place + scenes] = kept[: self.capacity - place]
        self.made += scenes
        self.count = min(self.capacity, self.made)

    def sample(self, size: int, frames: int, generator: torch.Generator) -> Batch:
        """A batch of windows of so many latent frames, half of them first windows."""
        device = self.stored["latents"].device
        integers = partial(torch.randint, size=(size,), device=device, generator=generator)
        scene = integers(0, self.count)
        window = torch.where(integers(0, 2) == 0, 0, integers(1, WINDOWS))
        latents = self.stored["latents"][scene, window, :, :frames].float()
        # Most motion latents are what a window before would have left, some are exact.
        motion = self.stored["motion"][scene, window, integers(0, ROUND_TRIPS + 1)].float()
        motion = motion[:, :, :frames]
        held = torch.where(window == 0, 1, latent_frames(OVERLAP))
        motion = torch.where((window == 0).view(-1, 1, 1, 1, 1), latents[:, :, : motion.shape[2]], motion)
        starts, masks = self.stored["starts"][scene, window], None
        if self.people == 2:
            masks = self.stored["masks"][
                scene, (torch.rand(size, device=device, generator=generator) < 0.4).long()
            ].float()
            # The first voice may belong to the person on the right.
            swap = integers(0, 2).bool()
            masks = torch.where(swap[:, None, None], masks[:, [1, 0, 2]], masks)
            starts = torch.where(swap[:, None], starts.flip(1), starts)
        return Batch(
            latents,
            with_mask(self.stored["condition"][scene, :, :frames].float()),
            motion,
            held,
            starts,
            masks,
            self.stored["weight"][scene].float(),
            self.stored["image"][scene].float(),
            self.stored["wanders"][scene, window],
        )


class Conditioner:
    """Builds the transformer's `Context` for batches, from tables of voice features and prompt embeddings."""

    def __init__(self, transformer: InfiniteTalkTransformer, features: Tensor, prompts: Tensor) -> None:
        self.transformer, self.features, self.prompts = transformer, features, prompts

    def voices(self, starts: Tensor, frames: int, clip_starts: Tensor | None = None) -> Tensor:
        """(B, P, frames + 4, layers, channels) of voices from `starts` (B, P) on.

        clip_starts: (B, P) first frames of the clips: before them, their first frame is heard.
        """
        index = starts[..., None] + torch.arange(-2, frames + 2, device=starts.device)
        if clip_starts is not None:
            index = torch.maximum(index, clip_starts[..., None])
        return self.features[index.clamp(0, len(self.features) - 1)]

    def context(self, audio: AudioContext, image: Tensor, prompt: int, latents: Tensor) -> Context:
        """The context of a pass over `latents`; every picture of the batch goes with the same prompt."""
        size = len(image)
        text = self.transformer.embed_text(self.prompts[prompt : prompt + 1])
        text = tuple(KeyValue(kv.key.expand(size, -1, -1, -1), kv.value.expand(size, -1, -1, -1)) for kv in text)
        return Context(text, self.transformer.embed_image(image), audio, self.transformer.rotary_embedding(latents))


class PersonWatch:
    """Records what each block's map of people is made of, to teach the map by its result."""

    def __init__(self, transformer: InfiniteTalkTransformer) -> None:
        self.inputs: list[Tensor] = []
        self.hooks = [
            norm.register_forward_hook(lambda _module, _inputs, output: self.inputs.append(output))
            for block in transformer.blocks
            for norm in (block.attn1.norm_q, block.attn1.norm_k)
        ]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def loss(self, masks: Tensor, rotary: Rotary, heads: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the map against who is where, and the share of tokens it gives to the right one."""
        owner = masks.argmax(1)
        tokens = owner.shape[1]
        losses, right = [], []
        for query, key in zip(self.inputs[::2], self.inputs[1::2], strict=True):
            query, key = (part.unflatten(-1, (heads, -1)) for part in (query, key))
            query = rotate_pairs(query, rotary.cos, rotary.sin)
            key = rotate_pairs(key[:, :tokens], rotary.cos[:, :tokens], rotary.sin[:, :tokens])
            attention = person_attention(query, key, masks).float()
            share = attention / attention.sum(1, keepdim=True).clamp(min=1e-9)
            wanted = owner.repeat(1, share.shape[2] // tokens)
            losses.append(-share.gather(1, wanted[:, None]).clamp(min=1e-6).log().mean())
            right.append((share.argmax(1) == wanted).float().mean())
        return torch.stack(losses).mean(), torch.stack(right).min()


def draw_sigmas(count: int, limits: Tensor, generator: torch.Generator) -> Tensor:
    """Noise levels (count,), spread evenly and shifted by 2 to 14: few steps at shift 11 begin and end high."""
    device = limits.device
    even = (torch.rand((), device=device, generator=generator) + torch.arange(count, device=device) / count) % 1
    even = even[torch.randperm(count, device=device, generator=generator)]
    shift = torch.exp(torch.rand(count, device=device, generator=generator) * math.log(14 / 2) + math.log(2))
    return (shift * even / (1 + (shift - 1) * even)).clamp(min=1e-3) * limits


def train_talker(
    transformer: InfiniteTalkTransformer,
    conditioner: Conditioner,
    maker: Maker,
    codec: Codec,
    image_encoder: CLIPVisionModel,
    seconds: float,
    log: Log,
    batch_tokens: int,
    pool_scenes: int,
    fill_scenes: int,
    frames_limit: int,
    kinds: Sequence[tuple[int, int, float]],
    max_steps: int,
    save: Callable[[], None],
) -> None:
    """Train in place for `seconds`, the first pools' drawing included.

    batch_tokens: tokens of a batch. pool_scenes: capacity of a pool of share 1. frames_limit: longest window. kinds: as
            KINDS.
    """
    device = maker.device
    generator = torch.Generator(device).manual_seed(23)
    trainer = Trainer({"talker": transformer}, 1.2e-3, seconds, 0.999, 0.02, max_steps=max_steps, warmup_steps=200)
    watch = PersonWatch(transformer)
    heads = transformer.config.num_attention_heads
    pools = []
    for index, people, share in kinds:
        longest = min(frames_limit, 121 if index < 2 else 81)
        capacity = max(2, round(pool_scenes * share) // fill_scenes) * fill_scenes
        pools.append(Pool(SIZES[index], people, longest, capacity))
    shares = torch.tensor([share for _, _, share in kinds])
    filling_s, fills = 0.0, 0

    def fill(number: int, times: int = 1) -> None:
        nonlocal filling_s, fills
        started_s = time.monotonic()
        for _ in range(times):
            pools[number].fill(fill_scenes, maker, codec, image_encoder)
        if device.type == "cuda":
            torch.cuda.synchronize()
        filling_s += time.monotonic() - started_s
        fills += times

    for number in range(len(pools)):
        fill(number)
    while trainer.spent < 0.12 and not log.quick:
        fill(int(maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())))
    log(f"talker: {fills * fill_scenes} scenes drawn and encoded in {filling_s:.1f} s")
    begun_s = time.monotonic() - filling_s
    losses: dict[int, list[Tensor]] = {1: [], 2: []}
    rights: list[Tensor] = [torch.zeros((), device=device)]

    while trainer.spent < 1:
        if trainer.steps % 4 == 0 and filling_s < 0.3 * (time.monotonic() - begun_s):
            fill(int(maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())))
        pool = pools[maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())]
        modes = [f for f in MODE_FRAMES if f <= pool.frames] or [pool.frames]
        usual = maker.choices.random() < 0.75
        frames = latent_frames(int(maker.choices.choice(modes)))
        if not usual:
            frames = int(maker.choices.integers(4, latent_frames(pool.frames) + 1))
        tokens = frames * pool.size[0] * pool.size[1] // 256
        batch = pool.sample(max(2, batch_tokens // tokens // 2 * 2), frames, generator)
        size = len(batch.latents)

        limits = torch.where(batch.wanders, WANDER_SIGMA, 1.0)
        sigmas = draw_sigmas(size, limits, generator)
        level = sigmas.view(-1, 1, 1, 1, 1)
        noise = torch.randn(batch.latents.shape, device=device, generator=generator)
        noisy = (1 - level) * batch.latents + level * noise
        roughness = (
            0.1
            * torch.rand(size, 1, 1, 1, 1, device=device, generator=generator)
            * (batch.held > 1).view(-1, 1, 1, 1, 1)
        )
        motion = batch.motion + roughness * torch.randn(batch.motion.shape, device=device, generator=generator)
        held = (torch.arange(frames, device=device)[None] < batch.held[:, None]).view(size, 1, frames, 1, 1)
        filled = noisy.clone()
        filled[:, :, : motion.shape[2]] = motion
        noisy = torch.where(held, filled, noisy)

        voices = conditioner.voices(
            batch.starts, 1 + TEMPORAL_STRIDE * (frames - 1), torch.where(batch.held[:, None] == 1, batch.starts, 0)
        )
        adapter, masks = ("single", None) if pool.people == 1 else ("multi", batch.masks)
        if maker.choices.random() < 0.08:
            voices, masks = torch.zeros_like(voices[:, :1]), None
        watch.inputs.clear()
        with autocast(device):
            audio = transformer.embed_audio(voices, adapter, masks)
            prompt = int(maker.choices.integers(len(conditioner.prompts)))
            context = conditioner.context(audio, batch.image, prompt, noisy)
            times = transformer.embed_timesteps(1000 * sigmas)
            velocity = transformer(torch.cat((noisy, batch.condition), 1), times, context).float()
            weight = (batch.weight[:, None, None] * ~held).expand_as(velocity)
            loss = ((velocity - (noise - batch.latents)).square() * weight).sum() / weight.sum()
            total = loss
            if masks is not None:
                map_loss, right = watch.loss(masks, context.rotary, heads)
                total = loss + 0.1 * map_loss
                rights.append(right.detach())
        watch.inputs.clear()
        norm = trainer.step(total)
        losses[pool.people].append(loss.detach())
        if log.due() or trainer.steps == 1:
            means = {p: torch.stack(v[-200:]).mean().item() if v else math.nan for p, v in losses.items()}
            log(
                f"talker step {trainer.steps} loss one {means[1]:.4f} two {means[2]:.4f} "
                f"map right {torch.stack(rights[-20:]).mean().item():.3f} norm {norm.item():.2f} "
                f"scenes {sum(p.made for p in pools)} filling {filling_s:.0f} s {log.memory()}"
            )
            if not log.quick:
                save()
    watch.close()
    trainer.swap()
    log(f"talker trained: {trainer.steps} steps on {sum(p.made for p in pools)} scenes")
