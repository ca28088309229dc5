"""Content credentials: a C2PA manifest in an mp4, signed and read by the coalition's own library (c2pa-python).

The manifest says that a model made the video, and by which software, model and profile. It names no media, no prompt,
no address and no person (https://spec.c2pa.org/specifications/specifications/2.4/specs/C2PA_Specification.html,
on actions).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from c2pa import Builder, C2paError, C2paSignerInfo, Context, Reader, Settings, Signer
from cryptography.x509.oid import ExtendedKeyUsageOID

from infinitetalk import __version__
from infinitetalk.marking.certificates import CLAIM_SIGNING, Identity
from infinitetalk.marking.xmp import SOURCE_TYPES

TOOL = "InfiniteTalk worker"
_MIME_TYPE = "video/mp4"
# Nothing is fetched: what a file names is a stranger's address. A certificate is for signing if it has one of these
# extended key usages; the library's own list lacks the first.
_USAGES = (CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION)
_TRUST = {"trust_config": "".join(f"{usage.dotted_string}\n" for usage in _USAGES)}
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}, "trust": _TRUST}

Verdict = Literal["trusted", "untrusted", "tampered", "invalid", "none"]


class SigningFailed(Exception):
    """The library refused to sign. Its message says why, and is only ever a cause."""


@dataclass(frozen=True)
class Credentials:
    """What a file's content credentials say.

    Args:
        verdict: trusted and untrusted are intact, and signed by somebody who is, or is not, on the reader's list;
            tampered was changed or damaged after it was signed; invalid fails otherwise; none has no credentials.
        problems: what the library found, by C2PA's own codes.
        manifest: the newest manifest as the library gives it; empty where there is none, or none that can be read.
    """

    verdict: Verdict
    problems: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def signed_by(self) -> str | None:
        """The organisation that the certificate names."""
        return self._signature("issuer")

    @property
    def signed_at(self) -> str | None:
        """When, by a time stamp; None without one."""
        return self._signature("time")

    @property
    def source_types(self) -> tuple[str, ...]:
        """The digital source types of its actions, by their last parts."""
        types = [action.get("digitalSourceType") for action in self._actions()]
        return tuple(name.removeprefix(SOURCE_TYPES) for name in types if name is not None)

    @property
    def made_by(self) -> str | None:
        """The software that its actions name, with what is said of it."""
        for action in self._actions():
            agent = action.get("softwareAgent")
            if isinstance(agent, dict):
                more = [f"{key} {value}" for key, value in sorted(agent.items()) if key not in ("name", "version")]
                return ", ".join([f"{agent.get('name', '')} {agent.get('version', '')}".strip(), *more])
            if agent is not None:
                return str(agent)
        return None

    def _signature(self, key: str) -> str | None:
        value = self.manifest.get("signature_info", {}).get(key)
        return None if value is None else str(value)

    def _actions(self) -> list[dict[str, Any]]:
        return [
            action
            for assertion in self.manifest.get("assertions", ())
            if assertion["label"].startswith("c2pa.actions")
            for action in assertion["data"].get("actions", ())
        ]


def manifest(source_type: str, profile: str) -> dict[str, Any]:
    """What is signed of a video that a model of that profile made, as c2pa's `Builder` takes it."""
    agent = {"name": TOOL, "version": __version__}
    action = {
        "action": "c2pa.created",
        "digitalSourceType": SOURCE_TYPES + source_type,
        "softwareAgent": agent | {"model": "InfiniteTalk", "profile": profile},
    }
    actions = {"label": "c2pa.actions.v2", "created": True, "data": {"actions": [action]}}
    return {"claim_generator_info": [agent], "assertions": [actions]}


def sign(video: Path, signed: Path, content: dict[str, Any], identity: Identity, tsa_url: str | None) -> None:
    """Write a copy of an mp4 with a signed manifest in it. Its streams stay byte for byte, and its index at the front.

    Args:
        tsa_url: a time stamp authority (RFC 3161), which the library asks; None leaves the time out.

    Raises SigningFailed, OSError.
    """
    info = C2paSignerInfo(identity.algorithm, identity.chain_pem, identity.key_pem, tsa_url)
    try:
        with (
            Signer.from_info(info) as signer,
            Context(Settings.from_dict(_OFFLINE)) as context,
            video.open("rb") as source,
            signed.open("w+b") as target,
        ):
            Builder(json.dumps(content), context).sign(signer, _MIME_TYPE, source, target)
    except C2paError as error:
        raise SigningFailed(str(error)) from error


def read(video: Path, anchors_pem: str | None = None) -> Credentials:
    """The content credentials of an mp4.

    Args:
        anchors_pem: the certificates of those who are trusted, such as C2PA's trust list.

    Raises OSError.
    """
    settings: dict[str, Any] = dict(_OFFLINE)
    if anchors_pem is not None:
        settings["trust"] = _TRUST | {"trust_anchors": anchors_pem}
    with video.open("rb") as file, Context(Settings.from_dict(settings)) as context:
        try:
            with Reader(_MIME_TYPE, file, context=context) as reader:
                store = json.loads(reader.json())
        except C2paError.ManifestNotFound:
            return Credentials("none", (), {})
        except C2paError as error:  # something in them cannot be read: signed files have no such thing
            return Credentials("tampered", (str(error),), {})
    state, codes = store.get("validation_state"), [entry["code"] for entry in store.get("validation_status", ())]
    newest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    return Credentials(_verdict(state, codes), tuple(codes), newest)


def _verdict(state: str | None, codes: list[str]) -> Verdict:
    if state == "Trusted":
        return "trusted"
    if state == "Valid":
        return "untrusted"
    return "tampered" if any(code.endswith((".mismatch", ".malformed")) for code in codes) else "invalid"
