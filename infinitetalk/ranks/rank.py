"""What a rank other than 0 does: it joins the group, holds its copy of the models and follows orders."""

import sys
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.logs import configure_logging, places
from infinitetalk.models.compiling import CompiledFiles, compile_transformer
from infinitetalk.models.context_parallel import Shards
from infinitetalk.models.device import synchronise
from infinitetalk.models.fast_vae import optimise_vae
from infinitetalk.models.kernels import choose_kernels
from infinitetalk.models.split_vae import SplitDecoder
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context, TimeEmbedding
from infinitetalk.ranks.group import Order, Report
from infinitetalk.ranks.joining import Joining, join_group
from infinitetalk.ranks.shipping import Receiver


class Rank:
    """What a rank holds, and what it can be told to do: each public method is an order of `Ranks.together`."""

    decoder: SplitDecoder  # from `adopt_vae` on

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.transformers: dict[str, InfiniteTalkTransformer] = {}  # by lane

    def adopt_transformer(self, value: tuple[str, InfiniteTalkTransformer, Arithmetic]) -> None:
        """Take over rank 0's transformer of a lane, to compute with the kernels that it has chosen."""
        lane, transformer, arithmetic = value
        kernels, _ = choose_kernels(transformer, arithmetic)
        transformer.use_kernels(kernels)
        transformer.use_shards(self.shards)
        self.transformers[lane] = transformer

    def adopt_vae(self, value: tuple[AutoencoderKLWan, bool]) -> None:
        """Take over rank 0's autoencoder, compiled or not, to decode."""
        vae, compiled = value
        if vae.device.type == "cuda":
            optimise_vae(vae, compiled)
        self.decoder = SplitDecoder(vae, self.shards)

    def compile(self, value: tuple[str, Arithmetic, CompiledFiles | None]) -> None:
        """Compile the blocks of a lane's transformer."""
        lane, arithmetic, files = value
        compile_transformer(self.transformers[lane], arithmetic, files)

    def predict(self, value: tuple[str, Tensor, TimeEmbedding, Context]) -> None:
        """This rank's part of a pass in a lane."""
        lane, *inputs = value
        self.transformers[lane](*inputs)

    def decode(self, latents: Tensor) -> None:
        """This rank's part of a window's frames."""
        self.decoder(latents)


def follow(connection: Connection) -> None:
    """Follow rank 0's orders until it is gone."""
    configure_logging("WARNING", sys.stderr)
    with suppress(EOFError, OSError):  # rank 0 needs this one no more
        connection.send(Report())
        joining: Joining = connection.recv()
        try:
            _serve(connection, joining)
        except (torch.OutOfMemoryError, MemoryError) as error:
            connection.send(Report(" ".join(places(error)), is_memory=True))
        except Exception as error:  # whatever it is, rank 0 has to know
            connection.send(Report(" ".join(places(error))))


@torch.inference_mode()
def _serve(connection: Connection, joining: Joining) -> None:
    """Join the group and follow orders."""
    torch.set_num_threads(joining.threads)
    if joining.device.type == "cuda":
        torch.cuda.set_device(joining.device)
    join_group(joining)
    assert torch.distributed.group.WORLD is not None
    rank = Rank(Shards(joining.rank, joining.world, torch.distributed.group.WORLD.group_name))
    receiver = Receiver(joining.device)
    connection.send(Report())
    while True:
        order: Order = connection.recv()
        getattr(rank, order.name)(receiver.unpack(order.parcel))
        synchronise(joining.device)
        connection.send(Report())
