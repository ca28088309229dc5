"""Kernels prove themselves: a GPU on which chosen ones raise or return wrong numbers, played on the CPU."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from infinitetalk.arithmetic import FLASH_3, ROWS, TENSORS, Arithmetic
from infinitetalk.models import kernels as module
from infinitetalk.models.attention import MEASURED, Attention, find_kernel
from infinitetalk.models.fp8 import Fp8Linear, choose_scales
from infinitetalk.models.kernels import Candidates, choose_kernels
from infinitetalk.models.sparse_attention import BLOCK_TOKENS, plain_sparse_attention
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.trials import EXACT_ERROR, AttentionTrial, TrialFailed, exact_attention

CPU = torch.device("cpu")
CUDNN, FLASH = "_native_cudnn", "_native_flash"
SIZES = {"num_attention_heads": 2, "attention_head_dim": 48, "text_dim": 16, "freq_dim": 16, "ffn_dim": 64}
AUDIO = {"audio_layers": 3, "audio_channels": 4, "audio_hidden": 8, "audio_tokens": 2, "audio_dim": 16}
FOUND = find_kernel("native")


@pytest.fixture(scope="module")
def model() -> InfiniteTalkTransformer:
    return InfiniteTalkTransformer(**SIZES, **AUDIO, num_layers=1, image_dim=16).eval().requires_grad_(False)


@dataclass(frozen=True)
class Gpu(AttentionTrial):
    """A GPU whose kernels take these milliseconds."""

    times_ms: dict[Attention, float] = field(default_factory=dict)

    def milliseconds(self, kernel: Attention) -> float:
        return self.times_ms[kernel]


def gpu(times_ms: dict[Attention, float]) -> Gpu:
    return Gpu(CPU, 2, 8, torch.float32, tokens=200, timed_tokens=0, times_ms=times_ms)


def right(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return FOUND(query, key, value)


def coarse(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As exact as 8 bits."""
    return FOUND(query, key, value.to(torch.float8_e4m3fn).to(value.dtype))


def raises(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    raise RuntimeError("No available kernel.\nMore lines")


def without_the_last_keys(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A kernel that leaves out what does not fill its block."""
    whole = max(1, key.shape[1] // 64) * 64
    return FOUND(query, key[:, :whole], value[:, :whole])


def with_a_wrong_scale(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return FOUND(query * math.sqrt(query.shape[-1]), key, value)


def not_a_number(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output = FOUND(query, key, value)
    output[0, -1, -1, -1] = torch.nan
    return output


def infinite(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output = FOUND(query, key, value)
    output[0, 0, 0, 0] = torch.inf
    return output


def wrong_for_voices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every frame hears the first one's voice."""
    return FOUND(query, key[:1].expand_as(key), value[:1].expand_as(value))


def not_installed() -> Attention:
    raise ValueError("it is not installed")


def loads(kernel: Attention) -> Callable[[], Attention]:
    return lambda: kernel


def copy_of(kernel: Attention) -> Attention:
    """The same, another kernel to the clock."""
    return partial(kernel)


WRONG = [raises, without_the_last_keys, with_a_wrong_scale, not_a_number, infinite, wrong_for_voices]


@pytest.mark.parametrize("wrong", [*WRONG, coarse])
def test_an_exact_kernel_that_raises_or_errs_is_left_out_and_the_next_one_taken(
    wrong: Attention, model: InfiniteTalkTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    candidates = Candidates({FLASH_3: loads(wrong), CUDNN: loads(right)}, "native", {})
    chosen, arithmetic = choose_kernels(model, Arithmetic(), candidates, gpu({wrong: 1.0, right: 2.0}))
    assert arithmetic == Arithmetic(CUDNN)
    assert chosen.attention is right
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("attention kernel _flash_3 is left out: ")
    assert "\n" not in lines[0]


@pytest.mark.parametrize(
    ("times_ms", "chosen"),
    [
        ((161, 194, 321), FLASH_3),
        ((None, 194, 321), CUDNN),
        ((None, 194, 180), FLASH),
        ((None, 194, 190), CUDNN),  # as good as equal
        ((None, None, None), "native"),
    ],
)
def test_the_fastest_kernel_that_passes_is_taken(
    times_ms: tuple[float | None, ...], chosen: str, model: InfiniteTalkTransformer
) -> None:
    copies = {name: copy_of(right) for name in MEASURED}
    table = dict(zip(MEASURED, times_ms, strict=True))
    exact = {name: not_installed if table[name] is None else loads(copies[name]) for name in MEASURED}
    clock = gpu({copies[name]: time_ms for name, time_ms in table.items() if time_ms is not None})
    _, arithmetic = choose_kernels(model, Arithmetic(), Candidates(exact, "native", {}), clock)
    assert arithmetic.attention == chosen


def test_no_job_runs_where_no_kernel_is_right(model: InfiniteTalkTransformer) -> None:
    candidates = Candidates({CUDNN: loads(raises), "native": loads(not_a_number)}, "native", {})
    with pytest.raises(ValueError, match="'native' cannot be used: its relative error is nan in the self-attention"):
        choose_kernels(model, Arithmetic(), candidates, gpu({}))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_named_kernel_that_fails_its_trial_is_not_replaced(wrong: Attention, model: InfiniteTalkTransformer) -> None:
    candidates = Candidates({FLASH_3: loads(right), CUDNN: loads(wrong)}, "native", {})
    with pytest.raises(ValueError, match=r"'_native_cudnn' cannot be used: (its relative error|No available kernel)"):
        choose_kernels(model, Arithmetic(CUDNN), candidates, gpu({}))


def test_a_named_kernel_is_taken_though_another_is_faster(model: InfiniteTalkTransformer) -> None:
    candidates = Candidates({FLASH_3: loads(copy_of(right)), CUDNN: loads(right)}, "native", {})
    chosen, arithmetic = choose_kernels(model, Arithmetic(CUDNN), candidates, gpu({}))
    assert (chosen.attention, arithmetic) == (right, Arithmetic(CUDNN))


@pytest.mark.parametrize(
    ("exact_name", "kernel", "fp8_ms", "text"),
    [
        ("auto", coarse, 70, "_flash_3 (self-attention in 8 bits)"),
        (FLASH_3, coarse, 70, "_flash_3 (self-attention in 8 bits)"),
        (CUDNN, coarse, 70, "_native_cudnn (self-attention not in 8 bits)"),  # its own, or none
        ("auto", coarse, 99, "_flash_3 (self-attention not in 8 bits)"),  # not worth its error
        *(("auto", wrong, 70, "_flash_3 (self-attention not in 8 bits)") for wrong in WRONG[:-1]),
    ],
)
def test_self_attention_is_in_8_bits_where_a_kernel_is_right_and_faster(
    exact_name: str, kernel: Attention, fp8_ms: float, text: str, model: InfiniteTalkTransformer
) -> None:
    candidates = Candidates({FLASH_3: loads(right), CUDNN: loads(copy_of(right))}, "native", {FLASH_3: loads(kernel)})
    clock = gpu({right: 100, kernel: fp8_ms, candidates.exact[CUDNN](): 150})
    chosen, arithmetic = choose_kernels(model, Arithmetic(exact_name, fp8=True), candidates, clock)
    assert arithmetic.attention_text == text
    parts = clock.draw(1, 12, 12)
    used = kernel if "not in" not in text else right
    assert torch.equal(chosen.self_attention(*parts, 3), used(*parts))
    assert torch.equal(chosen.attention(*parts), right(*parts))


def test_a_choice_that_has_been_made_is_kept_or_refused(model: InfiniteTalkTransformer) -> None:
    slow = copy_of(coarse)
    candidates = Candidates({CUDNN: loads(right)}, "native", {FLASH_3: loads(coarse), CUDNN: loads(slow)})
    for name, used in ((CUDNN, slow), (None, right)):
        arithmetic = Arithmetic(CUDNN, fp8=True, fp8_scales=ROWS, fp8_attention=name)
        chosen, found = choose_kernels(model, arithmetic, candidates, gpu({}))
        assert found == arithmetic
        parts = gpu({}).draw(1, 12, 12)
        assert torch.equal(chosen.self_attention(*parts, 3), used(*parts))
    broken = Candidates({CUDNN: loads(right)}, "native", {CUDNN: loads(raises)})
    with pytest.raises(
        ValueError, match="the 8-bit attention kernel '_native_cudnn' cannot be used: No available kernel"
    ):
        choose_kernels(model, Arithmetic(CUDNN, fp8=True, fp8_attention=CUDNN), broken, gpu({}))


def test_another_8_bit_kernel_than_the_exact_one_s_is_named() -> None:
    arithmetic = Arithmetic(FLASH, fp8=True, fp8_attention=CUDNN)
    assert arithmetic.attention_text == "_native_flash (self-attention in 8 bits by _native_cudnn)"


def sparse(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool) -> Tensor:
    """Sparse attention as a GPU computes it."""
    return plain_sparse_attention(query, key, value, frames, density, narrow, BLOCK_TOKENS)


def test_sparse_attention_proves_itself_or_is_refused(
    model: InfiniteTalkTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, arithmetic = Candidates({CUDNN: loads(right)}, "native", {}), Arithmetic(CUDNN, density=0.5)
    clock = Gpu(CPU, 3, 32, torch.bfloat16, tokens=600)
    monkeypatch.setattr(module, "sparse_attention", sparse)
    chosen, found = choose_kernels(model, arithmetic, candidates, clock)
    assert found == arithmetic
    parts = clock.draw(1, 600, 600)
    assert torch.equal(chosen.self_attention(*parts, 4), sparse(*parts, 4, 0.5, False))

    def too_few(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool) -> Tensor:
        return sparse(query, key, value, frames, 0.01, narrow)

    monkeypatch.setattr(module, "sparse_attention", too_few)
    with pytest.raises(ValueError, match="sparse attention cannot be used on this device: its relative error"):
        choose_kernels(model, arithmetic, candidates, clock)


def test_sparse_attention_is_in_8_bits_where_that_is_right(
    model: InfiniteTalkTransformer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    candidates, clock = Candidates({CUDNN: loads(right)}, "native", {}), Gpu(CPU, 3, 32, torch.bfloat16, tokens=600)
    arithmetic = Arithmetic(CUDNN, fp8=True, density=0.5)
    parts = clock.draw(1, 600, 600)
    monkeypatch.setattr(module, "sparse_attention", sparse)
    chosen, found = choose_kernels(model, arithmetic, candidates, clock)
    assert found.attention_text == "50 % of the self-attention in 8 bits, _native_cudnn"
    assert torch.equal(chosen.self_attention(*parts, 4), sparse(*parts, 4, 0.5, True))

    def wide_only(query: Tensor, key: Tensor, value: Tensor, frames: int, density: float, narrow: bool) -> Tensor:
        return sparse(query, key, value * (2 if narrow else 1), frames, density, narrow)

    monkeypatch.setattr(module, "sparse_attention", wide_only)
    chosen, wide = choose_kernels(model, arithmetic, candidates, clock)
    assert wide.attention_text == "50 % of the self-attention, _native_cudnn"
    assert "the sparse self-attention is not in 8 bits: its relative error is 1" in caplog.text
    assert torch.equal(chosen.self_attention(*parts, 4), sparse(*parts, 4, 0.5, False))
    # A choice that another GPU of the same job has made is kept.
    assert choose_kernels(model, wide, candidates, clock)[1] == wide
    with pytest.raises(ValueError, match="sparse attention in 8 bits cannot be used: its relative error is 1"):
        choose_kernels(model, found, candidates, clock)


def test_trials_know_the_exact_result_and_compare_all_of_it() -> None:
    trial = gpu({})
    parts = trial.draw(2, 30, 7)
    torch.testing.assert_close(exact_attention(*parts), right(*parts))
    trial.prove_exact(right)
    trial.prove_fp8(coarse)
    with pytest.raises(TrialFailed, match=rf"its relative error is 0\.0\d+ in the self-attention, over {EXACT_ERROR}"):
        trial.prove_exact(coarse)
    with pytest.raises(TrialFailed, match="in the attention to a voice"):
        trial.prove_exact(wrong_for_voices)


def test_a_cpu_takes_what_pytorch_chooses(model: InfiniteTalkTransformer) -> None:
    assert choose_kernels(model, Arithmetic())[1] == Arithmetic("native")
    assert choose_kernels(model, Arithmetic(fp8=True))[1].attention_text == "native (self-attention not in 8 bits)"


class WrongLayer(nn.Module):
    """Its products lack the rows' scales."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states / states.abs().amax(dim=-1, keepdim=True))


class MissingLayer(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()

    def forward(self, states: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")


@pytest.mark.parametrize("rows", [MissingLayer, WrongLayer])
def test_layers_take_one_scale_a_matrix_where_rows_do_not_work(
    rows: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    small = {"shapes": ((64, 96), (32, 64)), "tokens": 50}
    tensors = partial(Fp8Linear, scales=TENSORS)
    assert choose_scales(CPU, {ROWS: Fp8Linear, TENSORS: tensors}, **small) == ROWS
    assert choose_scales(CPU, {ROWS: rows, TENSORS: tensors}, **small) == TENSORS
    assert "8-bit products with scales by rows is left out" in caplog.text
    with pytest.raises(ValueError, match="no 8-bit products work on this GPU"):
        choose_scales(CPU, {ROWS: rows, TENSORS: MissingLayer}, **small)


def test_the_result_names_the_scales() -> None:
    assert Arithmetic("native", fp8=True, fp8_scales=ROWS).precision_text("bfloat16") == "bfloat16, fp8"
    found = Arithmetic("native", fp8=True, fp8_scales=TENSORS).precision_text("bfloat16")
    assert found == "bfloat16, fp8, one scale a matrix"


@pytest.mark.requires_cuda
def test_trials_on_the_gpu_reserve_nothing() -> None:
    sizes = SIZES | {"num_attention_heads": 40, "attention_head_dim": 128}
    moved = InfiniteTalkTransformer(**sizes, **AUDIO, num_layers=1).to("cuda", torch.bfloat16)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    _, arithmetic = choose_kernels(moved, Arithmetic(fp8=True, fp8_scales=choose_scales(moved.device)))
    assert arithmetic.attention in MEASURED
    assert torch.cuda.memory_reserved() - before < 50 << 20
