"""The page's server: on this machine's own address, with one folder of files, until it is stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from starlette.middleware import Middleware

from infinitetalk.contract.settings import Settings
from infinitetalk.errors import InvalidInput
from infinitetalk.faces.finder import FaceFinder
from infinitetalk.job.folder import job_folder
from infinitetalk.page.door import Door
from infinitetalk.page.runner import Runner

HOST = "127.0.0.1"
_END_LIMIT_S = 30.0  # for jobs that are cancelled when the page ends; a step of the largest model takes less


@contextmanager
def served(
    runner: Runner, faces: FaceFinder | None, settings: Settings, videos: Path, port: int | None = None
) -> Iterator[str]:
    """Serve the page while the `with` block runs; gives its address. What its tabs are doing then ends with it.

    Args:
        faces: what finds faces for the picture; None where that is not installed.
        settings: limits of files.
        videos: the folder in which finished videos stay.
        port: if not given, the first free one from 7860 on.

    Raises InvalidInput: Gradio is not installed, or the port is taken.
    """
    if find_spec("gradio") is None:
        raise InvalidInput(
            "The page needs Gradio: `make page` installs it, or pip install -e '.[page]' and then "
            "pip install --no-deps -r requirements-page.lock"
        )
    with job_folder(settings.work_dir, "page") as folder:
        _close_gradios_doors(str(folder))
        from infinitetalk.page.actions import Page
        from infinitetalk.page.layout import CSS, theme

        page = Page(runner, faces, settings, videos, folder)
        blocks = page.blocks()
        try:
            _, address, _ = blocks.launch(
                server_name=HOST,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                show_error=False,
                allowed_paths=[],
                max_file_size=max(settings.max_bytes(kind) for kind in ("image", "audio", "video")),
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                theme=theme(),
                css=CSS,
                app_kwargs={"middleware": [Middleware(Door)], "docs_url": None, "redoc_url": None, "openapi_url": None},
            )
        except OSError as error:
            raise InvalidInput(f"The page cannot be served at port {port or 7860}: name another --port.") from error
        try:
            yield address
        finally:
            page.tabs.end_all(_END_LIMIT_S)
            blocks.close(verbose=False)


def _close_gradios_doors(folder: str) -> None:
    """Let no variable of the environment open what is closed here: GRADIO_SHARE, GRADIO_ALLOWED_PATHS, and others.

    Gradio reads them when it is imported and later on. Its temporary folder has no other way in.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
