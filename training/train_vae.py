"""The autoencoder: first on pictures, then on short clips.

diffusers runs the Wan autoencoder over a clip piece by piece, with caches. `encode_clip` and `decode_clip` run the same
modules over whole clips at once. That is the same function, and much quicker to train.
"""

import copy
from collections.abc import Callable
from math import log10

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from torch import Tensor, nn

from training.data import OVERLAP, Maker
from training.faces import eye_region, face_region, measure_mouth, mouth_region, small_head_weight
from training.graphs import Graphs
from training.log import Log
from training.optim import Trainer

PATCH = 2
# (share of the time at which a stage ends, frames of its clips, clips in a batch, cropped, again)
#
# - cropped: all batches of a stage then have one shape, so that cuDNN's search for kernels, some seconds for each new
#   shape, is worth it.
# - again: half of the batch begins with frames that have been through the autoencoder, as windows after the first do.
#   It is to become the drawn clip all the same, and to go on without a jump from the clip that these frames are from.
#
# The last clips are as long as windows: an autoencoder that has only seen 17 frames makes later frames worse, and every
# window's end would differ from the next one's beginning.
STAGES = (
    (0.1, 1, 384, True, False),
    (0.25, 9, 72, True, False),
    (0.45, 17, 48, True, False),
    (0.8, 49, 14, True, True),
    (1.0, 65, 6, False, True),
)
FURTHER_FROM = 0.46  # share of the stages that further training leaves out
CROP = 96
SEARCHED = 5  # kernels that cuDNN tries for a new shape; with its usual ten the search takes much longer
ALIKE = 0.3  # share of people whose hair has nearly their skin's colour; with fewer, such faces blur
BEFORE = 16  # frames of a clip before those that are shown again, since a window's last frames are decoded after others
# Frames after a join that are to go on as the window before would have, and how much that counts.
FOLLOWED, FOLLOWED_WEIGHT = 12, 1.0
# How much more a clip's first frame weighs. It has a latent frame of its own, on which the picture's condition and what
# windows hand on rest. With the weight of one frame among many, it loses the features of small faces.
FIRST_WEIGHT = 8
KNOWN_FRAMES = 17  # where latents are held, these first frames' are; every stage of the training has seen so many


def make_vae() -> AutoencoderKLWan:
    """A small autoencoder, quick on a CPU. It works on 2x2 pixels at a time, as Wan 2.2's does; 8x8 make a latent."""
    return AutoencoderKLWan(
        base_dim=32,
        dim_mult=[1, 2, 2],
        num_res_blocks=2,
        temperal_downsample=[True, True],
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
    )


@torch.no_grad()
def start_simply(vae: AutoencoderKLWan) -> None:
    """Start as a short linear chain by frames: residual branches at zero, resampling near averaging and copying."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3 and module.kernel_size[1] == 3:
            module.weight[:, :, :2] = 0
            module.weight.mul_(1.7)
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if isinstance(module.conv_shortcut, WanCausalConv3d):
                nn.init.orthogonal_(module.conv_shortcut.weight.flatten(1))
                nn.init.zeros_(module.conv_shortcut.bias)
        elif isinstance(module, WanAttentionBlock):
            nn.init.zeros_(module.proj.weight)
            nn.init.zeros_(module.proj.bias)
        elif isinstance(module, WanResample):
            _start_resampling(module)


def _start_resampling(module: WanResample) -> None:
    conv = module.resample[1]
    outputs, inputs = conv.weight.shape[:2]
    conv.weight.mul_(0.7)
    nn.init.zeros_(conv.bias)
    if module.mode.startswith("up"):
        conv.weight[:, :, 1, 1] += nn.init.orthogonal_(torch.empty(outputs, inputs)) * (inputs / outputs) ** 0.5
    else:
        conv.weight[:, :, :2, :2] += 0.25 * torch.eye(outputs)[:, :, None, None]
    if module.mode.endswith("3d"):
        time = module.time_conv
        time.weight.mul_(0.5)
        nn.init.zeros_(time.bias)
        if module.mode == "upsample3d":
            time.weight[:, :, 2, 0, 0] += torch.eye(inputs).repeat(2, 1)
        else:
            time.weight[:, :, :, 0, 0] += torch.eye(inputs)[:, :, None] / 3


def encode_clip(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Mean and log variance (B, 32, T, h, w) of a video (B, 3, 4T-3, H, W): `vae.encode`, all at once."""
    encoder = vae.encoder
    states = encoder.conv_in(patchify(video, PATCH))
    for layer in encoder.down_blocks:
        states = layer(states)
        if isinstance(layer, WanResample) and layer.mode == "downsample3d" and states.shape[2] > 1:
            states = torch.cat((states[:, :, :1], layer.time_conv(states)), 2)
    states = encoder.nonlinearity(encoder.norm_out(encoder.mid_block(states)))
    return vae.quant_conv(encoder.conv_out(states))


def decode_clip(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Video (B, 3, 4T-3, H, W) of latents (B, 16, T, h, w): `vae.decode`, all at once, not clamped."""
    decoder = vae.decoder
    states = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            states = resnet(states)
        for layer in block.upsamplers or ():
            if layer.mode == "upsample3d" and states.shape[2] > 1:
                later = layer.time_conv(states[:, :, 1:])
                # Each frame becomes two: the halves of its channels.
                later = later.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)
                states = torch.cat((states[:, :, :1], later), 2)
            states = layer(states)
    return unpatchify(decoder.conv_out(decoder.nonlinearity(decoder.norm_out(states))), PATCH)


def psnr(squared_error: Tensor) -> float:
    """PSNR in dB for a mean squared error of pictures in [0, 1]."""
    return -10 * log10(max(squared_error.item(), 1e-12))


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def reconstruction_loss(
    vae: AutoencoderKLWan,
    video: Tensor,
    target: Tensor,
    weight: Tensor,
    known: Tensor | None = None,
    followed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of making `target` from `video`, and squared error of the pictures in [0, 1].

    Args:
        weight: (B, H, W), how much each pixel counts.
        known: means of the first latents, on which a transformer has been trained.
        followed: (B', 3, T, H, W), what the first clips' later frames were before they were shown again.
    """
    mean, log_variance = encode_clip(vae, video).float().chunk(2, 1)
    log_variance = log_variance.clamp(-30, 20)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    # The transformer's latents are not exact either: up to 10 % of noise.
    spread = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    share = 0.1 * torch.rand(len(mean), 1, 1, 1, 1, device=mean.device)
    output = decode_clip(vae, latents + share * spread * torch.randn_like(mean)).float()
    difference = output - target.float()
    weight = (weight / weight.mean(dim=(1, 2), keepdim=True))[:, None, None]
    moving = weight
    frames = torch.where(torch.arange(video.shape[2], device=video.device) == 0, FIRST_WEIGHT, 1.0)
    weight = weight * (frames / frames.mean()).view(-1, 1, 1)
    loss = ((difference.abs() + 3 * difference.square()) * weight).mean()
    loss = loss + 0.5 * (difference.diff(dim=-1).abs() * weight[..., 1:]).mean()
    loss = loss + 0.5 * (difference.diff(dim=-2).abs() * weight[..., 1:, :]).mean()
    if video.shape[2] > 1:  # what stands still must not flicker
        loss = loss + 0.5 * (difference.diff(dim=2).abs() * moving).mean()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    if known is not None:
        loss = loss + 0.1 * ((mean[:, :, : known.shape[2]] - known) / spread).square().mean()
    if followed is not None:
        after = slice(OVERLAP, OVERLAP + FOLLOWED)
        jump = (output[: len(followed), :, after] - followed[:, :, after].float()).abs().mean()
        loss = loss + FOLLOWED_WEIGHT * jump
    return loss + 5e-5 * divergence, difference.detach().clamp(-2, 2).square().mean() / 4


@torch.no_grad()
def once(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """A video (B, 3, T, H, W) that has been through the autoencoder, in its own type."""
    return decode_clip(vae, encode_clip(vae, video).chunk(2, 1)[0]).clamp(-1, 1).type_as(video)


class Lesson:
    """The passes of one training step, from tensors to tensors: what a CUDA graph can hold.

    It is called with whether half of the clips are shown again, and these tensors: video (B, 3, T, H, W), with BEFORE
    more frames at the beginning if clips are shown again; weight (B, H, W) of its parts. It adds gradients to the
    parameters'. It returns the loss and the squared error, as `reconstruction_loss` does.

    Args:
        known: an autoencoder whose latents should stay nearly as they are.
    """

    def __init__(self, vae: AutoencoderKLWan, known: AutoencoderKLWan | None) -> None:
        self.vae, self.known = vae, known

    def __call__(self, again: bool, told: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        video, weight = told["video"], told["weight"]
        target, followed, latents = video, None, None
        with autocast(video.device):
            if again:
                followed, target = once(self.vae, video[::2])[:, :, BEFORE:], video[:, :, BEFORE:]
                handed = torch.cat((followed[:, :, :OVERLAP], target[::2, :, OVERLAP:]), 2)
                video = torch.cat((handed, target[1::2]))
                target, weight = (torch.cat((part[::2], part[1::2])) for part in (target, weight))
            if self.known is not None:
                with torch.no_grad():
                    latents = encode_clip(self.known, video[:, :, :KNOWN_FRAMES]).float().chunk(2, 1)[0]
            loss, error = reconstruction_loss(self.vae, video, target, weight, latents, followed)
        loss.backward()
        return loss.detach(), error


def train_vae(
    vae: AutoencoderKLWan,
    maker: Maker,
    seconds: float,
    log: Log,
    batch_share: float,
    max_steps: int,
    save: Callable[[], None],
    further: bool = False,
    hold: bool = False,
) -> None:
    """Train in place for `seconds`.

    Args:
        batch_share: scales the batches.
        save: called now and then.
        further: go on with a trained autoencoder.
        hold: its latents stay nearly as they are.
    """

    def is_muon(name: str, tensor: Tensor) -> bool:
        return tensor.ndim > 2 and "conv_in" not in name and "decoder.conv_out" not in name and "gamma" not in name

    on_gpu = maker.device.type == "cuda"
    if on_gpu:
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    known = copy.deepcopy(vae) if hold else None
    pace, begin = (0.5, FURTHER_FROM) if further else (1.0, 0.0)
    trainer = Trainer({"vae": vae}, pace * 2.4e-3, seconds, 0.998, 0.0, pace * 6e-3, is_muon, max_steps)
    graphs = Graphs(Lesson(vae, known), trainer.parameters)
    errors: list[Tensor] = []
    while trainer.spent < 1:
        frames, batch, cropped, again = next(
            stage[1:] for stage in STAGES if begin + (1 - begin) * trainer.spent <= stage[0]
        )
        clip = maker.clip(max(2, round(batch * batch_share)), frames + BEFORE * again, teeth=0.15, alike=ALIKE)
        video = clip.video
        small = small_head_weight(clip.scene)
        features = 3 * mouth_region(clip.scene) + 1.5 * eye_region(clip.scene) + 0.5 * face_region(clip.scene)
        weight = 1 + (small * features).amax(1)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = cropped and on_gpu, SEARCHED
        if cropped:
            top, left = (int(maker.choices.integers(0, side - CROP + 1)) for side in video.shape[-2:])
            video = video[..., top : top + CROP, left : left + CROP].contiguous()
            weight = weight[..., top : top + CROP, left : left + CROP]
        trainer.clear()
        loss, error = graphs({"video": video, "weight": weight}, again)
        norm = trainer.update()
        errors.append(error)
        if log.due() or trainer.steps == 1:
            log(
                f"vae step {trainer.steps} frames {frames} batch {len(video)} loss {loss.item():.4f} "
                f"psnr {psnr(torch.stack(errors[-100:]).mean()):.2f} norm {norm.item():.2f} {log.memory()}"
            )
            if not log.quick:
                save()
    trainer.swap()
    torch.backends.cudnn.benchmark = False
    log(f"vae trained: {trainer.steps} steps")


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, maker: Maker, batches: int, batch: int) -> None:
    """Put the latents' mean and standard deviation into the autoencoder's settings."""
    with autocast(maker.device):
        means = [
            encode_clip(vae, maker.clip(batch, 17).video).float().chunk(2, 1)[0].transpose(0, 1).flatten(1)
            for _ in range(batches)
        ]
    latents = torch.cat(means, 1)
    vae.register_to_config(
        latents_mean=[round(v, 4) for v in latents.mean(1).tolist()],
        latents_std=[round(v, 4) for v in latents.std(1).tolist()],
    )


class Codec:
    """Normalised latents and back, in batches that fit the memory."""

    def __init__(self, vae: AutoencoderKLWan, device: torch.device) -> None:
        self.vae, self.device = vae, device
        self.mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
        self.std = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """(B, 16, T, h, w) float32 of (B, 3, 4T-3, H, W)."""
        parts = video.split(self._batch(video[0, 0].numel()))
        with autocast(self.device):
            means = [encode_clip(self.vae, part.to(self.mean.dtype)).float().chunk(2, 1)[0] for part in parts]
        return (torch.cat(means) - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """(B, 3, 4T-3, H, W) float32 in [-1, 1] of (B, 16, T, h, w)."""
        pixels = latents[0, 0].numel() * 256
        with autocast(self.device):
            videos = [
                decode_clip(self.vae, part.float() * self.std + self.mean).float().clamp(-1, 1)
                for part in latents.split(self._batch(pixels))
            ]
        return torch.cat(videos)

    def _batch(self, pixels: int) -> int:
        # cuDNN's indices are 32 bits wide: 32 channels of quarter pictures, three times for the convolution.
        return max(1, int(6e7 // pixels)) if self.device.type == "cuda" else 2


def evaluate_vae(codec: Codec, maker: Maker, count: int, frames: int) -> dict[str, float]:
    """Quality of reconstructed held-out clips.

    In the names of the numbers, `late` is about their last frames and `first` about their first. `join` is the frame
    difference where a second window takes over the last frames of a first one, relative to the ordinary. `alike` is
    about mouths in tall pictures of two people whose hair has nearly their skin's colour.
    """
    report = {}
    for people in (1, 2):
        clip = maker.clip(count, frames, people=people, size=(160, 96), silent=0, wander=0)
        drawn = clip.video.float()
        mouth = mouth_region(clip.scene).amax(1)[:, None, None].expand_as(drawn)
        video = drawn
        for times in ("", "_twice"):  # the second time, what came out is put in
            video = codec.decode(codec.encode(video))
            error = ((video - drawn) / 2).square()
            report[f"psnr_{people}{times}"] = psnr(error.mean())
            report[f"psnr_late_{people}{times}"] = psnr(error[:, :, -8:].mean())
            report[f"psnr_mouth_{people}{times}"] = psnr((error * mouth).sum() / mouth.sum())
            first = (error * mouth)[:, :, 0].sum() / mouth[:, :, 0].sum()
            report[f"psnr_mouth_first_{people}{times}"] = psnr(first)
            measured, wanted = measure_mouth(clip.scene, video), measure_mouth(clip.scene, drawn)
            report[f"mouth_corr_{people}{times}"] = correlation(measured, wanted).mean().item()
        length = (frames + OVERLAP) // 2 // 4 * 4 + 1
        first = codec.decode(codec.encode(drawn[:, :, :length]))
        second = codec.decode(codec.encode(torch.cat((first[:, :, -OVERLAP:], drawn[:, :, length:]), 2)))
        joined = torch.cat((first, second[:, :, OVERLAP:]), 2).diff(dim=2).abs().mean((1, 3, 4))
        report[f"join_{people}"] = (joined[:, length - 1] / joined.median(1).values).mean().item()
    clip = maker.clip(2 * count, frames, people=2, size=(96, 160), silent=0, wander=0, alike=1)
    wanted = measure_mouth(clip.scene, clip.video.float())
    measured = measure_mouth(clip.scene, codec.decode(codec.encode(clip.video.float())))
    moves = wanted.std(-1) > 0.05
    measured, wanted = measured[moves], wanted[moves]
    for name, values in (("corr", correlation(measured, wanted)), ("amplitude", measured.std(-1) / wanted.std(-1))):
        report[f"alike_{name}"], report[f"alike_{name}_min"] = values.mean().item(), values.amin().item()
    return report


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation along the last axis."""
    a, b = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    return F.cosine_similarity(a, b, dim=-1, eps=1e-9)
