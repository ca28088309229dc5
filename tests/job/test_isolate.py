"""Vocals out of a job's songs: the whole way with a tiny separator, and what is heard with one of known effect."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch
from torch import Tensor

from infinitetalk.contract import presets
from infinitetalk.contract.presets import load_mode, load_profile, presets_dir
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun, Result
from infinitetalk.contract.settings import Settings
from infinitetalk.contract.values import LOCAL_FILES
from infinitetalk.errors import Cancelled, InvalidInput, ModelMissing
from infinitetalk.job.control import Control
from infinitetalk.job.isolate import isolated_waves
from infinitetalk.job.read import Job, read_job
from infinitetalk.job.run import run_job
from infinitetalk.media.audio import load_audio
from infinitetalk.media.encode import hash_streams
from infinitetalk.models.opening import Models
from infinitetalk.progress import Progress
from infinitetalk.startup.opening import open_models
from infinitetalk.startup.weights import find_weights
from infinitetalk.transfer.exchange import local_exchange, local_files
from tests.support.media_samples import ffmpeg, read_frames, write_picture
from tests.support.separator import LowPass, write_separator

CPU = torch.device("cpu")
MINIATURE = presets_dir().parent / "miniature"
HARDWARE = """
description = "Made up"
profile = "singing"
gpus = []
source = "Made up."
to_video_s_per_megapixel = 0.0
to_latents_s_per_megapixel = 0.0
s_per_frame = 0.0
s_per_job = 1.0
separate_s_per_chunk = 10.0

[[lanes.exact]]
attention = "native"
s_per_token = 0.0
s_per_token_squared = 0.0
shared_s_per_token = 0.0
"""
SOURCES = """
[[sources]]
repository = "example/miniature"
revision = "0000000000000000000000000000000000000000"
files = ["transformer/config.json"]

[[sources]]
repository = "example/MelBandRoFormer_comfy"
revision = "0000000000000000000000000000000000000000"
files = ["MelBandRoformer_fp16.safetensors"]
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A worker whose profile, `singing`, is the miniature with a tiny separator beside it, in a folder of models."""
    folder = tmp_path_factory.mktemp("singing")
    shutil.copytree(presets_dir(), folder / "presets")
    text = (folder / "presets" / "profiles" / "miniature.toml").read_text("utf-8")
    text = text.replace("is_embedded = true", "is_embedded = false")
    text += 'separator = "MelBandRoFormer_comfy/MelBandRoformer_fp16.safetensors"\n' + SOURCES
    (folder / "presets" / "profiles" / "singing.toml").write_text(text, "utf-8")
    (folder / "here.toml").write_text(HARDWARE, "utf-8")
    (folder / "models").mkdir()
    (folder / "models" / "miniature").symlink_to(MINIATURE)
    write_separator(folder / "models" / "MelBandRoFormer_comfy" / "MelBandRoformer_fp16.safetensors")
    variables = {"MODEL_PROFILE": "singing", "MODELS_DIR": folder / "models", "HARDWARE_FILE": folder / "here.toml"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "presets_dir", lambda: folder / "presets")
        yield Settings.from_env({name: str(value) for name, value in variables.items()})


@pytest.fixture(scope="module")
def models(settings: Settings) -> Models:
    return open_models(settings)


def write_song(path: Path, seconds: float, voice_hz: float = 200.0, rate_hz: int = 44_100) -> Path:
    """A low voice in the middle, and on the right cymbals of twice its amplitude at 5 kHz."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    voice, music = (0.2 * np.sin(2 * np.pi * hz * time) for hz in (voice_hz, 5_000))
    soundfile.write(path, np.stack([voice, voice + 4 * music], 1), rate_hz, "FLOAT")
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("media")
    return {
        "image_url": write_picture(folder / "face.png").as_uri(),
        "wav_url": write_song(folder / "song.wav", 0.36).as_uri(),
        "wav_url_2": write_song(folder / "song_2.wav", 0.2, 300.0).as_uri(),
    }


@pytest.fixture
def request_of(media: dict[str, str]) -> Callable[..., Request]:
    def request_of(**fields: Any) -> Request:
        names = ["image_url", "wav_url", *["wav_url_2"] * (fields.get("person_count") == "multi")]
        job = {"seed": 1, "speed_mode": "turbo"} | {name: media[name] for name in names} | fields
        return Request.parse(job, LOCAL_FILES)

    return request_of


@pytest.fixture
def run(
    models: Models, settings: Settings, request_of: Callable[..., Request], tmp_path: Path
) -> Callable[..., tuple[Any, Path]]:
    """Runs a job with the tiny separator, or with changed models and settings."""

    def run(
        models: Models = models, settings: Settings = settings, control: Control | None = None, **fields: Any
    ) -> tuple[Any, Path]:
        output = tmp_path / "out.mp4"
        exchange = local_exchange(output)
        return run_job(request_of(**fields), models, settings, exchange, control or Control("job")), output

    return run


def sound_of(video: Path) -> bytes:
    return ffmpeg("-i", video, "-map", "0:a", "-c", "copy", "-f", "adts", "-")


# --- whole jobs


def test_the_field_changes_what_the_model_hears_and_never_the_sound(run: Callable[..., tuple[Result, Path]]) -> None:
    plain, path = run(isolate_vocals=False)
    sound, frames = sound_of(path), read_frames(path, 96, 160)
    stages: list[str] = []
    isolated, path = run(isolate_vocals=True, control=Control("job", lambda progress: stages.append(progress.stage)))
    assert sound_of(path) == sound
    assert (read_frames(path, 96, 160) != frames).any()
    assert (plain.settings.isolate_vocals, isolated.settings.isolate_vocals) == (False, True)
    assert plain.settings.frames == isolated.settings.frames == 9
    assert "separate" not in plain.timings_s
    assert isolated.timings_s["separate"] > 0
    assert list(dict.fromkeys(stages))[1:5] == ["read_media", "encode", "separate", "audio"]


def test_the_same_job_gives_the_same_streams(run: Callable[..., tuple[Result, Path]]) -> None:
    first = hash_streams(run(isolate_vocals=True)[1])
    assert hash_streams(run(isolate_vocals=True)[1]) == first


def test_the_setting_decides_where_the_job_does_not(
    run: Callable[..., tuple[DryRun, Path]], settings: Settings
) -> None:
    by_default = settings.model_copy(update={"isolate_vocals": True})
    for worker, field, isolates in (
        (settings, None, False),
        (settings, True, True),
        (by_default, None, True),
        (by_default, False, False),
    ):
        result, _ = run(settings=worker, isolate_vocals=field, dry_run=True)
        assert result.settings.isolate_vocals is isolates


@pytest.mark.parametrize(("fields", "chunks"), [({}, 2), ({"person_count": "multi"}, 4)], ids=str)
def test_a_dry_run_counts_the_separators_time(
    fields: dict[str, Any], chunks: int, run: Callable[..., tuple[DryRun, Path]]
) -> None:
    off, on = (run(isolate_vocals=isolates, dry_run=True, **fields)[0].estimate for isolates in (False, True))
    assert on.seconds - off.seconds == pytest.approx(10 * chunks)
    assert on.cost_usd > off.cost_usd


def test_a_worker_without_the_weights_says_so_before_it_does_anything(
    run: Callable[..., tuple[Result, Path]], models: Models
) -> None:
    without = dataclasses.replace(models, separator=None)
    for dry_run in (False, True):
        with pytest.raises(ModelMissing, match=r"^isolate_vocals needs .*MelBandRoformer_fp16.*fetch.*leave") as raised:
            run(models=without, isolate_vocals=True, dry_run=dry_run)
        assert raised.value.code == "model_missing"
    assert run(models=without, dry_run=True)[0].dry_run


def test_a_worker_starts_without_the_weights_and_refuses_such_jobs(
    run: Callable[..., tuple[Result, Path]], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "miniature").symlink_to(MINIATURE)
    bare = settings.model_copy(update={"models_dir": tmp_path})
    assert find_weights(load_profile("singing"), bare).files.separator is None
    models = open_models(bare)
    assert models.separator is None
    with pytest.raises(ModelMissing):
        run(models=models, settings=bare, isolate_vocals=True)
    with pytest.raises(ModelMissing, match="MelBandRoFormer_comfy was not found"):
        open_models(bare.model_copy(update={"isolate_vocals": True}))


def test_a_profile_without_a_separator_refuses_the_field(run: Callable[..., tuple[Result, Path]]) -> None:
    with pytest.raises(InvalidInput, match=r"^isolate_vocals is true, but the profile miniature has no separator"):
        run(settings=Settings.from_env({}), isolate_vocals=True)


def test_a_job_can_be_cancelled_between_two_chunks(run: Callable[..., tuple[Result, Path]], models: Models) -> None:
    heard: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, sound: Tensor) -> Tensor:
            heard.append(1)
            return sound

    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        run(
            models=dataclasses.replace(models, separator=Counting()),
            control=Control("job", seen.append, lambda: bool(heard)),
            isolate_vocals=True,
        )
    assert len(heard) == 1
    assert seen[-1].stage == "separate"


# --- what the model hears


@pytest.fixture
def read(settings: Settings, request_of: Callable[..., Request], tmp_path: Path) -> Callable[..., Job]:
    def read(**fields: Any) -> Job:
        request = request_of(isolate_vocals=True, **fields)
        profile = load_profile(settings.model_profile)
        return read_job(request, local_files(request, tmp_path), profile, settings, load_mode("turbo"), 1)

    return read


def hear(job: Job, separator: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, ...]:
    return isolated_waves(job, separator, CPU, lambda: None)


def amplitude(wave: np.ndarray, frequency_hz: float) -> float:
    time = np.arange(len(wave)) / 16_000
    window = np.hanning(len(wave))
    return float(2 * abs((wave * window * np.exp(-2j * np.pi * frequency_hz * time)).sum()) / window.sum())


def test_the_model_hears_the_voice_without_the_music(read: Callable[..., Job], tmp_path: Path) -> None:
    job = read(wav_url=write_song(tmp_path / "long.wav", 2.0).as_uri())
    (heard,) = hear(job, LowPass())
    (mix,) = job.waves
    assert amplitude(mix, 5_000) > amplitude(mix, 200)
    assert amplitude(heard, 5_000) < 1e-4 * amplitude(heard, 200)
    assert pyloudnorm.Meter(16_000).integrated_loudness(heard) == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4a", "ogg", "mkv"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(48_000, 2), (44_100, 1), (22_050, 2), (16_000, 1)])
def test_what_is_let_through_is_in_time_and_as_long_and_as_loud_as_the_voice(
    suffix: str, rate_hz: int, channels: int, read: Callable[..., Job], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).standard_normal((round(1.237 * rate_hz), channels))
    # Below 2 kHz, far from where resampling begins to cut.
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(rate_hz // 1_000), "same"), 0, noise)
    soundfile.write(tmp_path / "noise.wav", smooth / np.abs(smooth).max() * 0.5, rate_hz, "FLOAT")
    path = tmp_path / f"file.{suffix}"
    ffmpeg("-i", tmp_path / "noise.wav", *(["-c:a", "pcm_f32le"] if suffix == "wav" else []), path)
    job = read(wav_url=path.as_uri())
    (heard,), (voice,) = hear(job, lambda sound: sound), job.waves
    assert len(heard) == len(voice)
    lags = np.fft.irfft(np.fft.rfft(heard, 1 << 16) * np.fft.rfft(voice, 1 << 16).conj())
    assert lags.argmax() == 0
    difference = (heard - voice)[400:-400]
    assert np.sqrt((difference**2).mean() / (voice**2).mean()) < 2e-3


def test_each_voice_is_separated_by_itself_and_stays_in_its_place(read: Callable[..., Job]) -> None:
    job = read(person_count="multi", speaker_order="second_then_first")
    songs: list[Tensor] = []

    def separator(sound: Tensor) -> Tensor:
        songs.append(sound)
        return sound

    first, second = hear(job, separator)
    assert len(first) == len(second) == round(0.56 * 16_000) == len(job.waves[0])
    assert not first[: round(0.2 * 16_000)].any()
    assert not second[round(0.2 * 16_000) :].any()
    assert amplitude(first[3_200:], 200) > 10 * amplitude(first[3_200:], 300)
    assert amplitude(second[:3_200], 300) > 10 * amplitude(second[:3_200], 200)
    assert len(songs) == 4 == job.plan.separated_chunks


def test_a_song_is_cut_where_the_job_is(read: Callable[..., Job]) -> None:
    job = read(max_duration_s=0.12)
    (heard,) = hear(job, lambda sound: sound)
    assert len(heard) == round(0.12 * 16_000) == len(job.waves[0])


def test_two_songs_in_turn_are_cut_where_the_job_is(read: Callable[..., Job]) -> None:
    job = read(person_count="multi", speaker_order="first_then_second", max_duration_s=0.3)
    assert {len(wave) for wave in hear(job, lambda sound: sound)} == {round(0.3 * 16_000)}


def test_silence_stays_silence(read: Callable[..., Job]) -> None:
    (heard,) = hear(read(), torch.zeros_like)
    assert not heard.any()


def test_the_video_keeps_the_whole_song(run: Callable[..., tuple[Result, Path]], models: Models) -> None:
    _, path = run(models=dataclasses.replace(models, separator=LowPass()), isolate_vocals=True)
    sound = load_audio(path, "video", None, 600.0, path.parent).wave[2_000:-500]
    assert amplitude(sound, 5_000) > amplitude(sound, 200)
