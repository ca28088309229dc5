"""A reference picture as CLIP features."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


@torch.inference_mode()
def embed_picture(encoder: CLIPVisionModel, picture: Tensor) -> Tensor:
    """Penultimate-layer features (1, tokens, channels) of a picture (3, height, width) in [-1, 1].

    The whole picture is squeezed to a square, as in Wan's own code, so nothing at its edges is lost to a crop.
    """
    side = encoder.config.image_size
    square = F.interpolate(picture.unsqueeze(0).float(), size=(side, side), mode="bicubic", align_corners=False)
    mean, std = (square.new_tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    pixels = ((square * 0.5 + 0.5) - mean) / std
    outputs = encoder(pixels.to(encoder.device, encoder.dtype), output_hidden_states=True)
    return cast(Tensor, outputs.hidden_states[-2])
