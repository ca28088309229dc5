"""Conversations in one recording: who speaks when, the two voices, and whole jobs of them."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from infinitetalk.contract.presets import load_mode, load_profile
from infinitetalk.contract.request import LOCAL_FILES, Request
from infinitetalk.contract.result import DryRun, Result, Turn
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, ModelMissing
from infinitetalk.job.conversation import (
    Conversation,
    find_turns,
    listen,
    speech_stretches,
    split_wave,
    two_centres,
    windows_of,
)
from infinitetalk.job.isolate import isolated_waves
from infinitetalk.job.read import Job, read_job
from infinitetalk.job.resume import fingerprint
from infinitetalk.job.run import run_job
from infinitetalk.models import voices
from infinitetalk.models.opening import Models
from infinitetalk.models.voices import SPEECH_STEP, VOICE_WINDOW, VoiceModels
from infinitetalk.shapes import SAMPLE_RATE_HZ
from infinitetalk.transfer.exchange import local_exchange, local_files
from tests.support.media_samples import write_picture

SAMPLES = Path(__file__).parents[2] / "samples"
SETTINGS = Settings.from_env({})
PAUSE_S = 0.25


def sample(name: str, seconds: float) -> np.ndarray:
    wave, rate_hz = soundfile.read(SAMPLES / name, dtype="float32")
    at = np.arange(round(seconds * SAMPLE_RATE_HZ)) * rate_hz / SAMPLE_RATE_HZ
    return np.interp(at, np.arange(len(wave)), wave).astype(np.float32)


@pytest.fixture(scope="module")
def dialogue() -> tuple[np.ndarray, list[tuple[int, float, float]]]:
    """A recording of four turns, and who speaks in it, from when to when."""
    turns = [("voice.wav", 2.5), ("voice_2.flac", 2.1), ("voice.wav", 2.5), ("voice_2.flac", 2.1)]
    parts, truth, now = [], [], 0.0
    for name, seconds in turns:
        parts += [sample(name, seconds), np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.float32)]
        truth.append((1 + (name == "voice_2.flac"), now, now + seconds))
        now += seconds + PAUSE_S
    return np.concatenate(parts), truth


@pytest.fixture(scope="module")
def voice_models() -> VoiceModels:
    return VoiceModels.open(torch.device("cpu"))


# --- the parts ---


def test_speech_begins_and_ends_by_two_thresholds_and_short_pauses_do_not_end_it() -> None:
    likely = np.zeros(100, np.float32)
    likely[10:20], likely[20:22], likely[22:30] = 0.9, 0.2, 0.4  # 64 ms below the threshold, then not enough to begin
    assert speech_stretches(likely, 51_200) == [(10 * SPEECH_STEP, 20 * SPEECH_STEP)]
    likely[22:30] = 0.6
    assert speech_stretches(likely, 51_200) == [(10 * SPEECH_STEP, 30 * SPEECH_STEP)]


def test_clicks_are_no_speech_and_speech_to_the_end_ends_with_the_sound() -> None:
    likely = np.zeros(100, np.float32)
    likely[10:13], likely[80:] = 0.9, 0.9
    assert speech_stretches(likely, 51_000) == [(80 * SPEECH_STEP, 51_000)]


def test_windows_cover_a_stretch_from_its_beginning_to_its_end() -> None:
    assert windows_of((500, 9_000)) == [(500, 9_000)]
    windows = windows_of((1_000, 41_000))
    assert windows[0][0] == 1_000 and windows[-1][1] == 41_000
    assert all(stop - start == VOICE_WINDOW for start, stop in windows)
    assert max(np.diff([start for start, _ in windows])) <= 0.3 * SAMPLE_RATE_HZ


def test_two_centres_are_those_of_the_groups_that_are_there() -> None:
    rng = np.random.default_rng(0)
    basis = np.eye(256, dtype=np.float32)
    group = [*[basis[3]] * 20, *[basis[7]] * 5]
    vectors = np.stack(group) + rng.standard_normal((25, 256)).astype(np.float32) * 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centres = two_centres(vectors)
    assert sorted(np.argmax(centres, axis=1).tolist()) == [3, 7]
    assert two_centres(np.stack([basis[3]] * 4)) == pytest.approx(np.stack([basis[3]] * 2))


def test_the_two_voices_add_up_to_the_recording_and_are_silent_in_the_others_turns() -> None:
    wave = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    turns = [
        Turn(speaker=1, start_s=0.1, end_s=0.6),
        Turn(speaker=2, start_s=0.8, end_s=1.2),
        Turn(speaker=1, start_s=1.2, end_s=1.9),
    ]
    first, second = split_wave(wave, turns)
    assert first + second == pytest.approx(wave, abs=1e-6)
    change, back = round(0.7 * SAMPLE_RATE_HZ), round(1.2 * SAMPLE_RATE_HZ)
    assert (
        not first[change + 40 : back - 40].any() and not second[: change - 40].any() and not second[back + 40 :].any()
    )
    share = second[change - 40 : change + 40] / wave[change - 40 : change + 40]
    assert np.all(np.diff(share) > 0) and share[0] < 0.05 and share[-1] > 0.95, "the change is no fade"


# --- with the networks ---


def test_a_dialogue_with_pauses_comes_apart(
    dialogue: tuple[np.ndarray, list[tuple[int, float, float]]], voice_models: VoiceModels
) -> None:
    wave, truth = dialogue
    turns = find_turns(wave, voice_models, "wav_url")
    assert [turn.speaker for turn in turns] == [speaker for speaker, _, _ in truth]
    for turn, (_, start_s, end_s) in zip(turns, truth, strict=True):
        assert (turn.start_s, turn.end_s) == pytest.approx((start_s, end_s), abs=0.2)


def test_one_voice_is_refused(voice_models: VoiceModels) -> None:
    with pytest.raises(InvalidInput, match=r"one voice only in wav_url.*0\.8. alike.*person_count to single"):
        find_turns(np.tile(sample("voice.wav", 4.9), 2), voice_models, "wav_url")


@pytest.mark.parametrize(("seconds", "heard"), [(0.0, r"0\.0"), (4.0, r"3\.\d")], ids=["silence", "a sentence"])
def test_too_little_speech_is_refused(seconds: float, heard: str, voice_models: VoiceModels) -> None:
    wave = np.concatenate([sample("voice.wav", seconds), np.zeros(32_000, np.float32)])
    with pytest.raises(InvalidInput, match=rf"needs 5 s of speech in wav_url .* hears {heard} s: send a longer"):
        find_turns(wave, voice_models, "wav_url")


def test_a_single_word_is_no_conversation(voice_models: VoiceModels) -> None:
    assert listen(sample("voice.wav", 0.7), voice_models) is None


def test_turns_are_numbered_by_who_speaks_first(
    dialogue: tuple[np.ndarray, list[tuple[int, float, float]]], voice_models: VoiceModels
) -> None:
    wave, _ = dialogue
    later = listen(wave[round(2.6 * SAMPLE_RATE_HZ) :], voice_models)
    assert isinstance(later, Conversation) and [turn.speaker for turn in later.turns] == [1, 2, 1]


# --- jobs ---


@pytest.fixture(scope="module")
def media(
    tmp_path_factory: pytest.TempPathFactory, dialogue: tuple[np.ndarray, list[tuple[int, float, float]]]
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("conversation")
    soundfile.write(folder / "conversation.wav", dialogue[0], SAMPLE_RATE_HZ)
    soundfile.write(folder / "alone.wav", np.tile(sample("voice.wav", 4.9), 2), SAMPLE_RATE_HZ)
    return {
        "image_url": write_picture(folder / "face.png").as_uri(),
        "wav_url": (folder / "conversation.wav").as_uri(),
        "alone": (folder / "alone.wav").as_uri(),
    }


@pytest.fixture
def read(media: dict[str, str], tmp_path: Path) -> Callable[..., Job]:
    def read(**fields: Any) -> Job:
        job = {"image_url": media["image_url"], "wav_url": media["wav_url"], "person_count": "multi", "seed": 1}
        request = Request.parse(job | fields, LOCAL_FILES)
        files = local_files(request, Path(tempfile.mkdtemp(dir=tmp_path)))
        return read_job(request, files, load_profile("miniature"), SETTINGS, load_mode("turbo"), 1)

    return read


def test_a_recording_becomes_a_job_of_two_voices_with_the_recording_as_its_sound(read: Callable[..., Job]) -> None:
    job = read(split_voices=True)
    assert len(job.waves) == 2 == job.plan.speakers and len(job.tracks) == 1
    assert [turn.speaker for turn in job.plan.conversation] == [1, 2, 1, 2]
    assert job.person_masks is not None
    first, second = (np.square(wave[: round(2.4 * SAMPLE_RATE_HZ)]).sum() for wave in job.waves)
    assert first > 0 and second == 0


def test_only_what_is_used_of_the_recording_is_taken_apart(read: Callable[..., Job]) -> None:
    job = read(split_voices=True, max_duration_s=7.5)
    assert [turn.speaker for turn in job.plan.conversation] == [1, 2, 1] and len(job.waves[0]) == 7.5 * SAMPLE_RATE_HZ


def test_a_recording_of_one_voice_is_no_job(read: Callable[..., Job], media: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="one voice only in wav_url"):
        read(split_voices=True, wav_url=media["alone"])


def test_without_the_packages_only_these_jobs_fail(read: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("silero_vad", "resemblyzer")
    monkeypatch.setattr(voices, "find_spec", lambda name: None if name in gone else find_spec(name))
    with pytest.raises(ModelMissing, match="pip install --no-deps silero-vad"):
        read(split_voices=True)
    assert len(read(person_count="single").waves) == 1


def test_the_answers_name_the_turns(models: Models, media: dict[str, str], tmp_path: Path) -> None:
    def run(**fields: Any) -> Any:
        job = {"image_url": media["image_url"], "wav_url": media["wav_url"], "person_count": "multi", "seed": 1}
        request = Request.parse(job | {"split_voices": True, "speed_mode": "turbo"} | fields, LOCAL_FILES)
        return run_job(request, models, SETTINGS, local_exchange(tmp_path / "out.mp4"))

    planned = run(dry_run=True)
    assert isinstance(planned, DryRun)
    turns = planned.to_json()["turns"]
    assert [turn["speaker"] for turn in turns] == [1, 2, 1, 2]
    assert turns[0].keys() == {"speaker", "start_s", "end_s"}
    made = run(max_duration_s=7.5)
    assert isinstance(made, Result) and made.turns is not None and [turn.speaker for turn in made.turns] == [1, 2, 1]
    assert "turns" not in run(split_voices=False, person_count="single", dry_run=True).to_json()


def test_vocals_are_isolated_first_and_then_taken_apart_in_the_same_way(read: Callable[..., Job]) -> None:
    job = read(split_voices=True)
    heard = isolated_waves(job, lambda sound: sound, torch.device("cpu"), lambda: None)
    assert len(heard) == 2 and len(heard[0]) == len(heard[1]) == len(job.waves[0])
    for isolated, plain in zip(heard, job.waves, strict=True):
        assert np.corrcoef(isolated, plain)[0, 1] > 0.99


def test_windows_of_another_split_are_not_resumed(models: Models, read: Callable[..., Job]) -> None:
    job = read(split_voices=True)
    other = replace(job.plan, conversation=job.plan.conversation[:-1])
    first, again, changed = (
        fingerprint(plan, [], models, SETTINGS, job.places) for plan in (job.plan, job.plan, other)
    )
    assert first == again != changed
