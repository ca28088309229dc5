"""The faces of a job's picture or video, as boxes."""

import numpy as np
from numpy.typing import NDArray

from infinitetalk.contract.request import Request
from infinitetalk.errors import ModelMissing
from infinitetalk.faces.finder import MAX_SIDE, FaceFinder
from infinitetalk.faces.networks import INSTALL
from infinitetalk.media.video import SourceVideo

Box = tuple[float, float, float, float]


def find_boxes(faces: FaceFinder, picture: NDArray[np.uint8]) -> tuple[Box, ...]:
    """The faces of a whole picture (height, width, 3), from left to right, in fractions of it."""
    height, width = picture.shape[:2]
    return tuple(face.fractions((width, height)) for face in faces.find(picture))


def find_in_video(faces: FaceFinder, video: SourceVideo, index: int = 0) -> tuple[Box, ...]:
    """The faces of a video's frame at index / 25 s. Raises as `SourceVideo.frame`."""
    return find_boxes(faces, video.whole(MAX_SIDE, index))


def check_faces(request: Request, faces: FaceFinder | None) -> None:
    """Raise ModelMissing where the job asks for faces, and nothing can find them."""
    asked = [speaker for speaker in request.all_speakers if speaker.face is not None]
    if asked and faces is None:
        raise ModelMissing(
            f"{asked[0].voice.removesuffix('.wav_url')}.face needs the networks that find faces, which this worker "
            f"does not have: `{INSTALL}` brings them; or give a box."
        )
