"""RunPod worker: opens the models once, then answers jobs.

    {"input": {"image_url": "https://...", "wav_url": "https://..."}}

On RunPod, `python handler.py` waits for jobs. Elsewhere it runs one (`--test_input JSON`, or test_input.json in the
current folder) or serves RunPod's API locally (`--rp_serve_api`).

RunPod's stop signal cancels a job before its next step, and the worker goes on to the next job. On SIGTERM no further
job is asked for. The worker ends when the running job, and one that an open request still brings, have been answered.
If RunPod kills the worker before that, the next one goes on after the last finished window that it finds on the volume.
An answer that did not arrive waits there for the job to come back.
"""

# ruff: noqa: E402  one thing comes first

from infinitetalk.temporary_folder import require_temporary_folder

require_temporary_folder()

import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import runpod.serverless

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import JobError, RankFailed
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.logs import configure_logging
from infinitetalk.marking.marker import Marker
from infinitetalk.models.opening import Models
from infinitetalk.serving.answers import KeptAnswers
from infinitetalk.serving.jobs import make_handler
from infinitetalk.serving.local_api import LocalProgress, serve_as_runpod
from infinitetalk.serving.loop import guard_job_loop
from infinitetalk.serving.sdk_logs import limit_sdk_logs, redirect_sdk_logs
from infinitetalk.serving.updates import post_progress
from infinitetalk.startup.fitness import worker_checks
from infinitetalk.startup.opening import open_faces, open_models

STOPPED_WHILE_LOADING = 128 + signal.SIGTERM


def main() -> None:
    """Load the models once, then serve jobs."""
    # Until the SDK sets its own handler. Without one, the first process of a container ignores the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED_WHILE_LOADING))
    on_runpod = "RUNPOD_WEBHOOK_GET_JOB" in os.environ
    try:
        settings = Settings.from_env(os.environ)
        configure_logging(settings.log_level, sys.stdout, as_json=on_runpod)
        if on_runpod:
            redirect_sdk_logs(settings.log_level)
        else:
            limit_sdk_logs(settings.log_level)

        @cache
        def load_models() -> Models:
            return open_models(settings)

        @cache
        def load_faces() -> FaceFinder | None:
            return open_faces(settings)

        marker = Marker.open(settings)
        checks: tuple[Callable[[], object], ...] = (*worker_checks(settings), load_models, load_faces)
        for check in checks:
            if on_runpod:  # the SDK runs them, tells RunPod which one failed, and ends the process
                runpod.serverless.register_fitness_check(check)
            else:
                check()
    except (ValueError, JobError, RankFailed) as error:  # a wrong setting, weights or a GPU that are not there
        sys.exit(f"The worker cannot start: {' '.join(str(error).split())}")
    config: dict[str, Any] = {}
    answers, local = None, LocalProgress()
    if on_runpod:
        answers = KeptAnswers(settings)
        guard_job_loop(answers.arrived)
    else:
        serve_as_runpod(local)
    # If this flag is set, the SDK ends the process after the job and asks RunPod for a new one.
    config["handler"] = make_handler(
        load_models,
        settings,
        post_progress if on_runpod else local.note,
        retire=lambda: config.update(refresh_worker=True),
        answers=answers,
        load_faces=load_faces,
        marker=marker,
    )
    runpod.serverless.start(config)


if __name__ == "__main__":
    main()
