"""Spoken sentences, and the mouth that speaks them.

The sentences lie in `speech/`, made beforehand by espeak-ng (apt-get install espeak-ng), with the extra `dev`, by

    python -m training.speech

as 4-bit ADPCM, which numpy alone can read. The mouth's tracks are computed from the sound. Its height follows the
energy, and its width the balance between low and high frequencies. Both are smoothed, since lips are slow.
"""

import io
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infinitetalk.shapes import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

FOLDER = Path(__file__).parent / "speech"
SECONDS = {"train": 760.0, "held_out": 100.0}
SILENCE_S = 40.0  # exact silence at the end of every corpus, for people who only listen

Array = NDArray[np.float32]

# --- 4-bit ADPCM (IMA), many blocks side by side ---------------------------------------------------------------

BLOCK = 16_000  # samples; every block starts anew, so that all can be read at once
STEP_RATIO = 1.1
STEPS = np.floor(7 * STEP_RATIO ** np.arange(89)).astype(np.int32)
STEP_MOVES = np.array([-1, -1, -1, -1, 2, 4, 6, 8], np.int32)


def _move(code: NDArray[np.int32], value: NDArray[np.int32], index: NDArray[np.int32]) -> None:
    """Advance the decoder's value and step index by one code (sign bit 8, magnitude 0..7), in place."""
    magnitude = code & 7
    change = (2 * magnitude + 1) * STEPS[index] // 8
    value += np.where(code & 8, -change, change)
    np.clip(value, -32768, 32767, out=value)
    index += STEP_MOVES[magnitude]
    np.clip(index, 0, len(STEPS) - 1, out=index)


def compress(sound: Array) -> NDArray[np.uint8]:
    """Half a byte per sample: (blocks, BLOCK / 2) of a sound in [-1, 1], its end filled up with zeros."""
    blocks = -(-len(sound) // BLOCK)
    samples = np.round(
        np.clip(np.resize(np.pad(sound, (0, blocks * BLOCK - len(sound))), (blocks, BLOCK)), -1, 1) * 32767
    )
    value, index = np.zeros(blocks, np.int32), np.zeros(blocks, np.int32)
    codes = np.empty((blocks, BLOCK), np.uint8)
    for i in range(BLOCK):
        difference = samples[:, i].astype(np.int32) - value
        magnitude = np.clip(np.abs(difference) * 4 // STEPS[index], 0, 7).astype(np.int32)
        code = magnitude | np.where(difference < 0, 8, 0)
        codes[:, i] = code
        _move(code, value, index)
    return codes[:, ::2] << 4 | codes[:, 1::2]


def expand(packed: NDArray[np.uint8]) -> Array:
    """The sound (blocks * BLOCK samples) that `compress` was given, with its errors."""
    codes = np.stack((packed >> 4, packed & 15), -1).reshape(len(packed), -1).astype(np.int32)
    value, index = np.zeros(len(codes), np.int32), np.zeros(len(codes), np.int32)
    samples = np.empty(codes.shape, np.float32)
    for i in range(codes.shape[1]):
        _move(codes[:, i], value, index)
        samples[:, i] = value
    return samples.ravel() / 32768


# --- the mouth -------------------------------------------------------------------------------------------------

_HOP = SAMPLES_PER_FRAME // 2
_FFT = 1024
_VOICE_BAND_HZ, _LOW_BAND_HZ, _HIGH_BAND_HZ = (150, 3500), (250, 1100), (1400, 3800)
FULL_AMPLITUDE = 0.12  # in speech of -23 LUFS, the mouth is nearly fully open at this amplitude
NOD_FRAMES, SWAY_FRAMES = 6.0, 12.0  # time constants of the head's movements
PAUSE_FRAMES, PAUSE_LEVEL = 4, 0.06
BLINK = np.array([0.5, 0.95, 1.0, 0.7, 0.3], np.float32)


@dataclass(frozen=True)
class Tracks:
    """What a face does while it speaks, each (frames,) at 25 per second.

    Args:
        height, width: of the mouth, in [0, 1]; width is 0.5 in silence.
        nod, sway: of the head, about [0, 1] and [-1, 1]. They are running means of the past only, so that a pose and
            the sound since then tell every later pose.
        blink: 1 where the eyes are closed, which is when speech turns into a pause.
    """

    height: Array
    width: Array
    nod: Array
    sway: Array
    blink: Array


def _smooth(track: Array, sigma: float) -> Array:
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid").astype(np.float32)


def running_mean(track: Array, frames: float) -> Array:
    """Exponential mean over the past with that time constant. It starts at 0."""
    decay = np.exp(-1 / frames)
    mean, means = 0.0, np.empty_like(track)
    for i, value in enumerate(track):
        mean = decay * mean + (1 - decay) * float(value)
        means[i] = mean
    return means


def mouth_tracks(sound: Array) -> Tracks:
    """The tracks of a voice (samples,) at 16 kHz and -23 LUFS, in whole frames."""
    n = len(sound) // SAMPLES_PER_FRAME
    padded = np.pad(sound[: n * SAMPLES_PER_FRAME], _HOP // 2)
    window = np.hanning(2 * _HOP).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HOP)[::_HOP][: 2 * n]
    frequencies = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    bands = np.stack(
        [(frequencies >= low) & (frequencies < high) for low, high in (_VOICE_BAND_HZ, _LOW_BAND_HZ, _HIGH_BAND_HZ)], 1
    )
    power = np.concatenate(
        [np.abs(np.fft.rfft(part * window, _FFT)) ** 2 @ bands for part in np.array_split(pieces, max(1, n // 1000))]
    ) * (2 / _FFT / (window**2).sum())
    power = np.pad(power, ((0, 2 * n - len(power)), (0, 0)), mode="edge")
    amplitude = _smooth(np.sqrt(power[:, 0]), 1.5).reshape(-1, 2).mean(1) / FULL_AMPLITUDE
    height = np.clip(np.tanh(np.clip(amplitude - 0.04, 0, None) ** 0.75) / np.tanh(1), 0, 1).astype(np.float32)
    low, high = power[:, 1], power[:, 2]
    heard = (low + high) / (low + high + 2e-4)
    balance = np.tanh(1.1 * (np.log10((high + 1e-9) / (low + 1e-9)) + 0.75))
    width = _smooth(0.5 + 0.5 * balance * heard, 2.2).reshape(-1, 2).mean(1)
    sway = running_mean((width - 0.5) * np.minimum(1, 3 * height), SWAY_FRAMES) * 5
    return Tracks(height, width, running_mean(height, NOD_FRAMES), np.clip(sway, -1, 1), _blinks(height))


def _blinks(height: Array) -> Array:
    closed = height < PAUSE_LEVEL
    paused = np.convolve(closed, np.ones(PAUSE_FRAMES), "full")[: len(height)] >= PAUSE_FRAMES
    starts = paused & ~np.roll(paused, 1)
    starts[0] = False
    return np.minimum(1, np.convolve(starts, BLINK, "full")[: len(height)]).astype(np.float32)


# --- the corpus ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A long recording of many voices, with pauses, and with silence in its last SILENCE_S seconds.

    Args:
        sound: (samples,), a whole number of frames.
        speech_frames: how many frames there are before the silence.
    """

    sound: Array
    tracks: Tracks
    speech_frames: int


def load_corpus(part: str, seed: int = 7, limit_s: float = 1e9) -> Corpus:
    """The corpus "train" or "held_out", with pauses drawn from `seed`.

    Args:
        limit_s: the most seconds of speech, for tests.
    """
    with np.load(FOLDER / f"{part}.npz") as file:
        blocks = min(len(file["sound"]), int(np.ceil(limit_s * SAMPLE_RATE_HZ / BLOCK)))
        sound = expand(file["sound"][:blocks])
        ends = file["ends"][file["ends"] <= len(sound)]
    random_ = np.random.default_rng(seed)
    pieces: list[Array] = []
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        piece = sound[start:end] * 10 ** (random_.uniform(-2.5, 1.5) / 20)
        if random_.random() < 0.3:
            piece = piece + random_.standard_normal(len(piece)).astype(np.float32) * random_.choice([2e-4, 5e-4, 1e-3])
        pause_s = random_.choice(
            [random_.uniform(0.15, 0.5), random_.uniform(0.5, 1.2), random_.uniform(1.2, 3.0)], p=[0.5, 0.35, 0.15]
        )
        hiss = random_.choice([0, 0, 0, 1e-4, 3e-4])
        pause = random_.standard_normal(int(pause_s * SAMPLE_RATE_HZ)).astype(np.float32) * hiss
        pieces += [piece, pause]
    spoken = np.concatenate(pieces)
    spoken = spoken[: len(spoken) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].astype(np.float32)
    whole = np.concatenate((spoken, np.zeros(int(SILENCE_S * SAMPLE_RATE_HZ), np.float32)))
    return Corpus(whole, mouth_tracks(whole), len(spoken) // SAMPLES_PER_FRAME)


# --- making the files ------------------------------------------------------------------------------------------

SUBJECTS = [
    "the old sailor",
    "my little sister",
    "a tired baker",
    "our new teacher",
    "the small boy",
    "every visitor",
    "that odd machine",
    "the green parrot",
    "a careful nurse",
    "the whole town",
    "my oldest friend",
    "the evening train",
    "an honest judge",
    "the guide",
    "one of the twins",
    "the morning paper",
    "a brown puppy",
    "the wide river",
    "this long letter",
    "the head gardener",
    "nobody",
    "the princess",
    "uncle George",
    "the piano player",
    "a group of hikers",
    "the calm sea",
    "her cousin",
    "the mayor",
    "a young painter",
]
VERBS = [
    "quickly found",
    "never forgot",
    "gladly painted",
    "always wanted",
    "could barely believe",
    "slowly opened",
    "wrote about",
    "was dreaming of",
    "has been searching for",
    "sold",
    "will soon discover",
    "broke",
    "laughed at",
    "usually avoids",
    "remembered",
    "talked for an hour about",
    "should have kept",
    "is watching",
    "walked towards",
    "jumped over",
    "gave away",
    "thinks about",
    "measured",
    "ate",
    "borrowed",
    "would rather hide",
    "photographed",
    "cannot explain",
]
OBJECTS = [
    "a silver watch",
    "the broken door",
    "four ripe peaches",
    "her favourite tune",
    "an enormous grey whale",
    "the corner shop",
    "a box of old letters",
    "the answer to the riddle",
    "my grandfather's orchard",
    "a cup of hot cocoa",
    "the secret of the cave",
    "seven wooden boats",
    "an unusual picture",
    "the moon and the clouds",
    "a piece of apple pie",
    "that noisy station",
    "the first page of the story",
    "a warm woollen coat",
    "the bridge across the valley",
    "some bread and cheese",
    "everything in the cupboard",
    "a pair of blue shoes",
    "the map on the table",
    "five thousand coins",
    "a jar of honey",
]
ENDINGS = [
    "early in the morning",
    "before the storm began",
    "with great pleasure",
    "because nobody else would",
    "on the way to school",
    "near the harbour",
    "without a single word",
    "for the third time this week",
    "as if it were easy",
    "while the radio played",
    "at half past eight",
    "just for fun",
    "during the summer holidays",
    "and then went home",
    "under a pale sky",
    "although it was already late",
    "in a room full of people",
    "after a short pause",
    "on Wednesday",
    "far from the city",
]
CALLS = [
    "Oh, wow!",
    "Really?",
    "Yes, of course.",
    "No, thank you.",
    "Well, let me think.",
    "Good morning, everybody.",
    "How are you today?",
    "I am fine, thanks.",
    "What a lovely day!",
    "Please sit down.",
    "Are you sure?",
    "That is amazing.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "Hello there, nice to meet you.",
    "Hmm, maybe.",
    "Look over there!",
    "Could you say that again, please?",
    "Welcome to the show.",
    "Ah, I see what you mean.",
    "Let us begin.",
    "A, B, C, D, E, F, G.",
    "Wait a minute.",
    "Ha, ha, ha!",
    "La, la, la, la.",
    "Goodbye, and good luck.",
]
HELD_OUT = [
    "The curious badger hid beneath a giant fern until sunrise.",
    "Sixty brave climbers pulled the rope and cheered.",
    "Would anybody like to share this taxi with me?",
    "Science grows by asking simple questions again and again.",
    "Your parcel should arrive between Monday and Thursday.",
    "Please remember to switch off the lamp when you leave.",
    "Bananas, onions and flour are cheap today.",
    "Mountains look purple when the sun goes down.",
    "Oh my goodness, you are absolutely right about that!",
    "He whispered a joke and the audience roared with laughter.",
    "To make pancakes you need butter, eggs and milk.",
    "Today we talk about a model that moves lips.",
    "Her voice echoed through the empty hall.",
    "I would rather cycle than take another bus.",
    "Every good tale needs a hero, a problem and some luck.",
    "The committee has approved the budget for next year.",
    "Never mind, we can always try again tomorrow.",
    "Who left the window open all night?",
    "Fresh snow covered the village and every sound was soft.",
    "Keep calm, breathe slowly, and count to twelve.",
]
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
TIMBRES = (
    "", "+m1", "+m2", "+m3", "+m4", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f4", "+Andy", "+belinda", "+adam",
    "+anika", "+ed", "+edward", "+john", "+linda", "+max", "+michael", "+paul", "+rob", "+steph", "+victor", "+zac",
)  # fmt: skip
HELD_OUT_TIMBRES = ("+f5", "+Annie", "+m5", "+robert", "+steph2", "+travis", "+benjamin", "+Alicia")


def _sentence(random_: random.Random) -> str:
    if random_.random() < 0.15:
        return random_.choice(CALLS)
    words = [random_.choice(SUBJECTS), random_.choice(VERBS), random_.choice(OBJECTS)]
    if random_.random() < 0.7:
        words.append(random_.choice(ENDINGS))
    text = (", " if random_.random() < 0.1 else " ").join(words)
    return text[0].upper() + text[1:] + random_.choice(".!?.")


def _speak(text: str, voice: str, random_: random.Random) -> Array:
    """One sentence at 16 kHz and -23 LUFS, without silence at its ends."""
    # Imported here, since the machine that trains only reads the files.
    import librosa
    import soundfile

    from infinitetalk.media.audio import normalise_loudness

    command = ["espeak-ng", "-v", voice, "-s", str(random_.randint(115, 200)), "-p", str(random_.randint(15, 85))]
    spoken = subprocess.run([*command, "--stdout", text], capture_output=True, check=True).stdout
    samples, rate_hz = soundfile.read(io.BytesIO(spoken), dtype="float32")
    sound = librosa.resample(samples, orig_sr=rate_hz, target_sr=SAMPLE_RATE_HZ)
    loud = np.flatnonzero(np.abs(sound) > 0.003)
    return np.clip(normalise_loudness(sound[loud[0] : loud[-1] + 1]), -0.99, 0.99)


def make_part(part: str) -> None:
    """Speak one part's sentences and write its file."""
    random_ = random.Random(part)
    pieces: list[Array] = []
    while sum(map(len, pieces)) < SECONDS[part] * SAMPLE_RATE_HZ:
        held_out = part == "held_out"
        text = HELD_OUT[len(pieces) % len(HELD_OUT)] if held_out else _sentence(random_)
        voice = random_.choice(ACCENTS) + random_.choice(HELD_OUT_TIMBRES if held_out else TIMBRES)
        pieces.append(_speak(text, voice, random_))
    sound = np.concatenate(pieces)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{part}.npz", sound=compress(sound), ends=np.cumsum([len(p) for p in pieces]))
    again = expand(compress(sound[: SAMPLE_RATE_HZ * 20]))[: SAMPLE_RATE_HZ * 20]
    noise = again - sound[: len(again)]
    print(
        f"{part}: {len(pieces)} sentences, {len(sound) / SAMPLE_RATE_HZ:.0f} s, "
        f"{(FOLDER / f'{part}.npz').stat().st_size / 1e6:.2f} MB, "
        f"signal to noise {10 * np.log10((sound[: len(again)] ** 2).mean() / (noise**2).mean()):.1f} dB"
    )


def main() -> None:
    for part in SECONDS:
        make_part(part)
        corpus = load_corpus(part)
        height = corpus.tracks.height[: corpus.speech_frames]
        print(
            f"{part}: {corpus.speech_frames / FPS:.0f} s with pauses; mouth height quantiles",
            np.round(np.quantile(height, [0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]), 2).tolist(),
            "width", np.round(np.quantile(corpus.tracks.width[: corpus.speech_frames], [0.05, 0.5, 0.95]), 2).tolist(),
            f"blinks per minute {(np.diff(corpus.tracks.blink) > 0.4).sum() / len(height) * 1500:.1f}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
