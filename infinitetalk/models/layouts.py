"""Which names a weight file uses, by the names in it: the original release's, diffusers', transformers', ComfyUI's."""

from collections.abc import Iterable, Mapping
from math import prod

from infinitetalk.models import original
from infinitetalk.models.stored import Shape

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
PATCH = (1, 2, 2)  # of all Wan2.1 models, in latent frames and latent pixels


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Names in a file, by these names without the prefix that all of them have, if it is one of PREFIXES."""
    names = list(names)
    prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), "")
    return {name.removeprefix(prefix): name for name in names}


def transformer_names(names: Iterable[str]) -> dict[str, str]:
    """Names of a Wan transformer's tensors in a file, in diffusers' or the original spelling, by diffusers' names."""
    found = without_prefix(names)
    if any(name.startswith("condition_embedder.") for name in found):
        return found
    return {new: found[name] for name, new in original.transformer_names(found).items()}


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the Wan autoencoder's tensors, by their names in a file, in the original spelling."""
    found = without_prefix(names)
    return {found[name]: new for name, new in original.vae_names(found).items()}


def patch_embedding_shape(shapes: Mapping[str, Shape]) -> Shape:
    """(channels, channels in, *PATCH) of a Wan transformer's patch embedding, which GGUF files may hold folded.

    Raises KeyError where there is none.
    """
    shape = shapes["patch_embedding.weight"]
    if len(shape) == 2 + len(PATCH):
        return shape
    channels = shapes["patch_embedding.bias"][0]
    return (channels, prod(shape) // (channels * prod(PATCH)), *PATCH)


def unfolded(name: str, shape: Shape, expected: Mapping[str, Shape]) -> Shape:
    """The expected shape of a tensor, where the file's differs from it only in what GGUF does not keep.

    That is dimensions of 1, and more than four of them, which only the patch embedding has.
    """
    wanted = expected.get(name, shape)
    is_folded = name == "patch_embedding.weight" and prod(shape) == prod(wanted)
    return wanted if is_folded or _without_ones(shape) == _without_ones(wanted) else shape


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)
