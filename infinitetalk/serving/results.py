"""Results on their way to RunPod: posted until they have arrived.

The SDK posts a result three times within some seconds, drops it then, and does not say which it was.
"""

import asyncio
import json
import logging
import time
from http import HTTPStatus
from typing import Any

import aiohttp
from runpod.serverless.modules.rp_http import JOB_DONE_URL

from infinitetalk.logs import log_event
from infinitetalk.serving.job_ids import id_in_address

Json = dict[str, Any]

RESULT_LIMIT_S = 180.0  # for all tries together
TRY_LIMIT_S = 60.0
LONGEST_PAUSE_S = 30.0
REFUSED_TRIES = 3  # of a result that RunPod answers with 4xx

# Answers of 4xx that say nothing of the result itself.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}

logger = logging.getLogger(__name__)


async def post_result(session: aiohttp.ClientSession, job_id: str, result: Json) -> bool:
    """Tell RunPod a job's result; returns whether it has arrived.

    Args:
        session: the SDK's, which holds the worker's key.
        job_id: a plain one.
        result: what the SDK sends: output, error, stopPod.
    """
    url = JOB_DONE_URL.replace("$ID", id_in_address(job_id)) + "&isStream=false"
    body = json.dumps(result)
    deadline_s = time.monotonic() + RESULT_LIMIT_S
    tries, pause_s = 0, 1.0
    while True:
        status, problem = await _post(session, url, job_id, body)
        tries += 1
        if problem is None:
            return True
        is_refused = 400 <= status < 500 and status not in _PASSING
        if (is_refused and tries == REFUSED_TRIES) or time.monotonic() + pause_s > deadline_s:
            log_event(logger, logging.ERROR, "result did not arrive", tries=tries, problem=problem)
            return False
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _post(session: aiohttp.ClientSession, url: str, job_id: str, body: str) -> tuple[int, str | None]:
    """One try: the status of the answer (0: none came) and what was wrong."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", "charset": "utf-8", "X-Request-ID": job_id}
    limit = aiohttp.ClientTimeout(total=TRY_LIMIT_S)
    try:
        async with session.post(url, data=body, headers=headers, timeout=limit) as response:
            await response.read()
            return response.status, None if response.ok else f"HTTP {response.status}"
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return 0, type(error).__name__
