"""8-bit linear layers: the arithmetic, the layers that are replaced, and where it is refused."""

import pytest
import torch
from torch import Tensor, nn

from infinitetalk.contract.settings import Settings
from infinitetalk.models.e4m3 import FP8, LARGEST
from infinitetalk.models.fp8 import Fp8Linear, check_fp8, quantise, quantise_block
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context
from infinitetalk.startup.opening import open_models
from tests.support.small_transformer import small_bfloat16_transformer


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value.float() - expected.float()).norm() / expected.float().norm())


def test_every_row_uses_the_whole_range_of_e4m3() -> None:
    values = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [50.0], [1e4], [0.0]])
    quantised, scale = quantise(values)
    assert quantised.dtype == FP8
    assert scale.shape == (5, 1)
    assert quantised.float().abs().amax(dim=1).tolist() == [LARGEST] * 4 + [0.0]
    steps = quantised.float() * scale
    # e4m3 keeps three bits after the leading one: half a step is a sixteenth of the value, or of its smallest normal
    assert ((steps - values).abs() <= values.abs() / 16 + scale * 2**-10).all()


def test_the_layer_is_the_product_of_the_quantised_matrices() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32, dtype=torch.bfloat16).requires_grad_(False)
    layer, states = Fp8Linear(linear), torch.randn(2, 17, 64, dtype=torch.bfloat16)
    (rows, scale), (weight, weight_scale) = quantise(states.flatten(0, 1)), quantise(linear.weight)
    expected = (rows.double() * scale) @ (weight.double() * weight_scale).t() + linear.bias.double()
    product = layer(states)
    assert product.dtype == torch.bfloat16
    assert product.shape == (2, 17, 32)
    torch.testing.assert_close(product.flatten(0, 1), expected.bfloat16(), rtol=2**-7, atol=1e-3)
    assert 0.005 < relative_error(product, linear(states)) < 0.05


@pytest.fixture(scope="module")
def model() -> InfiniteTalkTransformer:
    return small_bfloat16_transformer()


@torch.inference_mode()
def predict(model: InfiniteTalkTransformer) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    latents = draw(1, 36, 2, 4, 6)
    masks = torch.eye(3, 6).unsqueeze(0)
    context = Context(
        model.embed_text(draw(1, 512, 16)),
        model.embed_image(draw(1, 5, 16)),
        model.embed_audio(draw(1, 2, 9, 3, 4), "multi", masks),
        model.rotary_embedding(latents),
    )
    time = model.embed_timesteps(torch.tensor([700.0])).step(0)
    return model(latents, time, context)


def test_only_layers_that_every_token_passes_are_replaced(model: InfiniteTalkTransformer) -> None:
    exact, before = predict(model), sum(tensor.nbytes for tensor in model.blocks.state_dict().values())
    for index in range(2):
        quantise_block(model, index)
    replaced = {name for name, part in model.named_modules() if isinstance(part, Fp8Linear) and ".1." not in name}
    attention = {"attn1.to_qkv", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2"}
    assert replaced == {f"blocks.0.{name}" for name in attention} | {
        f"adapters.{adapter}.blocks.0.audio_cross_attn.{name}"
        for adapter in ("single", "multi")
        for name in ("q_linear", "proj")
    }
    assert isinstance(model.blocks[0].attn2.to_k, nn.Linear)
    assert not hasattr(model.blocks[0].attn1, "to_q")
    assert sum(tensor.nbytes for tensor in model.blocks.state_dict().values()) < 0.75 * before
    assert model.dtype == torch.bfloat16
    assert 0 < relative_error(predict(model), exact) < 0.1


def test_a_device_without_8_bit_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="and the model is on cpu"):
        open_models(Settings.from_env({"FP8": "true", "DEVICE": "cpu"}))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(ValueError, match=r"8\.9, and NVIDIA A100 has 8\.0"):
        check_fp8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    check_fp8(torch.device("cuda"))


@pytest.mark.requires_cuda
def test_the_gpu_gives_what_the_cpu_gives() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5120, 1024, dtype=torch.bfloat16).requires_grad_(False)
    states = torch.randn(300, 5120, dtype=torch.bfloat16)
    expected = Fp8Linear(linear)(states)
    compiled = torch.compile(Fp8Linear(linear.cuda()), dynamic=True)
    assert relative_error(compiled(states.cuda()).cpu(), expected) < 0.005
