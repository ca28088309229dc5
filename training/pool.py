"""Clips that are drawn, encoded and kept, so that drawing does not hold up the training. New ones replace old ones."""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel

from infinitetalk.generation.masks import person_masks
from infinitetalk.shapes import latent_frames
from training.conditions import Conditioner, condition_of, picture_features, with_mask
from training.data import OVERLAP, SETTLE_FRAMES, Maker
from training.faces import Motion, Scene, eye_region, mouth_region, small_head_weight
from training.train_vae import Codec

ROLLED = (1, 4)  # for each later window of a scene: how many windows the transformer makes before it hands frames on
WINDOWS = 1 + len(ROLLED)  # windows of a scene: one that begins with the reference frame, and later ones
ALIKE = 0.15  # share of people whose hair has nearly their skin's colour
UNROLLED_SHARE = 0.2  # share of the handed-on frames that have only been through the autoencoder
SILENT_SHARES = (0.15, 0.25)  # share of voices that are silent for a whole window, with one person and with two
ROLL_FRAMES, ROLL_STEPS = 49, 3
FADE_FRAMES = 20  # errors in handed-on frames fade within a few times this, so that nothing jumps where windows join


def scene_masks(scene: Scene, size: tuple[int, int], maker: Maker, boxed: bool) -> Tensor:
    """(B, 3, S) masks of the two people: halves, or boxes around the heads."""
    if not boxed:
        return person_masks((None, None), size, size).expand(len(scene.x), -1, -1).to(maker.device)
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


def follow(handed: Tensor, drawn: Tensor, scene: Scene) -> Tensor:
    """The clip `drawn` (B, 3, T, H, W) as it goes on from the frames `handed` (B, 3, OVERLAP, H, W).

    The error of the last of these frames fades, except where mouths and eyes are: they must be right at once.
    """
    moving = torch.maximum(mouth_region(scene).amax(1), eye_region(scene).amax(1))[:, None, None]
    wrong = (handed[:, :, -1:] - drawn[:, :, OVERLAP - 1 : OVERLAP]) * (1 - moving)
    after = torch.arange(1, drawn.shape[2] - OVERLAP + 1, device=drawn.device)
    fading = wrong * torch.exp(-after / FADE_FRAMES).view(-1, 1, 1)
    return torch.cat((handed, (drawn[:, :, OVERLAP:] + fading).clamp(-1, 1)), 2)


@dataclass(frozen=True)
class Batch:
    """What one step trains on; see `Pool`."""

    latents: Tensor
    condition: Tensor
    held: Tensor
    starts: Tensor
    masks: Tensor | None
    weight: Tensor
    image: Tensor
    wanders: Tensor


@dataclass
class Pool:
    """Encoded clips of one size and number of people. Axes: N scenes, K windows.

    `stored` holds latents (N, K, 16, T, h, w), which begin with the motion latents in later windows; condition
    (N, 16, T, h, w); starts (N, K, P); masks (N, 2, 3, S), of halves and of boxes; weight (N, h, w); image (N, tokens,
    channels); wanders (N, K).
    """

    size: tuple[int, int]
    people: int
    frames: int
    capacity: int
    count: int = 0
    made: int = 0
    stored: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def fill(
        self,
        scenes: int,
        maker: Maker,
        codec: Codec,
        image_encoder: CLIPVisionModel,
        conditioner: Conditioner | None,
    ) -> None:
        """Draw and encode new scenes, in place of the oldest.

        Args:
            conditioner: its transformer makes the windows that hand motion latents on; None as long as it cannot.
        """
        scene = maker.painter.scene(scenes, self.people, self.size, alike=ALIKE)
        reference = maker.reference(scenes, self.people)
        starts = maker.starts((scenes, WINDOWS, self.people), self.frames, SILENT_SHARES[self.people - 1])
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
        # In a later window of a filmed source, the window before left the head elsewhere than the new reference has it.
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
        condition, image = condition_of(codec, pictures, self.frames), picture_features(image_encoder, pictures)
        masks = None
        if self.people == 2:
            masks = torch.stack([scene_masks(scene, self.size, maker, boxed) for boxed in (False, True)], 1)

        handed = codec.decode(codec.encode(video[~first, :, :OVERLAP])).unflatten(0, (scenes, WINDOWS - 1))
        if conditioner is not None:
            told = (condition, image, None if masks is None else masks[:, 0])
            # Heads that move on their own would not be where the transformer leaves them.
            known = ~wanders & (offset == 0).all(0).flatten(1).all(1)
            known = (known & ~maker.painter.chance(UNROLLED_SHARE, len(known))).view(-1, WINDOWS, 1, 1, 1, 1)
            for window, made in enumerate(ROLLED):
                rolled = self._roll(made, scene, starts[:, 1 + window], reference, told, maker, codec, conditioner)
                handed[:, window] = torch.where(known[:, 1 + window], rolled, handed[:, window])
        later = codec.encode(follow(handed.flatten(0, 1), video[~first], repeated[~first]))
        latents = torch.cat((codec.encode(video[first])[:, None], later.unflatten(0, (scenes, WINDOWS - 1))), 1)
        features = 8 * mouth_region(scene, 0.05) + 2 * eye_region(scene)
        weight = 1 + (small_head_weight(scene) * features).amax(1, keepdim=True)
        new = {
            "latents": latents,
            "condition": condition,
            "starts": starts,
            "weight": F.max_pool2d(weight, 8)[:, 0],
            "image": image,
            "wanders": wanders.view(scenes, WINDOWS),
        }
        if masks is not None:
            new["masks"] = masks
        place = self.made % self.capacity
        for name, value in new.items():
            kept = value.half() if value.is_floating_point() and value.is_cuda else value
            if name not in self.stored:
                self.stored[name] = kept.new_zeros(self.capacity, *kept.shape[1:])
            self.stored[name][place : place + scenes] = kept[: self.capacity - place]
        self.made += scenes
        self.count = min(self.capacity, self.made)

    def _roll(
        self,
        windows: int,
        scene: Scene,
        starts: Tensor,
        reference: tuple[Tensor, ...],
        told: tuple[Tensor | None, ...],
        maker: Maker,
        codec: Codec,
        conditioner: Conditioner,
    ) -> Tensor:
        """Frames (B, 3, OVERLAP, H, W) with which windows at `starts` (B, P) begin, after `windows` made windows."""
        condition, image, masks = told
        frames = min(ROLL_FRAMES, self.frames)
        kept = frames - OVERLAP
        begin = (starts - windows * kept).clamp(min=2)
        drawn = maker.motion(begin, OVERLAP, torch.zeros_like(begin[:, 0], dtype=torch.bool), reference)
        motion = codec.encode(maker.painter.draw(scene, drawn))
        part = with_mask(condition[:, :, : latent_frames(frames)])
        tail = motion
        for window in range(windows):
            voices = conditioner.voices(begin + window * kept, frames)
            noise = torch.randn_like(part[:, 4:])
            latents = conditioner.make_window(noise, part, motion, voices, image, masks, "euler", ROLL_STEPS)
            tail = codec.decode(latents)[:, :, -OVERLAP:]
            motion = codec.encode(tail)
        return tail

    def sample(self, size: int, frames: int, generator: torch.Generator) -> Batch:
        """A batch of windows of so many latent frames. Half of them are first windows."""
        device = self.stored["latents"].device
        integers = partial(torch.randint, size=(size,), device=device, generator=generator)
        scene = integers(0, self.count)
        window = torch.where(integers(0, 2) == 0, 0, integers(1, WINDOWS))
        latents = self.stored["latents"][scene, window, :, :frames].float()
        # Later windows hold overlaps of 5 or of 9 frames.
        held = torch.where(window == 0, 1, integers(2, latent_frames(OVERLAP) + 1))
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
            held,
            starts,
            masks,
            self.stored["weight"][scene].float(),
            self.stored["image"][scene].float(),
            self.stored["wanders"][scene, window],
        )
