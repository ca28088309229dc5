"""Several lanes at once: which weights they share, and that none changes another's results."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import infinitetalk
from infinitetalk.arithmetic import EXACT, ROWS, Arithmetic
from infinitetalk.contract.presets import load_profile
from infinitetalk.contract.settings import Settings
from infinitetalk.models.compiling import compile_transformer
from infinitetalk.models.fp8 import Fp8Linear, quantise_block
from infinitetalk.models.lanes import LaneModel, make_lanes, sharing_copy
from infinitetalk.models.opening import Models, load_models
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context
from infinitetalk.startup.opening import open_models
from infinitetalk.startup.weights import Weights
from tests.support.small_transformer import small_bfloat16_transformer

FP8 = Arithmetic(fp8=True, fp8_scales=ROWS)


@torch.inference_mode()
def predict(lane: LaneModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    model, latents = lane.transformer, draw(1, 36, 4, 26, 28)  # 728 tokens: six blocks of 128
    context = Context(
        model.embed_text(draw(1, 512, 16)),
        model.embed_image(draw(1, 5, 16)),
        model.embed_audio(draw(1, 1, 17, 3, 4), "single"),
        model.rotary_embedding(latents),
    )
    return model(latents, model.embed_timesteps(torch.tensor([700.0])).step(0), context)


def alone(arithmetic: Arithmetic) -> Tensor:
    """The result of a worker with this lane only."""
    transformer = small_bfloat16_transformer()
    if arithmetic.fp8:
        for index in range(2):
            quantise_block(transformer, index)
    return predict(make_lanes(transformer, [arithmetic])[arithmetic.lane])


ALL = (Arithmetic(), FP8, Arithmetic(density=0.3), Arithmetic(fp8=True, density=0.3, fp8_scales=ROWS))


def test_every_lane_gives_what_it_gives_alone() -> None:
    lanes = make_lanes(small_bfloat16_transformer(), ALL)
    assert list(lanes) == [EXACT, "fp8", "sparse_30", "fp8_sparse_30"]
    results = {name: predict(lane) for name, lane in lanes.items()}
    for arithmetic in ALL:
        assert torch.equal(results[arithmetic.lane], alone(arithmetic))
    for other in ("fp8", "sparse_30", "fp8_sparse_30"):
        assert not torch.equal(results[EXACT], results[other])
    assert torch.equal(predict(lanes[EXACT]), results[EXACT])


def storage(module: nn.Module) -> dict[int, int]:
    """Bytes by the place where they lie."""
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def test_lanes_share_all_weights_but_the_large_layers_in_8_bits() -> None:
    lanes = {name: lane.transformer for name, lane in make_lanes(small_bfloat16_transformer(), ALL).items()}
    assert storage(lanes[EXACT]) == storage(lanes["sparse_30"])
    assert storage(lanes["fp8"]) == storage(lanes["fp8_sparse_30"])
    exact, narrow = storage(lanes[EXACT]), storage(lanes["fp8"])
    own = {
        tensor.untyped_storage().data_ptr()
        for part in lanes["fp8"].modules()
        if isinstance(part, Fp8Linear)
        for tensor in (part.weight, part.weight_scale, part.bias)
    }
    assert narrow.keys() - exact.keys() <= own
    large = [part.weight for part in lanes["fp8"].modules() if isinstance(part, Fp8Linear)]
    added = sum(narrow[place] for place in narrow.keys() - exact.keys())
    assert added < 1.3 * sum(weight.nbytes for weight in large)


def test_where_all_lanes_are_in_8_bits_no_other_large_layers_are_held() -> None:
    transformer = small_bfloat16_transformer()
    for index in range(2):
        quantise_block(transformer, index)
    lanes = make_lanes(transformer, [FP8, Arithmetic(fp8=True, density=0.3, fp8_scales=ROWS)])
    assert all(isinstance(lane.transformer.blocks[0].ffn.net[2], Fp8Linear) for lane in lanes.values())
    assert storage(lanes["fp8"].transformer) == storage(lanes["fp8_sparse_30"].transformer) == storage(transformer)


def test_compiled_lanes_keep_their_kernels_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetics = (Arithmetic(), Arithmetic(density=0.3), Arithmetic(density=0.6), FP8)
    lanes = make_lanes(small_bfloat16_transformer(), arithmetics)
    eager = {name: predict(lane) for name, lane in lanes.items()}
    torch.compiler.reset()
    compiled = InfiniteTalkTransformer.compile_repeated_blocks
    monkeypatch.setattr(
        InfiniteTalkTransformer,
        "compile_repeated_blocks",
        lambda self, **how: compiled(self, backend="aot_eager", **how),
    )
    for lane in lanes.values():
        compile_transformer(lane.transformer, lane.arithmetic)
    torch._dynamo.utils.counters.clear()
    for name, lane in lanes.items():
        difference = (predict(lane) - eager[name]).float().norm() / eager[name].float().norm()
        assert difference < 0.01
    assert not torch._dynamo.utils.counters["stats"].get("unique_graphs")  # no job waits for a graph
    torch.compiler.reset()


def test_the_worker_opens_the_lanes_that_it_is_set_to() -> None:
    models = open_models(Settings.from_env({"LANES": "sparse_40, exact", "DEVICE": "cpu"}))
    assert [*models.lanes] == ["sparse_40", "exact"]
    assert models.arithmetic == Arithmetic("native", density=0.4)
    assert models.in_lane(None) is models
    assert models.in_lane("exact").arithmetic == Arithmetic("native")
    assert models.in_lane("exact").transformer is models.lanes["exact"].transformer is not models.transformer
    assert models.in_lane("exact").vae is models.vae
    with pytest.raises(ValueError, match=r"8 bits \(FP8 or LANES\) need a GPU"):
        open_models(Settings.from_env({"LANES": "exact,fp8", "DEVICE": "cpu"}))


def load_on_meta(arithmetics: tuple[Arithmetic, ...]) -> Models:
    files = Weights.below(Path(infinitetalk.__file__).parent, load_profile("miniature")).files
    return load_models(files, torch.device("meta"), torch.bfloat16, arithmetics)


def test_names_and_shapes_can_be_checked_for_all_lanes() -> None:
    models = load_on_meta((Arithmetic(), Arithmetic(fp8=True)))
    assert isinstance(models.lanes["fp8"].transformer.blocks[0].ffn.net[2], Fp8Linear)
    assert isinstance(models.transformer.blocks[0].ffn.net[2], nn.Linear)


def test_a_copy_has_its_own_modules() -> None:
    transformer = small_bfloat16_transformer()
    copied = sharing_copy(transformer)
    quantise_block(copied, 0)
    assert isinstance(transformer.blocks[0].ffn.net[2], nn.Linear)
