"""What happens on the page: each event becomes a call of the functions that the command line uses."""

import logging
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from infinitetalk.client.following import JobView
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import JobError, RankFailed
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.media.audio import load_audio
from infinitetalk.page import words
from infinitetalk.page.form import Form, job_curl, job_json, number
from infinitetalk.page.layout import MORE, Parts, lay_out
from infinitetalk.page.pointing import VOICES, Pointing
from infinitetalk.page.preview import GrowingPreview
from infinitetalk.page.runner import Made, Runner
from infinitetalk.page.tabs import Tabs

logger = logging.getLogger(__name__)

Changes = dict[Any, Any]  # of components

_FAULT = "The page has failed at this; its log in the terminal says more."


class Page:
    """The page's events.

    Args:
        runner: where jobs are made.
        faces: what finds faces for the picture; None where that is not installed.
        settings: limits of files.
        videos: the folder in which finished videos stay.
        folder: for files that the browser shows; Gradio serves this folder alone.
    """

    def __init__(
        self, runner: Runner, faces: FaceFinder | None, settings: Settings, videos: Path, folder: Path
    ) -> None:
        self.tabs = Tabs()
        self._runner = runner
        self._faces = faces
        self._settings = settings
        self._videos = videos
        self._folder = folder

    def blocks(self) -> gr.Blocks:
        """The page, ready to be served."""
        with gr.Blocks(title="InfiniteTalk", analytics_enabled=False) as blocks:
            parts = self._parts = lay_out(self._runner.about)
            self._connect(parts)
            blocks.unload(self._closed)
        blocks.queue(default_concurrency_limit=None, api_open=False)
        return blocks

    def _connect(self, parts: Parts) -> None:
        fields = [parts.source, *parts.voices, parts.second_start, parts.split, parts.mode, *parts.more.values()]
        form = [parts.pointing, *fields]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        seen = [parts.pointing, parts.place, parts.picture, parts.source_trouble]
        gr.on([parts.source.upload, parts.source.clear], self._look, parts.source, seen, **quiet)
        voices = [parts.second_start, parts.pointed, parts.voice_trouble]
        for voice in parts.voices:
            voice.change(self._listen, [*parts.voices, parts.split], voices, **quiet)
        parts.split.change(self._listen, [*parts.voices, parts.split], voices, **quiet)
        pointing = [parts.pointing, parts.picture, parts.pointed]
        parts.picture.select(
            self._point, [parts.pointing, parts.pointed, parts.voices[1], parts.split], pointing, **quiet
        )
        parts.clear.click(self._unpoint, parts.pointing, pointing, **quiet)
        busy = [parts.plan, parts.start, parts.cancel, parts.status]
        parts.plan.click(self._plan, form, [*busy, parts.plans, parts.json, parts.curl], **quiet)
        outputs = [*busy, parts.video, parts.result, parts.json, parts.curl]
        parts.start.click(self._make, form, outputs, **quiet)
        parts.cancel.click(self._cancel, None, parts.cancel, **quiet)
        parts.elsewhere.expand(self._elsewhere, form, [parts.json, parts.curl], **quiet)

    # ---- the files and the picture ----

    def _look(self, source: str | None) -> Changes:
        """A picture or video was dropped or removed."""
        parts = self._parts
        gone = {parts.pointing: None, parts.place: gr.Column(visible=False), parts.picture: None}
        if source is None:
            return gone | {parts.source_trouble: ""}
        try:
            pointing = Pointing.at(Path(source), "The picture or video", self._faces)
        except Exception as error:
            return gone | {parts.source_trouble: _sentence(error)}
        shown = {parts.pointing: pointing, parts.place: gr.Column(visible=True), parts.picture: pointing.drawn()}
        return shown | {parts.source_trouble: ""}

    def _listen(self, first: str | None, second: str | None, split: bool) -> Changes:
        """A voice was dropped, recorded or removed."""
        parts = self._parts
        changes = {
            parts.second_start: gr.Number(visible=second is not None),
            parts.pointed: gr.Radio(visible=second is not None or split),
        }
        told = ""
        for name, file in (("The voice", first), ("The second voice", second)):
            if file is not None and not told:
                try:
                    with TemporaryDirectory(dir=self._folder) as folder:
                        load_audio(Path(file), name, None, self._settings.max_audio_s, Path(folder))
                except Exception as error:
                    told = _sentence(error)
        return changes | {parts.voice_trouble: told}

    def _point(
        self, pointing: Pointing | None, voice: int, second: str | None, split: bool, event: gr.SelectData
    ) -> Changes:
        """The picture was clicked."""
        parts = self._parts
        if pointing is None:
            return {parts.pointed: gr.skip()}
        two = second is not None or split
        voice = voice if two and voice in range(VOICES) else 0
        x, y = event.index
        clicked = pointing.clicked(x, y, voice)
        placed = clicked.places != pointing.places
        shown = {parts.pointing: clicked, parts.picture: clicked.drawn()}
        return shown | ({parts.pointed: (voice + 1) % VOICES} if placed and two else {})

    def _unpoint(self, pointing: Pointing | None) -> Changes:
        """The worker is to choose who is where."""
        parts = self._parts
        cleared = None if pointing is None else pointing.cleared()
        return {parts.pointing: cleared, parts.picture: cleared and cleared.drawn(), parts.pointed: 0}

    # ---- jobs ----

    def _plan(self, request: gr.Request, *values: Any) -> Iterator[Changes]:  # noqa: ANN401
        """Plan and price of all four modes."""
        parts = self._parts
        with self._told() as told:
            job = self._form(values).request()
            yield self._busy(True) | {parts.status: "", parts.plans: "", **self._copies(job)}
            for seen in self.tabs.run(_session(request), partial(self._runner.plans, job)):
                if isinstance(seen, JobView):
                    yield {parts.status: words.progress(seen)}
                else:
                    told |= {parts.plans: words.plans(seen, job.speed_mode), parts.status: ""}
        yield self._busy(False) | told

    def _make(self, request: gr.Request, *values: Any) -> Iterator[Changes]:  # noqa: ANN401
        """Make the video."""
        parts = self._parts
        with self._told() as told:
            job = self._form(values).request()
            hidden = gr.Video(visible=False, value=None)
            yield self._busy(True) | {parts.video: hidden, parts.result: "", parts.status: "", **self._copies(job)}
            preview = GrowingPreview(self._new_folder(), is_here=self._runner.is_here)
            for seen in self.tabs.run(_session(request), partial(self._runner.make, job, self._place(job.speed_mode))):
                if isinstance(seen, JobView):
                    shown = {parts.status: words.progress(seen), parts.result: words.sheet(seen)}
                    yield shown | self._seen(preview.update(seen))
                else:
                    told |= self._finished(seen)
        yield self._busy(False) | told

    def _seen(self, preview: Path | None) -> Changes:
        """What is finished so far, playing."""
        if preview is None:
            return {}
        shown = gr.Video(value=str(preview), visible=True, label="Finished so far", autoplay=True, loop=True)
        return {self._parts.video: shown}

    def _finished(self, made: Made) -> Changes:
        """The video, and what its checks found."""
        parts = self._parts
        notes, place = made.notes, None if made.file is None else str(made.file)
        if made.file is None:
            notes = (f"The video is on the worker's volume: {made.result.get('video_path')}", *notes)
        changes = {parts.status: "", parts.result: words.result(made.result, place, notes)}
        if made.file is None:
            return changes | {parts.video: gr.Video(visible=False, value=None)}
        shown = self._new_folder() / made.file.name
        shutil.copyfile(made.file, shown)
        video = gr.Video(value=str(shown), visible=True, label="Video", autoplay=False, loop=False)
        return changes | {parts.video: video}

    def _cancel(self, request: gr.Request) -> Changes:
        """End this tab's job."""
        self.tabs.end(_session(request))
        return {self._parts.cancel: gr.Button(interactive=False)}

    def _closed(self, request: gr.Request) -> None:
        """The tab is gone, and with it its job."""
        self.tabs.end(_session(request))

    def _elsewhere(self, *values: Any) -> Changes:  # noqa: ANN401
        """The job as JSON and curl."""
        parts = self._parts
        try:
            return self._copies(self._form(values).request())
        except JobError as error:
            return {parts.json: "", parts.curl: f"# {error}"}

    # ---- what they share ----

    def _form(self, values: tuple[Any, ...]) -> Form:
        pointing, source, first, second, start_s, split, mode, *more = values
        return Form(
            None if source is None else Path(source),
            (None if first is None else Path(first), None if second is None else Path(second)),
            number(start_s, "The second voice's beginning"),
            pointing,
            {"speed_mode": mode, "split_voices": split, **dict(zip(MORE, more, strict=True))},
        )

    def _copies(self, job: Any) -> Changes:  # noqa: ANN401
        return {self._parts.json: job_json(job), self._parts.curl: job_curl(job, self._runner.address)}

    def _busy(self, busy: bool) -> Changes:
        parts = self._parts
        return {
            parts.plan: gr.Button(interactive=not busy),
            parts.start: gr.Button(interactive=not busy),
            parts.cancel: gr.Button(visible=busy, interactive=True),
        }

    def _place(self, mode: str) -> Path:
        """A new name for a video."""
        self._videos.mkdir(parents=True, exist_ok=True)
        return self._videos / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{mode}_{secrets.token_hex(2)}.mp4"

    def _new_folder(self) -> Path:
        """A folder for files that the browser shows; its name cannot be guessed by another page."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir()
        return folder

    @contextmanager
    def _told(self) -> Iterator[Changes]:
        """What is told at the end: the problem, if there is one."""
        told: Changes = {}
        try:
            yield told
        except Exception as error:
            told[self._parts.status] = _sentence(error)


def _sentence(error: Exception) -> str:
    """What the page says of an error: the worker's own sentence, never a stack trace."""
    if not isinstance(error, JobError | ValueError | OSError | RankFailed):
        logger.exception("The page has failed")
        return words.problem(_FAULT)
    is_over = isinstance(error, RankFailed) or getattr(error, "refresh_worker", False)
    return words.problem(f"{error} End the page and start it anew." if is_over else str(error))


def _session(request: gr.Request) -> str:
    """Which tab it is."""
    return request.session_hash or ""
