"""torch.compile for the transformer: its blocks' norms, gates, rotations and activations in fused kernels."""

import hashlib
import hmac
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import TEXT_TOKENS, Context
from infinitetalk.transfer.volume import Volume

FOLDER = "infinitetalk-compiled"  # on the volume
MAX_KEPT_BYTES = 1 << 30  # 10 MB are kept

# The warm-up's window: 25 video frames, 7 latent frames of 8x22 latents. If two sizes are equal in the first pass,
# torch.compile assumes that they always are. So all of these differ from each other and from the masks' three rows.
_FRAMES, _LATENT_FRAMES, _HEIGHT, _WIDTH, _IMAGE_TOKENS = 25, 7, 8, 22, 13

_GRAPHS = 64  # of a block, at most: one for each lane and number of people

_CACHEABLE = {f"torch.nn.attention.{name}": torch.__version__ for name in ("_backend_from_string", "_sdpa_kernel")}

_SIGNATURE_BYTES = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledFiles:
    """What was compiled, on the volume, for the workers that start later.

    torch unpickles such a file: whoever can write one runs code in every worker that reads it. So each is signed, with
    its name, and one that this key has not signed is not touched.

    Args:
        key: secret, and nowhere on the volume.
    """

    volume: Volume
    key: bytes = field(repr=False)

    def load(self, name: str) -> bool:
        """Hand torch.compile what another worker compiled. A file that is missing or not right costs time only."""
        try:
            content = self.volume.read(f"{FOLDER}/{name}", MAX_KEPT_BYTES)
            signature, body = content[:_SIGNATURE_BYTES], content[_SIGNATURE_BYTES:]
            if not hmac.compare_digest(signature, self._signature(name, body)):
                logger.warning("%s is not used: it is damaged, or CACHE_KEY has not signed it", name)
                return False
            return torch.compiler.load_cache_artifacts(body) is not None
        except FileNotFoundError:
            return False
        except Exception as error:  # of torch's, for what another version of it has written
            logger.warning("%s is not used: %s", name, type(error).__name__)
            return False

    def save(self, name: str) -> None:
        """Keep what torch.compile has compiled in this process."""
        artifacts = torch.compiler.save_cache_artifacts()
        if artifacts is None:
            return
        body = artifacts[0]
        try:
            self.volume.write(f"{FOLDER}/{name}", self._signature(name, body) + body)
        except OSError as error:
            logger.warning("%s is not kept: %s", name, error.strerror or error)

    def _signature(self, name: str, body: bytes) -> bytes:
        return hmac.digest(self.key, name.encode() + b"\0" + body, "sha256")


def compile_transformer(
    transformer: InfiniteTalkTransformer, arithmetic: Arithmetic, files: CompiledFiles | None = None
) -> None:
    """Compile the blocks for one person and for two, once for windows of all sizes and lengths.

    One graph serves all blocks, which differ in weights only. It is compiled here, in a small pass, so that no job
    waits for it.

    Args:
        arithmetic: how the transformer computes; what was compiled holds for this alone.
        files: where what was compiled is kept for the workers that start later.
    """
    started_s = time.monotonic()
    name = f"{_fingerprint(transformer, arithmetic)}.bin"
    found = files is not None and files.load(name)
    # The blocks' numbers (eps of the norms) never change. If they were left open, every graph would be traced twice.
    torch._dynamo.config.specialize_float = True
    torch._dynamo.config.recompile_limit = _GRAPHS
    # The function that chooses cuDNN's attention is recorded in the graph. Unless marked, it prevents keeping the
    # graph.
    torch._inductor.config.unsafe_marked_cacheable_functions.update(_CACHEABLE)
    if transformer.shards.world > 1:
        # Otherwise each transfer is waited for at once, since the buffer that it comes from could be used again then.
        torch._inductor.config.reorder_for_peak_memory = False
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
    _warm_up(transformer)
    logger.info("transformer compiled in %.1f s%s", time.monotonic() - started_s, ", from the volume" if found else "")
    if files is not None and not found:
        files.save(name)


@torch.inference_mode()
def _warm_up(transformer: InfiniteTalkTransformer) -> None:
    """The first passes, which compile."""
    config, place = transformer.config, {"device": transformer.device, "dtype": transformer.dtype}
    latents = torch.randn(1, config.in_channels, _LATENT_FRAMES, _HEIGHT, _WIDTH, **place)
    text = transformer.embed_text(torch.randn(1, TEXT_TOKENS, config.text_dim, **place))
    image = transformer.embed_image(torch.randn(1, _IMAGE_TOKENS, config.image_dim, **place))
    time_embedding = transformer.embed_timesteps(torch.tensor([500.0], device=transformer.device))
    tokens = _HEIGHT * _WIDTH // 4
    for people in range(1, transformer.max_speakers + 1):
        audio = torch.randn(1, people, _FRAMES + 4, config.audio_layers, config.audio_channels, **place)
        masks = torch.eye(people + 1, tokens, device=transformer.device).unsqueeze(0) if people > 1 else None
        voices = transformer.embed_audio(audio, transformer.adapter_for(people), masks)
        transformer(latents, time_embedding, Context(text, image, voices, transformer.rotary_embedding(latents)))


def _fingerprint(transformer: InfiniteTalkTransformer, arithmetic: Arithmetic) -> str:
    """A name for what was compiled. It is the same for the same code, libraries, GPU, sizes and kernels."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    parts = (
        [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources],
        (torch.__version__, diffusers.__version__),
        torch.cuda.get_device_name(transformer.device) if transformer.device.type == "cuda" else "CPU",
        sorted((name, value) for name, value in transformer.config.items() if not name.startswith("_")),
        arithmetic,
        transformer.shards,
        [(name, tensor.dtype) for name, tensor in transformer.blocks[0].state_dict().items()],
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
