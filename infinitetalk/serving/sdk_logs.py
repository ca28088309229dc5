"""The SDK's log lines, which go the same way as ours."""

import logging

from runpod.serverless.modules.rp_logger import RunPodLogger


def redirect_sdk_logs(level: str) -> None:
    """Send the SDK's lines through our logging: they quote addresses, and at DEBUG whole jobs and answers."""
    sdk_logger = logging.getLogger("runpod.sdk")
    sdk_logger.setLevel(max(logging.INFO, logging.getLevelName(level)))
    levels = {"WARN": logging.WARNING, "ERROR": logging.ERROR, "DEBUG": logging.DEBUG, "TRACE": logging.DEBUG}

    def log(message: object, message_level: str = "INFO", job_id: str | None = None) -> None:
        sdk_logger.log(levels.get(message_level, logging.INFO), "%s", message, extra={"job_id": job_id})

    RunPodLogger().log = log


def limit_sdk_logs(level: str) -> None:
    """Let the SDK print its own lines from `level` on, which is one of our levels."""
    RunPodLogger().set_level({"DEBUG": "INFO", "WARNING": "WARN"}.get(level, level))
