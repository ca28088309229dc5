"""A sound laid out by its time stamps: what is missing between them is silence, what comes again follows."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from av import AudioFrame, AudioResampler
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # (n, channels), 1 is full scale

# Time stamps of whole milliseconds are off by the jitter of clocks and buffers too; ffmpeg follows them from 0.1 s on.
_COARSE_TICK_S, _COARSE_SLACK_S = 1 / 5000, 0.1
# Finer ones are right, but for the blocks of vorbis (10 ms).
_FINE_SLACK_S = 0.02
MAX_CHANNELS = 8  # kept as they are; more are averaged into one
_BLOCK_S = 0.4
_QUIET = 1e-4  # a block's energy to the loudest one's: nobody speaks
_CANCELLED = 0.1  # energy of the average to that of channels which have nothing in common
_CANCELLED_PART = 0.1  # of the blocks in which somebody speaks
_PEAK_LIMIT = 1e30
_FULL_SCALE = {"u1": 1 << 7, "i2": 1 << 15, "i4": 1 << 31, "i8": 1 << 63}


@dataclass
class Stretch:
    """Stretches of one kind: how many, how long together, and where the first begins."""

    count: int = 0
    total_s: float = 0.0
    first_s: float = 0.0

    def add(self, start_s: float, length_s: float) -> None:
        self.first_s = self.first_s if self.count else start_s
        self.count += 1
        self.total_s += length_s


class TimeLine:
    """Takes decoded frames and writes their samples, raw 32-bit floats, channels side by side.

    The first frame decides the rate and the channels; frames of others are converted.
    """

    def __init__(self, file: BinaryIO, wanted_s: float) -> None:
        """Begin a time line.

        Args:
            wanted_s: how much is written at most.
        """
        self._file = file
        self._wanted_s = wanted_s
        self.max_peak = np.inf  # of a frame; one above is what a decoder made of damaged data, and counts as lost
        self._shift_s: float | None = None  # from a frame's time stamp to its place
        self._resampler: AudioResampler | None = None
        self._source: tuple[int, str] = (0, "")
        self._pending = np.zeros((0, 1), np.float32)
        self._energies: list[NDArray[np.float64]] = []
        self.rate_hz = 0
        self.layout = ""
        self.channels = 0
        self.samples = 0
        self.peak = 0.0
        self.is_finite = True
        self.lead_s = 0.0  # silence before the first frame
        self.gaps = Stretch()
        self.lost = Stretch()

    @property
    def is_full(self) -> bool:
        return self.rate_hz > 0 and self.samples >= self._wanted_s * self.rate_hz

    @property
    def end_s(self) -> float:
        return self.samples / self.rate_hz if self.rate_hz else 0.0

    def restart(self) -> None:
        """What comes next has a clock of its own, and follows what there is."""
        self._shift_s = None

    def skip(self, length_s: float) -> None:
        """Leave out a stretch that the time stamps count and that is no sound."""
        if self._shift_s is not None:
            self._shift_s -= length_s

    def add(self, frame: AudioFrame, begin_s: float, is_first: bool, was_lost: bool) -> None:
        """Write a frame at its time.

        Args:
            begin_s: the time stamp that counts as 0, if the frame `is_first` of all.
            was_lost: packets right before it could not be decoded: exactly they are missing.
        """
        if self.rate_hz == 0:
            self.rate_hz = frame.sample_rate
            own = frame.layout.nb_channels
            self.channels = own if own <= MAX_CHANNELS else 1
            self.layout = frame.layout.name
            self._source = frame.sample_rate, frame.layout.name
        if frame.pts is not None and frame.time_base:
            self._keep_time(float(frame.pts * frame.time_base), float(frame.time_base), begin_s, is_first, was_lost)
        samples = self._convert(frame)
        if samples.size and np.abs(samples).max() > self.max_peak:
            self.lost.add(self.end_s, len(samples) / self.rate_hz)
            samples = np.zeros_like(samples)
        self._write(samples)

    def finish(self) -> None:
        """Write what a resampler still holds."""
        self._write(self._flush())

    def cut(self, samples: int) -> None:
        """Take back what was written beyond a number of samples."""
        if samples < self.samples:
            self.samples = samples
            self._file.truncate(samples * self.channels * 4)
            self._file.seek(0, 2)

    def cancelling_channel(self) -> int | None:
        """The loudest channel, where the average of the channels loses the voice; None where it does not."""
        if self.channels < 2 or not self._energies:
            return None
        mean, *own = np.array(self._energies).T
        total = np.sum(own, axis=0)
        sounding = total > _QUIET * total.max(initial=0.0)
        cancelled = sounding & (mean < _CANCELLED * total / self.channels**2)
        if cancelled.sum() <= _CANCELLED_PART * sounding.sum():
            return None
        return int(np.argmax(np.sum(own, axis=1)))

    def _keep_time(self, stamp_s: float, tick_s: float, begin_s: float, is_first: bool, was_lost: bool) -> None:
        slack_s = _COARSE_SLACK_S if tick_s > _COARSE_TICK_S else _FINE_SLACK_S
        if self._shift_s is None:
            self._shift_s = self.end_s - stamp_s
            if is_first and stamp_s - begin_s > _COARSE_SLACK_S:
                self._shift_s = -begin_s
                self.lead_s = stamp_s - begin_s
                self._silence(self.lead_s)
            return
        late_s = stamp_s + self._shift_s - self.end_s
        if late_s < -slack_s:
            self._shift_s -= late_s  # the clock was set back: another recording follows
        elif late_s > (tick_s if was_lost else slack_s):
            (self.lost if was_lost else self.gaps).add(self.end_s, late_s)
            self._silence(late_s)

    def _silence(self, length_s: float) -> None:
        self._write(self._flush())
        length_s = min(length_s, self._wanted_s - self.end_s)
        left = max(round(length_s * self.rate_hz), 0)
        while left > 0:
            part = min(left, 1 << 16)
            self._write(np.zeros((part, self.channels), np.float32))
            left -= part

    def _convert(self, frame: AudioFrame) -> Samples:
        source = frame.sample_rate, frame.layout.name
        if source == self._source:
            return self._remix(_samples(frame)) if self._resampler is None else self._resample(frame)
        before = self._flush()
        self._source = source
        if frame.sample_rate != self.rate_hz or frame.layout.nb_channels not in (1, self.channels):
            layout = self.layout if self.channels > 1 else frame.layout.name
            self._resampler = AudioResampler(format="flt", layout=layout, rate=self.rate_hz)
            return np.concatenate([before, self._resample(frame)])
        return np.concatenate([before, self._remix(_samples(frame))])

    def _resample(self, frame: AudioFrame | None) -> Samples:
        assert self._resampler is not None
        parts = [self._remix(_samples(part)) for part in self._resampler.resample(frame)]
        return np.concatenate(parts) if parts else np.zeros((0, self.channels), np.float32)

    def _flush(self) -> Samples:
        """What the resampler still holds; it is done with."""
        if self._resampler is None:
            return np.zeros((0, self.channels), np.float32)
        rest = self._resample(None)
        self._resampler = None
        return rest

    def _remix(self, samples: Samples) -> Samples:
        """One channel for each of the sound's: averaged into one, or one repeated."""
        if samples.shape[1] == self.channels:
            return samples
        if self.channels == 1:
            return np.asarray(samples.mean(axis=1, keepdims=True), np.float32)
        return np.repeat(samples, self.channels, axis=1)

    def _write(self, samples: Samples) -> None:
        if not len(samples):
            return
        peak = float(np.abs(samples).max())
        self.is_finite &= peak < _PEAK_LIMIT  # nor NaN, which is less than nothing
        self.peak = max(self.peak, peak)
        self._file.write(np.ascontiguousarray(samples, "<f4").tobytes())
        self.samples += len(samples)
        if self.channels > 1:
            self._measure(samples)

    def _measure(self, samples: Samples) -> None:
        """Note how loud each block of the average is, and of each channel."""
        block = round(_BLOCK_S * self.rate_hz)
        self._pending = samples if not len(self._pending) else np.concatenate([self._pending, samples])
        while len(self._pending) >= block:
            now, self._pending = self._pending[:block], self._pending[block:]
            both = np.column_stack([now.mean(axis=1), now]).astype(np.float64)
            self._energies.append((both**2).mean(axis=0))


def _samples(frame: AudioFrame) -> Samples:
    """A frame's samples as floats: what swresample makes of them."""
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            return array.astype(np.float32, copy=False)
    scale = np.float32(1 / _FULL_SCALE[array.dtype.str[1:]])
    return (array.astype(np.float32) - np.float32(128 if array.dtype == np.uint8 else 0)) * scale
