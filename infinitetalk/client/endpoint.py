"""An endpoint of RunPod, or a worker's local API, asked through the SDK's client; its troubles become sentences."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

import requests
import runpod
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from infinitetalk.contract.wording import show

Json = dict[str, Any]

ASK_LIMIT_S = 30.0  # longest wait for an answer to a question
SEND_LIMIT_S = 120.0  # and to a job, which may have 10 MB
SEND_PAUSES_S = (1.0, 2.0, 4.0)  # between the tries of a job that was certainly not taken
_SHOWN_CHARS = 300  # of what an endpoint says

_KEY_ADVICE = "set RUNPOD_API_KEY to a key of this account that may use the endpoint"


class EndpointFailed(ValueError):
    """An endpoint does not do what it is asked. The message is one sentence that says what to do."""


class NotAnswered(EndpointFailed):
    """There was no usable answer, which may pass.

    Args:
        was_sent: whether the question may have arrived.
    """

    def __init__(self, reason: str, was_sent: bool = True) -> None:
        super().__init__(reason)
        self.was_sent = was_sent


class JobGone(EndpointFailed):
    """The endpoint knows no such job: its id is wrong, or its result is no longer kept."""


@dataclass(frozen=True)
class RemoteEndpoint:
    """Where jobs go.

    Args:
        place: the options that name it on the command line: --endpoint ID, or --url URL.
    """

    place: tuple[str, str]
    _sdk: Any  # runpod.Endpoint

    @classmethod
    def on_runpod(cls, endpoint_id: str, api_key: str | None) -> Self:
        """An endpoint of RunPod by its id.

        Args:
            api_key: if not given, the one in the SDK's configuration.

        Raises:
            EndpointFailed: there is no key, or the id is none.
        """
        if not endpoint_id.isascii() or not endpoint_id.replace("-", "").isalnum():
            raise EndpointFailed(f"--endpoint is {show(endpoint_id)}: give the endpoint's id, such as abc123def456")
        try:
            sdk = runpod.Endpoint(endpoint_id, api_key)
        except RuntimeError as error:
            raise EndpointFailed(f"There is no key for RunPod: {_KEY_ADVICE}, or run `runpod config`") from error
        return cls(("--endpoint", endpoint_id), _with_our_retries(sdk))

    @classmethod
    def at(cls, url: str) -> Self:
        """An endpoint by its address, such as a worker's local API. The key for RunPod is not sent there.

        Raises:
            EndpointFailed: it is no address.
        """
        address = url.rstrip("/")
        if not address.startswith(("http://", "https://")) or address.endswith(":/"):
            raise EndpointFailed(f"--url is {show(url)}: give an http(s) address such as http://localhost:8000")
        # The SDK asks {base}/{endpoint id}/run: the last part of the address takes the place of the id.
        base, _, last = address.rpartition("/")
        sdk = runpod.Endpoint(last, "none")
        sdk.rp_client.endpoint_url_base = base
        del sdk.rp_client.headers["Authorization"]
        return cls(("--url", address), _with_our_retries(sdk))

    def send(self, job: Mapping[str, Any]) -> str:
        """Send a job; returns its id.

        It is tried again only where it certainly did not arrive: a job that is sent twice is paid twice.

        Args:
            job: with `input`, and what may stand beside it.

        Raises:
            EndpointFailed: it was refused.
            NotAnswered: it was not sent, or it is not known whether it was taken (`was_sent`).
        """
        for pause_s in (*SEND_PAUSES_S, None):
            try:
                answer = self._ask("POST", "run", dict(job), SEND_LIMIT_S)
                break
            except JobGone as error:
                raise EndpointFailed(f"There is no endpoint at {' '.join(self.place)}; check it") from error
            except NotAnswered as error:
                if error.was_sent:
                    raise NotAnswered(
                        f"It is not known whether the endpoint took the job ({error}); look at the endpoint's "
                        "requests before you send it again"
                    ) from error
                if pause_s is None:
                    raise NotAnswered(f"The job was not sent: {error}", was_sent=False) from error
                time.sleep(pause_s)
        job_id = answer.get("id")
        if not isinstance(job_id, str) or not job_id:
            raise NotAnswered(
                "The endpoint's answer names no job, so it is not known whether it took the job; is it a queue "
                "endpoint of this worker?"
            )
        return job_id

    def status(self, job_id: str) -> Json:
        """A job's status as the endpoint tells it. Raises EndpointFailed; NotAnswered and JobGone are two kinds."""
        return self._ask("GET", f"status/{_part(job_id)}", None, ASK_LIMIT_S)

    def cancel(self, job_id: str) -> Json:
        """Cancel a job. Raises EndpointFailed."""
        return self._ask("POST", f"cancel/{_part(job_id)}", None, ASK_LIMIT_S)

    def health(self) -> Json:
        """How many jobs and workers there are. Raises EndpointFailed."""
        return self._ask("GET", "health", None, ASK_LIMIT_S)

    def _ask(self, method: str, path: str, body: Json | None, limit_s: float) -> Json:
        client = self._sdk.rp_client
        ask: Callable[..., Any] = client.get if method == "GET" else client.post
        address = f"{self._sdk.endpoint_id}/{path}"
        try:
            answer = ask(address, timeout=limit_s) if body is None and method == "GET" else ask(address, body, limit_s)
        except requests.HTTPError as error:
            raise _refusal(error.response) from error
        except RuntimeError as error:  # the SDK's for 401
            raise EndpointFailed(f"The endpoint refuses the key (HTTP 401): {_KEY_ADVICE}") from error
        except requests.exceptions.InvalidURL as error:
            raise EndpointFailed(f"{' '.join(self.place)} is no address; check it") from error
        except requests.RequestException as error:
            raise NotAnswered(_reason(error), was_sent=not _never_left(error)) from error
        if not isinstance(answer, dict):
            raise NotAnswered("the answer is not RunPod's")
        return answer


def _with_our_retries(sdk: Any) -> Any:  # noqa: ANN401  the SDK is not annotated
    """The SDK repeats questions that go over http, silently and for half a minute; here all go alike."""
    for scheme in ("http://", "https://"):
        sdk.rp_client.rp_session.mount(scheme, HTTPAdapter())
    return sdk


def _part(job_id: str) -> str:
    return quote(job_id, safe="")


def _refusal(response: requests.Response) -> EndpointFailed:
    status = response.status_code
    said = _said(response)
    if status == HTTPStatus.NOT_FOUND:
        return JobGone(
            "The endpoint knows no such job: the id or the endpoint is wrong, or the result is no longer kept "
            "(RunPod keeps it for 30 minutes)"
        )
    if status == HTTPStatus.FORBIDDEN:
        return EndpointFailed(f"The endpoint refuses the key (HTTP 403): {_KEY_ADVICE}")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return EndpointFailed("The endpoint does not answer as RunPod does (HTTP 405): a worker of an older version?")
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        # 429 says that the question was not even looked at.
        return NotAnswered(f"HTTP {status}{said}", was_sent=status != HTTPStatus.TOO_MANY_REQUESTS)
    return EndpointFailed(f"The endpoint refuses this (HTTP {status}{said})")


def _said(response: requests.Response) -> str:
    """What an endpoint says of its refusal."""
    text = " ".join(response.text.split())
    return f": {text[:_SHOWN_CHARS]}" if text and not text.startswith("<") else ""


def _never_left(error: requests.RequestException) -> bool:
    """Whether there was not even a connection."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _reason(error: requests.RequestException) -> str:
    if _never_left(error):
        return "the endpoint cannot be reached; check its address and the network"
    if isinstance(error, requests.Timeout):
        return "the endpoint does not answer"
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "the answer is not JSON"
    if isinstance(error, requests.exceptions.SSLError):
        return "there is no secure connection to the endpoint"
    return "the connection to the endpoint broke"
