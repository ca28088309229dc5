"""`infinitetalk page`: a page in this machine's browser, over local models or an endpoint."""

import argparse
import os
import signal
import sys
import threading

from infinitetalk.cli_options import settings_of
from infinitetalk.cli_submit import endpoint_of
from infinitetalk.client.files import caller_bucket
from infinitetalk.contract.caller import CallerSettings
from infinitetalk.logs import configure_logging
from infinitetalk.page.runner import Runner
from infinitetalk.page.server import served
from infinitetalk.page.there import RemoteRunner
from infinitetalk.startup.fitness import worker_checks
from infinitetalk.startup.opening import open_faces


def page(options: argparse.Namespace) -> None:
    """`infinitetalk page`. Raises a JobError, ValueError, OSError or RankFailed of one sentence."""
    settings = settings_of(options)
    configure_logging(settings.log_level, sys.stderr)
    faces = open_faces(settings)
    runner: Runner
    if options.endpoint is None and options.url is None:
        from infinitetalk.page.here import LocalRunner

        for check in worker_checks(settings):
            check()
        runner = LocalRunner(settings, faces)
    else:
        caller = CallerSettings.from_env(os.environ, options.bucket)
        runner = RemoteRunner(endpoint_of(options, caller), caller_bucket(caller), settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: jobs are cancelled
    with served(runner, faces, settings, options.output, options.port) as address:
        print(f"The page is at {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
