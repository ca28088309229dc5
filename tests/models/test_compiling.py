"""The compiled transformer against the eager one."""

import functools
import shutil
from pathlib import Path

import pytest
import torch
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache, check_cacheable
from torch.nn.attention import SDPBackend

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.settings import Settings
from infinitetalk.models import compiling
from infinitetalk.models.attention import sdpa_attention
from infinitetalk.models.fp8 import quantise_block
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context
from infinitetalk.startup.opening import open_models
from tests.models.test_transformer import Case
from tests.support.golden import info, load_golden_transformer, wan_folder

EXACT = Arithmetic("native")


def small_model() -> InfiniteTalkTransformer:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 32}
    audio = {"audio_layers": 3, "audio_channels": 4, "audio_hidden": 8, "audio_tokens": 2, "audio_dim": 6}
    return InfiniteTalkTransformer(**sizes, **audio, num_layers=2, image_dim=8).eval().requires_grad_(False)


@torch.inference_mode()
def test_compiled_blocks_give_the_eager_results_at_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the captured graphs, but not the kernels that are generated from them: those need a C++ compiler here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = small_model()

    def passes() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        results = []
        for frames, height, width, people in ((5, 4, 8, 1), (4, 8, 6, 2), (6, 4, 4, 2)):
            latents = torch.randn(1, 36, frames, height, width, generator=generator)
            voice = torch.randn(1, people, 4 * frames - 3 + 4, 3, 4, generator=generator)
            masks = torch.eye(3, height * width // 4).unsqueeze(0) if people == 2 else None
            context = Context(
                model.embed_text(torch.randn(1, 512, 8, generator=generator)),
                model.embed_image(torch.randn(1, 5, 8, generator=generator)),
                model.embed_audio(voice, "multi" if people == 2 else "single", masks),
                model.rotary_embedding(latents),
            )
            results.append(model(latents, model.embed_timesteps(torch.tensor([300.0])).step(0), context))
        return results

    eager = passes()
    compiling.compile_transformer(model, EXACT)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for compiled, expected in zip(passes(), eager, strict=True):
        torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "a new size was compiled again"


EMBEDDERS = ("image_embedder", "audio_proj")  # of a bundled part of the set they give stored numbers, in float32


def lower(module: torch.nn.Module) -> None:
    """Let an embedder that stays in float32 give bfloat16."""
    forward = module.forward
    module.forward = lambda inputs: forward(inputs.float()).bfloat16()


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles for a CPU, which needs g++")
@torch.inference_mode()
def test_compiled_bfloat16_is_no_further_from_the_authors_numbers_than_eager(tmp_path: Path) -> None:
    model = load_golden_transformer(wan_folder(tmp_path))
    for name, parameter in model.named_parameters():
        if not {*model._keep_in_fp32_modules, *EMBEDDERS} & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    lower(model.condition_embedder.image_embedder)
    lower(model.adapters["single"].audio_proj)
    case = Case("dit_multi", model)
    case.latents, case.audio = case.latents.bfloat16(), case.audio.bfloat16()
    case.inputs = {key: value.bfloat16() for key, value in case.inputs.items()}
    stored = {key: value for key, value in case.outputs.items() if ".cond." in key}
    mask_sets = [name for name in case.inputs if name.startswith("ref_target_masks")]
    assert len(stored) == len(mask_sets) * len(info("dit_multi")["timesteps"])

    def error() -> float:
        errors = []
        for key, expected in stored.items():
            _, kind, masks, time = key.split(".")
            made = case.predict(kind, int(masks.removeprefix("mask")), int(time.removeprefix("t"))).float()
            errors.append(float((made - expected).norm() / expected.norm()))
        return sum(errors) / len(errors)

    eager = error()
    model.compile_repeated_blocks(fullgraph=True, dynamic=True)
    assert 0.001 < error() <= 1.05 * eager


class Compiler:
    """Stands in for torch.compile and its cache: `loads` are what it was handed, `intact` whether it can read them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[bytes] = []
        self.intact = True
        monkeypatch.setattr(InfiniteTalkTransformer, "compile_repeated_blocks", lambda *_, **__: None)
        monkeypatch.setattr(torch.compiler, "load_cache_artifacts", self.load)
        monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"kernels", None))

    def load(self, content: bytes) -> object:
        self.loads.append(content)
        return object() if self.intact else None


@torch._inductor.config.patch(unsafe_marked_cacheable_functions={})
def test_choosing_an_attention_kernel_does_not_keep_a_graph_from_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    Compiler(monkeypatch)
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    attend = sdpa_attention(SDPBackend.FLASH_ATTENTION)  # cuDNN's is chosen in the same way, and no CPU has it
    heads = torch.randn(1, 6, 2, 12)
    torch.compile(lambda q: attend(q, q, q), fullgraph=True, backend=capture)(heads)
    with pytest.raises(BypassAOTAutogradCache, match="Unsupported call_function"):
        check_cacheable(graphs[0])
    compiling.compile_transformer(small_model(), EXACT)
    check_cacheable(graphs[0])


def test_what_one_worker_compiled_the_next_one_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, model = Compiler(monkeypatch), small_model()
    compiling.compile_transformer(model, EXACT, tmp_path)
    assert compiler.loads == []
    (kept,) = (tmp_path / compiling.FOLDER).iterdir()
    assert kept.read_bytes() == b"kernels"

    compiling.compile_transformer(model, EXACT, tmp_path)
    assert compiler.loads == [b"kernels"]

    compiler.intact = False
    kept.write_bytes(b"damaged")
    compiling.compile_transformer(model, EXACT, tmp_path)
    assert compiler.loads[1:] == [b"damaged"]
    assert kept.read_bytes() == b"kernels"


def test_other_kernels_and_types_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Compiler(monkeypatch)
    model = small_model()
    compiling.compile_transformer(model, EXACT, tmp_path)
    compiling.compile_transformer(model, Arithmetic("_flash_3"), tmp_path)
    quantise_block(model, 0)
    monkeypatch.setattr(compiling, "_warm_up", lambda _: None)  # 8-bit layers give bfloat16, the others are float32
    compiling.compile_transformer(model, EXACT, tmp_path)
    assert len(list((tmp_path / compiling.FOLDER).iterdir())) == 3


def test_without_a_volume_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(monkeypatch)
    compiling.compile_transformer(small_model(), EXACT, tmp_path / "volume")
    compiling.compile_transformer(small_model(), EXACT)
    assert compiler.loads == []
    assert list(tmp_path.iterdir()) == []


def test_only_a_gpu_is_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infinitetalk.models.opening.compile_transformer", lambda *_: pytest.fail("compiled for a CPU"))
    open_models(Settings.from_env({"DEVICE": "cpu"}))
