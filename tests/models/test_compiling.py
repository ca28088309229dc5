"""The compiled transformer against the eager one."""

import functools
import hmac
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch._functorch._aot_autograd.autograd_cache import BypassAOTAutogradCache, check_cacheable
from torch.compiler._cache import CacheArtifactFactory, _serialize_single_cache
from torch.nn.attention import SDPBackend
from torch.utils._appending_byte_serializer import AppendingByteSerializer

from infinitetalk.arithmetic import Arithmetic
from infinitetalk.contract.settings import Settings
from infinitetalk.models import compiling
from infinitetalk.models.attention import sdpa_attention
from infinitetalk.models.compiling import CompiledFiles
from infinitetalk.models.fp8 import quantise_block
from infinitetalk.models.transformer import InfiniteTalkTransformer
from infinitetalk.models.video_transformer import Context
from infinitetalk.startup import opening
from infinitetalk.startup.opening import open_models
from infinitetalk.transfer.volume import Volume
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


@pytest.fixture
def files(tmp_path: Path) -> CompiledFiles:
    return CompiledFiles(Volume(tmp_path), b"a key")


def kept_files(files: CompiledFiles) -> list[Path]:
    return list((files.volume.root / compiling.FOLDER).iterdir())


def test_what_one_worker_compiled_the_next_one_loads(files: CompiledFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, model = Compiler(monkeypatch), small_model()
    compiling.compile_transformer(model, EXACT, files)
    assert compiler.loads == []
    (kept,) = kept_files(files)
    assert b"kernels" in kept.read_bytes()
    assert b"a key" not in kept.read_bytes()

    compiling.compile_transformer(model, EXACT, files)
    assert compiler.loads == [b"kernels"]

    compiler.intact = False  # written by another version of torch, say
    compiling.compile_transformer(model, EXACT, files)
    assert compiler.loads == [b"kernels", b"kernels"]


PLANTED = {
    "without a signature": lambda signed: b"kernels",
    "empty": lambda signed: b"",
    "changed": lambda signed: signed[:-1] + b"!",
    "of another key": lambda signed: hmac.digest(b"another", b"kernels", "sha256") + b"kernels",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_this_key_has_not_signed_is_not_handed_to_torch_and_is_replaced(
    planted: str, files: CompiledFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would unpickle it."""
    compiler, model = Compiler(monkeypatch), small_model()
    compiling.compile_transformer(model, EXACT, files)
    (kept,) = kept_files(files)
    signed = kept.read_bytes()
    kept.write_bytes(PLANTED[planted](signed))
    compiling.compile_transformer(model, EXACT, files)
    assert compiler.loads == []
    assert kept.read_bytes() == signed


def test_a_signed_file_under_another_name_is_not_loaded(files: CompiledFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(monkeypatch)
    files.save("one.bin")
    (files.volume.root / compiling.FOLDER / "one.bin").rename(files.volume.root / compiling.FOLDER / "other.bin")
    assert not files.load("other.bin")
    assert compiler.loads == []


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_planted_file_of_torchs_own_format_runs_nothing(
    files: CompiledFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    serializer = AppendingByteSerializer(serialize_fn=_serialize_single_cache)
    mark = tmp_path / "ran"
    artifact = CacheArtifactFactory.create("inductor", "fplanted", pickle.dumps(Planted(mark)))
    serializer.append(("inductor", [artifact]))
    planted = serializer.to_bytes()
    folder = tmp_path / compiling.FOLDER
    folder.mkdir()
    (folder / "planted.bin").write_bytes(planted)
    assert not files.load("planted.bin")
    assert not mark.exists()
    (folder / "planted.bin").write_bytes(files._signature("planted.bin", planted) + planted)
    files.load("planted.bin")
    assert mark.exists(), "torch does not unpickle it: this test shows nothing then"


def test_whatever_torch_makes_of_a_file_the_worker_starts(
    files: CompiledFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Compiler(monkeypatch)
    files.save("kept.bin")

    def fail(_: bytes) -> None:
        raise AttributeError("'int' object has no attribute '_triton_bundle'")

    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", fail)
    assert not files.load("kept.bin")
    assert "kept.bin is not used: AttributeError" in caplog.text


def test_a_pipe_in_place_of_a_file_is_not_waited_for(files: CompiledFiles) -> None:
    (files.volume.root / compiling.FOLDER).mkdir()
    os.mkfifo(files.volume.root / compiling.FOLDER / "kept.bin")
    assert not files.load("kept.bin")


def test_other_kernels_and_types_are_kept_apart(files: CompiledFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    Compiler(monkeypatch)
    model = small_model()
    compiling.compile_transformer(model, EXACT, files)
    compiling.compile_transformer(model, Arithmetic("_flash_3"), files)
    quantise_block(model, 0)
    monkeypatch.setattr(compiling, "_warm_up", lambda _: None)  # 8-bit layers give bfloat16, the others are float32
    compiling.compile_transformer(model, EXACT, files)
    assert len(kept_files(files)) == 3


KEY = "k" * 32


@pytest.mark.parametrize(
    ("env", "is_kept"), [({}, False), ({"CACHE_KEY": KEY, "VOLUME_DIR": "none"}, False), ({"CACHE_KEY": KEY}, True)]
)
def test_without_a_volume_or_a_key_nothing_is_kept_and_nothing_read(
    env: dict[str, str], is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[CompiledFiles | None] = []
    monkeypatch.setattr(opening.opening, "load_models", lambda *_: None)
    monkeypatch.setattr(opening.opening, "make_fast", lambda *_, compiled_files, **__: given.append(compiled_files))
    volume = tmp_path / env.get("VOLUME_DIR", "")
    open_models(Settings.from_env(env | {"VOLUME_DIR": str(volume)}))
    (files,) = given
    assert (files is not None) == is_kept
    if files is not None:
        assert (files.volume.root, files.key) == (volume, KEY.encode())
    assert KEY not in repr(given)


def test_only_a_gpu_is_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infinitetalk.models.opening.compile_transformer", lambda *_: pytest.fail("compiled for a CPU"))
    open_models(Settings.from_env({"DEVICE": "cpu"}))
