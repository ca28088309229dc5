"""`infinitetalk submit`: one job of this machine's files on an endpoint. Needs no torch."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from rich.console import Console

from infinitetalk.cli_display import look_at, print_plans, tell, watch_bar
from infinitetalk.cli_options import request_of
from infinitetalk.client.endpoint import EndpointFailed, JobGone, NotAnswered, RemoteEndpoint
from infinitetalk.client.files import caller_bucket, check_files, unload
from infinitetalk.client.following import JobFailed, JobView, follow, outcome
from infinitetalk.client.notes import note_path, read_note, remove_note, write_note
from infinitetalk.client.receiving import receive, without_video
from infinitetalk.client.sending import SentJob, send_job
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.contract.request import Request
from infinitetalk.contract.result import DryRun
from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput, JobError
from infinitetalk.transfer.bucket import Bucket
from infinitetalk.transfer.exchange import check_local_output
from infinitetalk.transfer.output_file import check_name, check_place

Json = dict[str, Any]

INTERRUPTED = 130  # the exit status that shells know


def submit(options: argparse.Namespace) -> None:
    """`infinitetalk submit`. Raises a JobError, ValueError or OSError of one sentence."""
    caller = CallerSettings.from_env(os.environ, options.bucket)
    bucket = caller_bucket(caller)
    if options.cancel is not None:
        status = endpoint_of(options, caller).cancel(options.cancel).get("status", "told")
        print(f"The endpoint was asked to cancel {options.cancel}; its status is {status}")
        return
    if options.dry_run:
        _dry_run(options, caller, bucket)
        return
    if options.output is None:
        raise InvalidInput("-o is missing: name the file to write, such as out.mp4")
    if options.resume is not None:
        job, endpoint = _found(options, caller)
    else:
        endpoint = endpoint_of(options, caller)
        job = _sent(options, endpoint, bucket)
    _bring(job, endpoint, bucket, options.output)


def endpoint_of(options: argparse.Namespace, caller: CallerSettings) -> RemoteEndpoint:
    """The endpoint that the options name. Raises EndpointFailed."""
    if options.url is not None:
        return RemoteEndpoint.at(options.url)
    if options.endpoint is None:
        raise EndpointFailed("No endpoint is named: give --endpoint ID, or --url http://localhost:8000")
    return _on_runpod(options.endpoint, caller)


def _on_runpod(endpoint_id: str, caller: CallerSettings) -> RemoteEndpoint:
    key = caller.runpod_api_key
    return RemoteEndpoint.on_runpod(endpoint_id, None if key is None else key.get_secret_value())


def _checked(options: argparse.Namespace) -> Request:
    """The job that the options describe, its files looked at."""
    request = request_of(options)
    if options.output is not None:
        check_local_output(request, options.output)
    check_files(request, Settings.from_env(os.environ))
    return request


def _sent(options: argparse.Namespace, endpoint: RemoteEndpoint, bucket: Bucket | None) -> SentJob:
    """The job of the options, sent and noted."""
    output: Path = options.output
    waiting = read_note(output)
    if waiting is not None and not waiting.job_id:
        raise InvalidInput(
            f"It is not known whether {' '.join(waiting.place)} took the job that was being sent for {output}: look at "
            f"its requests; --resume JOB_ID comes back to the job, and without {note_path(output)} another is sent"
        )
    if waiting is not None:
        raise InvalidInput(
            f"The job {waiting.job_id} was sent for {output} before: come back to it with "
            f"`{_again('--resume', waiting, output)}`, or remove {note_path(output)} to send another"
        )
    request = _checked(options)
    fields = {} if options.deliver is None else {"output": options.deliver}

    def begun(uploads: tuple[str, ...]) -> None:
        write_note(output, SentJob(job_id="", place=endpoint.place, uploads=uploads))

    try:
        job = send_job(request, endpoint, bucket, on_loaded=begun, **fields)
    except (JobError, EndpointFailed) as error:
        if not isinstance(error, NotAnswered) or not error.was_sent:
            remove_note(output)
        raise
    tell(f"Job {job.job_id} is sent.")
    write_note(output, job)
    return job


def _found(options: argparse.Namespace, caller: CallerSettings) -> tuple[SentJob, RemoteEndpoint]:
    """The job to come back to, and where it is: as the options say, or its note."""
    output: Path = options.output
    check_name(output, ".mp4", {})
    check_place(output)
    note = read_note(output)
    if note is not None and note.job_id not in ("", options.resume):
        raise InvalidInput(f"{note_path(output)} is of another job, {note.job_id}: name that one, or another -o")
    if options.url is None and options.endpoint is None and note is not None:
        option, value = note.place
        endpoint = RemoteEndpoint.at(value) if option == "--url" else _on_runpod(value, caller)
    else:
        endpoint = endpoint_of(options, caller)
    if note is None:
        return SentJob(job_id=options.resume, place=endpoint.place), endpoint
    if endpoint.place != note.place:
        raise InvalidInput(
            f"The job of {note_path(output)} was sent to {' '.join(note.place)}: name that, or another -o"
        )
    return note.model_copy(update={"job_id": options.resume}), endpoint


def _bring(job: SentJob, endpoint: RemoteEndpoint, bucket: Bucket | None, output: Path) -> None:
    """Watch a job to its end, and bring its video to `output`."""
    try:
        view = _watch(job, endpoint, output)
    except JobGone:
        _clean(job, bucket)
        remove_note(output)
        raise
    except EndpointFailed as error:
        tell(_ways_back(job, output).strip())
        raise EndpointFailed(f"{error}; the job may still run") from error
    if job.uploads:
        _clean(job, bucket)
        write_note(output, job.model_copy(update={"uploads": ()}))
    try:
        result = outcome(view)
    except JobFailed as error:
        remove_note(output)
        again = "; the same job may succeed later" if error.retryable else ""
        raise JobFailed(f"{error} ({error.code}{again})", error.code, error.retryable) from error
    try:
        received = receive(result, output)
    except (EndpointFailed, KeyboardInterrupt) as error:
        reason = error if isinstance(error, EndpointFailed) else "The video is not fetched"
        raise EndpointFailed(f"{reason}. Fetch it: {_again('--resume', job, output)}") from error
    remove_note(output)
    if received.volume_path is not None:
        tell(f"The video is on the worker's volume: {received.volume_path}. Nothing is written to {output}.")
    shown = without_video(result)
    place = {} if received.file is None else {"file": str(received.file)}
    print(json.dumps(place | shown, indent=2))
    for sentence in look_at(result):
        tell(f"Look at it: {sentence}")


def _watch(job: SentJob, endpoint: RemoteEndpoint, output: Path) -> JobView:
    """The end of a job. Ctrl-C asks whether to cancel it; once more, and it is left running."""
    while True:
        try:
            with watch_bar() as show:
                return follow(endpoint, job.job_id, show)
        except KeyboardInterrupt:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                _leave(job, output)
        try:
            answer = Console(stderr=True, highlight=False).input(
                f"Cancel job {job.job_id} on the worker? y: cancel it, n: go on watching, Ctrl-C: leave it running. "
            )
            if answer.strip().lower() in ("y", "yes"):
                endpoint.cancel(job.job_id)
        except (KeyboardInterrupt, EOFError):
            _leave(job, output)


def _leave(job: SentJob, output: Path) -> NoReturn:
    tell(f"\nJob {job.job_id} is left running.{_ways_back(job, output)}")
    sys.exit(INTERRUPTED)


def _ways_back(job: SentJob, output: Path) -> str:
    return f"\nCome back to it: {_again('--resume', job, output)}\nCancel it: {_again('--cancel', job, None)}"


def _again(option: str, job: SentJob, output: Path | None) -> str:
    words = ["infinitetalk", "submit", option, job.job_id, *job.place]
    return shlex.join([*words, "-o", str(output)] if output is not None else words)


def _clean(job: SentJob, bucket: Bucket | None) -> None:
    for problem in unload(bucket, job.uploads):
        tell(f"Note: {problem}")


def _dry_run(options: argparse.Namespace, caller: CallerSettings, bucket: Bucket | None) -> None:
    """Ask the worker what the job would do, take and cost."""
    endpoint, request = endpoint_of(options, caller), _checked(options)
    job = send_job(request, endpoint, bucket, dry_run=True)
    try:
        with watch_bar() as show:
            result = outcome(follow(endpoint, job.job_id, show))
    except KeyboardInterrupt:
        endpoint.cancel(job.job_id)
        raise
    finally:
        _clean(job, bucket)
    try:
        run = DryRun.model_validate_json(json.dumps(result))
    except ValidationError:  # of a worker of another version
        print(json.dumps(result, indent=2))
        return
    print_plans({run.speed_mode: run})
