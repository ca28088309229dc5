"""Marks finished videos: the last change to a video's file before it is delivered."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Self

from infinitetalk import __version__
from infinitetalk.contract.result import Marking, SourceType
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import MarkingFailed
from infinitetalk.marking.certificates import Identity, identity_of
from infinitetalk.marking.credentials import TOOL, SigningFailed, manifest, sign
from infinitetalk.marking.xmp import append_xmp
from infinitetalk.media.child import check_ended

OWN_CERTIFICATE = "own certificate: readers will show it as untrusted"
TIME_LIMIT_S = 120.0  # a minute of 720p takes 0.2 s; the rest is for a time stamp authority
_POLL_S = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Marked:
    """A video to deliver.

    Args:
        marking: what its file says, for the result; None if it says nothing.
        warnings: of what it should have said and does not.
    """

    path: Path
    marking: Marking | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Marker:
    """Writes into videos that a model made them, and signs that.

    Args:
        identity: who signs; None leaves videos as they are.
        tsa_url: a time stamp authority.
        is_optional: whether a video that could not be signed is delivered all the same.
    """

    identity: Identity | None
    tsa_url: str | None = None
    is_optional: bool = False

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The marker that the settings name. Raises SettingsError where the certificate or the key is wrong."""
        if settings.mark == "off":
            return cls(None)
        return cls(identity_of(settings), settings.sign_tsa, settings.mark == "optional")

    def check_valid(self) -> None:
        """Find out before the work that the certificate has expired since the start. Raises MarkingFailed."""
        if self.identity is not None and self.identity.is_expired and not self.is_optional:
            raise MarkingFailed(
                f"the worker's certificate expired on {self.identity.valid_until:%Y-%m-%d}, so no video can be signed; "
                "the operator must set a new SIGN_CERT and SIGN_KEY."
            )

    def mark(self, video: Path, is_composite: bool, profile: str) -> Marked:
        """Mark an mp4. The marked video may be another file beside it; the given one is then gone.

        Args:
            is_composite: whether parts of it are a recording or a picture that somebody else made.
            profile: the name of the model's profile.

        Raises:
            MarkingFailed: it could not be signed.
            What the check of `media.child.ended_by` raises.
        """
        if self.identity is None:
            return Marked(video, None)
        identity, tsa_url = self.identity, self.tsa_url
        source_type: SourceType = "compositeWithTrainedAlgorithmicMedia" if is_composite else "trainedAlgorithmicMedia"
        signed = video.with_name(f"signed-{video.name}")
        try:
            if identity.is_expired:
                raise SigningFailed(f"the certificate expired on {identity.valid_until:%Y-%m-%d}")
            append_xmp(video, source_type, f"{TOOL} {__version__}")
            _beside(lambda: sign(video, signed, manifest(source_type, profile), identity, tsa_url))
        except (SigningFailed, TimeoutError, OSError) as error:
            signed.unlink(missing_ok=True)
            logger.warning("The video could not be signed: %s", error)
            if not self.is_optional:
                raise MarkingFailed(
                    "the video was made and could not be signed, so it is not delivered; try again, or let the "
                    "worker's operator look at SIGN_CERT, SIGN_TSA and the room in WORK_DIR."
                ) from error
            return Marked(
                video,
                None,
                ("The video carries no content credentials: it could not be signed. The worker's log says why.",),
            )
        video.unlink()
        note = OWN_CERTIFICATE if identity.is_own else None
        return Marked(signed, Marking(digital_source_type=source_type, signed_by=identity.name, note=note))


def _beside(work: Callable[[], None]) -> None:
    """Do the work in another thread, and wait for it as long as the job may go on.

    A time stamp authority may be slow to answer. The thread is left to itself then: the library gives up by itself.

    Raises TimeoutError, what the work raises, and what the check of `media.child.ended_by` raises.
    """
    deadline_s = monotonic() + TIME_LIMIT_S
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sign")
    try:
        done = thread.submit(work)
        while not wait([done], _POLL_S).done:
            check_ended()
            if monotonic() > deadline_s:
                raise TimeoutError(f"not signed within {TIME_LIMIT_S:g} s")
        done.result()
    finally:
        thread.shutdown(wait=False)
