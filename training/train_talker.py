"""The transformer with both adapters: flow matching on windows that are conditioned as the pipeline conditions them.

Clips are drawn, encoded and kept in pools, so that drawing does not hold up the training; new ones replace old
ones all the time.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from infinitetalk.models.people import person_attention
from infinitetalk.models.rotary import rotate_pairs
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context, Rotary
from infinitetalk.shapes import TEMPORAL_STRIDE, latent_frames
from training.conditions import Conditioner
from training.data import SIZES, Maker
from training.graphs import Graphs
from training.log import Log
from training.optim import Trainer
from training.pool import Pool
from training.train_vae import Codec, autocast
from training.train_voice import CHANNELS, LAYERS

TEXT_DIM = IMAGE_DIM = 32
# Lengths of windows in the modes, and of last windows, which are as long as what is left.
MODE_FRAMES, LAST_FRAMES = (49, 65, 81, 121), (13, 25, 37, 57, 97)
# (size, people, share of the batches)
KINDS = ((0, 1, 0.14), (1, 1, 0.16), (0, 2, 0.24), (1, 2, 0.26), (2, 1, 0.03), (3, 1, 0.08), (2, 2, 0.09))
FIRST_FILL_S = 40  # seconds of drawing before the first step
# After this share of the time the transformer itself makes the motion latents, and guidance is learnt.
ROLL_FROM = 0.25
MAP_STEPS = 300  # in the first steps the map of people is taught above all
JOIN_WEIGHT = 4  # how much more the loss of the two latent frames after a join weighs
# The velocity that is learnt is the true one plus this share of what hearing adds to it. One pass then does what an
# audio guidance of 1 / (1 - GUIDED) would do (model-guidance, arXiv 2502.12154, equation 10). The real model with its
# few-step LoRA needs no guidance either. Without this, mouths open too little: where their height is in doubt, it is
# averaged.
GUIDED = 0.2
# Heads that move on their own are shown only below this noise level, where the latents tell how they move.
WANDER_SIGMA = 0.8


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
    """Let the patch embedding hand on float32: under autocast it gives bfloat16, and blocks add up in that type."""
    transformer.patch_embedding.register_forward_hook(lambda _module, _inputs, output: output.float())


class PersonWatch:
    """Records what each block's map of people is made of, to teach the map by its result."""

    def __init__(self, transformer: InfiniteTalkTransformer) -> None:
        self.transformer = transformer
        self.inputs: list[Tensor] = []

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the blocks during the `with` block."""
        self.inputs.clear()
        hooks = [
            norm.register_forward_hook(lambda _module, _inputs, output: self.inputs.append(output))
            for block in self.transformer.blocks
            for norm in (block.attn1.norm_q, block.attn1.norm_k)
        ]
        yield
        for hook in hooks:
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
    """Noise levels (count,), spread evenly and shifted by 2 to 14, since few steps at shift 11 begin and end high."""
    device = limits.device
    even = (torch.rand((), device=device, generator=generator) + torch.arange(count, device=device) / count) % 1
    even = even[torch.randperm(count, device=device, generator=generator)]
    shift = torch.exp(torch.rand(count, device=device, generator=generator) * math.log(14 / 2) + math.log(2))
    return (shift * even / (1 + (shift - 1) * even)).clamp(min=1e-3) * limits


class Lesson:
    """The passes of one training step, from tensors to tensors: what a CUDA graph can hold.

    It is called with the number of people, whether guidance is learnt, and these tensors:
        latents (B, 16, T, h, w) at noise levels sigmas (B,); condition (B, 4 + 16, T, h, w);
        image (B, tokens, channels); voices (B, P, frames + 4, layers, channels); prompt (1, tokens, channels);
        masks (B, 3, S), with two people only; velocity (B, 16, T, h, w), which is wanted; weight (B, 1, T, h, w) of the
        velocity's parts; map_weight, the weight of the map's loss.

    It adds gradients to the parameters'. It returns the loss, and the share of tokens that the map of people gives to
    the right person.
    """

    def __init__(self, conditioner: Conditioner) -> None:
        self.conditioner, self.transformer = conditioner, conditioner.transformer
        self.watch = PersonWatch(self.transformer)

    def __call__(self, people: int, guided: bool, told: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        masks = told.get("masks")
        wanted = told["velocity"]
        device = wanted.device
        with autocast(device), torch.no_grad():
            unheard = self.predict(people, told, torch.zeros_like(told["voices"][:, :1]), None)[0] if guided else None
        with autocast(device), self.watch.record() if masks is not None else nullcontext():
            velocity, context = self.predict(people, told, told["voices"], masks)
            if unheard is not None:
                wanted = wanted + GUIDED * (velocity.detach() - unheard)
            weight = told["weight"]
            loss = ((velocity - wanted).square() * weight).sum() / (velocity.shape[1] * weight.sum())
            total, right = loss, loss.new_zeros(())
            if masks is not None:
                map_loss, right = self.watch.loss(masks, context.rotary, self.transformer.config.num_attention_heads)
                total = loss + told["map_weight"] * map_loss
        self.watch.inputs.clear()
        total.backward()
        return loss.detach(), right.detach()

    def predict(
        self, people: int, told: dict[str, Tensor], voices: Tensor, masks: Tensor | None
    ) -> tuple[Tensor, Context]:
        """The transformer's velocity in float32, and its context."""
        audio = self.transformer.embed_audio(voices, self.transformer.adapter_for(people), masks)
        context = self.conditioner.context(audio, told["image"], told["prompt"], told["latents"])
        times = self.transformer.embed_timesteps(1000 * told["sigmas"])
        return self.transformer(torch.cat((told["latents"], told["condition"]), 1), times, context).float(), context


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
    further: bool = False,
) -> None:
    """Train in place for `seconds`, the first pools' drawing included.

    Args:
        batch_tokens: tokens of a batch.
        pool_scenes: capacity of a pool that has all batches; other pools have their share of it.
        frames_limit: the longest window.
        kinds: as KINDS.
        further: go on with a trained transformer.
    """
    device = maker.device
    generator = torch.Generator(device).manual_seed(23)
    lr = 8e-4 if further else 1.2e-3
    trainer = Trainer({"talker": transformer}, lr, seconds, 0.999, 0.02, max_steps=max_steps, warmup_steps=200)
    lesson = Lesson(conditioner)
    graphs = Graphs(lesson, trainer.parameters)
    map_steps = 0 if further else MAP_STEPS
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
        roller = conditioner if further or trainer.spent > ROLL_FROM else None
        for _ in range(times):
            pools[number].fill(fill_scenes, maker, codec, image_encoder, roller)
        if device.type == "cuda":
            torch.cuda.synchronize()
        filling_s += time.monotonic() - started_s
        fills += times

    for number in range(len(pools)):
        fill(number)
    while filling_s < FIRST_FILL_S and not log.quick:
        fill(int(maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())))
    log(f"talker: {fills * fill_scenes} scenes drawn and encoded in {filling_s:.1f} s")
    begun_s = time.monotonic() - filling_s
    losses: dict[int, list[Tensor]] = {1: [], 2: []}
    rights: list[Tensor] = [torch.zeros((), device=device)]

    while trainer.spent < 1:
        if trainer.steps % 4 == 0 and filling_s < 0.3 * (time.monotonic() - begun_s):
            fill(int(maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())))
        pool = pools[maker.choices.choice(len(pools), p=(shares / shares.sum()).numpy())]
        lengths = MODE_FRAMES if maker.choices.random() < 0.8 else LAST_FRAMES
        frames = latent_frames(int(maker.choices.choice([f for f in lengths if f <= pool.frames] or [pool.frames])))
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
        held = (torch.arange(frames, device=device)[None] < batch.held[:, None]).view(size, 1, frames, 1, 1)
        # Where a window takes over, a jump would be seen.
        after = torch.arange(frames, device=device)[None] - batch.held[:, None]
        joining = ((after >= 0) & (after < 2) & (batch.held[:, None] > 1)).view(size, 1, frames, 1, 1)
        motion = batch.latents + roughness * torch.randn(batch.latents.shape, device=device, generator=generator)
        noisy = torch.where(held, motion, noisy)

        voices = conditioner.voices(
            batch.starts, 1 + TEMPORAL_STRIDE * (frames - 1), torch.where(batch.held[:, None] == 1, batch.starts, 0)
        )
        told = {
            "latents": noisy,
            "sigmas": sigmas,
            "condition": batch.condition,
            "image": batch.image,
            "voices": voices,
            "prompt": conditioner.prompts[maker.choices.integers(len(conditioner.prompts))][None],
            "velocity": noise - batch.latents,
            "weight": batch.weight[:, None, None] * (~held * (1 + JOIN_WEIGHT * joining)),
            "map_weight": torch.full((), 0.1 if trainer.steps < map_steps else 0.02, device=device),
        }
        trainer.clear()
        if maker.choices.random() < 0.08:
            told["voices"] = torch.zeros_like(voices[:, :1])
            loss, _ = lesson(pool.people, False, told)
        else:
            if batch.masks is not None:
                told["masks"] = batch.masks
            loss, right = graphs(told, pool.people, further or trainer.spent > ROLL_FROM)
            if batch.masks is not None:
                rights.append(right)
        norm = trainer.update()
        losses[pool.people].append(loss)
        if log.due() or trainer.steps == 1:
            means = {p: torch.stack(v[-200:]).mean().item() if v else math.nan for p, v in losses.items()}
            log(
                f"talker step {trainer.steps} loss one {means[1]:.4f} two {means[2]:.4f} "
                f"map right {torch.stack(rights[-20:]).mean().item():.3f} norm {norm.item():.2f} "
                f"scenes {sum(p.made for p in pools)} filling {filling_s:.0f} s {log.memory()}"
            )
            if not log.quick:
                save()
    trainer.swap()
    log(f"talker trained: {trainer.steps} steps on {sum(p.made for p in pools)} scenes")
