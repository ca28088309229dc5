"""The commands that look at files and make no video: faces, inspect, quality."""

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from infinitetalk.cli_display import Output
from infinitetalk.cli_options import settings_of
from infinitetalk.errors import MediaUnreadable, ModelMissing
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.faces.report import drawn, look, table, to_json
from infinitetalk.marking import report as marking
from infinitetalk.models.device import choose_device
from infinitetalk.transfer.output_file import check_name
from infinitetalk.transfer.volume import Volume


def faces(options: argparse.Namespace) -> None:
    """`infinitetalk faces`: which faces the worker sees. Raises a JobError or ValueError of one sentence."""
    if options.output is not None:
        check_name(options.output, ".png", {str(options.file): options.file})
    finder = FaceFinder.open(choose_device(settings_of(options).device))
    try:
        views = look(options.file, finder)
    except OSError as error:
        raise MediaUnreadable(f"{options.file} cannot be read ({error.strerror}); name a picture or a video") from error
    if options.json:
        print(json.dumps(to_json(views), indent=2))
    else:
        Output().print(table(views, options.file.name))
    if options.output is not None:
        _write(options.output, drawn(views), "-o")
    if not any(view.faces for view in views):
        raise MediaUnreadable(
            f"{options.file}: no face is found; a face is found more easily if it is larger, upright and not covered, "
            "and a job can say by boxes where its speakers are"
        )


def inspect(options: argparse.Namespace) -> None:
    """`infinitetalk inspect`: what a video says of how it was made. Raises MediaUnreadable where it is not intact."""
    try:
        anchors = None if options.trust is None else options.trust.read_text("utf-8")
        if anchors is not None and "-----BEGIN CERTIFICATE-----" not in anchors:
            raise MediaUnreadable(f"{options.trust} holds no certificates; name a PEM file of those whom you trust")
        found = marking.inspect(options.video, anchors)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        name = error.filename if isinstance(error, OSError) else options.trust
        raise MediaUnreadable(f"{name} cannot be read ({reason})") from error
    if options.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        Output().print(marking.table(found, options.video.name))
        if found.credentials.manifest:
            print(f"Manifest: {json.dumps(found.credentials.manifest, indent=2)}")
    if found.credentials.verdict not in ("trusted", "untrusted"):
        raise MediaUnreadable(f"{options.video}: content credentials: {found.said}")


def quality(options: argparse.Namespace) -> None:
    """`infinitetalk quality`: the measures of a video. Raises a JobError or ValueError of one sentence."""
    path = options.picture or options.video.with_suffix(".quality.png")
    files = [options.video, options.against, options.result, *options.audio]
    check_name(path, ".png", {str(file): file for file in files if file is not None})
    # scikit-image and scipy are slow to import, and only these measures need them.
    try:
        from infinitetalk.quality.measures import joins_of
        from infinitetalk.quality.report import measure, picture
        from infinitetalk.quality.report import table as measures

        joins = options.joins
        if options.result:
            joins = joins_of(_result_settings(options.result))
        measured = measure(
            options.video,
            against=options.against,
            audio=options.audio,
            order=options.speaker_order,
            people=options.people,
            joins=joins,
            finder=_finder_or_none(options),
        )
    except ImportError as error:
        sys.exit(f"infinitetalk: {error}")
    if options.json:
        print(json.dumps(measured.report.to_json(), indent=2))
    else:
        console = Output()
        console.print(measures(measured.report))
        for note in measured.report.notes:
            console.print(f"Note: {note}")
    _write(path, picture(measured), "--picture")
    if not options.json:
        print(f"Picture: {path}")


def _finder_or_none(options: argparse.Namespace) -> FaceFinder | None:
    """What finds faces; None where it is not installed."""
    try:
        return FaceFinder.open(choose_device(settings_of(options).device))
    except ModelMissing:
        return None


def _write(path: Path, image: Image.Image, option: str) -> None:
    """Put a picture where its user wants it, whole or not at all. Raises ValueError."""
    content = BytesIO()
    image.save(content, "PNG")
    try:
        Volume(path.parent).write(path.name, content.getvalue())
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another place with {option}") from error


def _result_settings(path: Path) -> dict[str, Any]:
    """The settings in what a job printed or an endpoint answered. Raises ValueError."""
    try:
        result = json.loads(path.read_text("utf-8"))
        settings = result.get("output", result)["settings"]
        return dict(settings.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no result with settings; give the file that the job printed") from error
