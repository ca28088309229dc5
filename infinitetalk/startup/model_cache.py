"""RunPod's cached model: which of its folders holds a repository's files.

It is laid out as huggingface_hub lays out its own cache (docs/runpod.md has the source):

    VOLUME_DIR/huggingface-cache/hub/models--<owner>--<name>/refs/main             the commit that the branch named
    VOLUME_DIR/huggingface-cache/hub/models--<owner>--<name>/snapshots/<commit>/   the files
"""

from pathlib import Path

from infinitetalk.errors import ModelMissing


def cached_folder(volume_dir: Path, repository: str, commit: str = "") -> Path:
    """The folder that a repository's files are in, at one commit. It need not exist.

    Args:
        volume_dir: where RunPod mounts the cached model, and the network volume.
        repository: owner/name. Upper and lower case do not matter: the folder is named as the endpoint's setting was
            typed.
        commit: 40 hex digits; if empty, the commit that refs/main names, or the only one that is there.

    Raises:
        ModelMissing: no commit was given, several are there, and refs/main names none of them.
    """
    folder = _repository_folder(volume_dir / "huggingface-cache" / "hub", repository)
    snapshots = folder / "snapshots"
    if commit:
        return snapshots / commit
    found = sorted(path.name for path in snapshots.iterdir() if path.is_dir()) if snapshots.is_dir() else []
    main = folder / "refs" / "main"
    named = main.read_text("utf-8", errors="replace").strip() if main.is_file() else ""
    if named in found:
        return snapshots / named
    if len(found) > 1:
        raise ModelMissing(
            f"The cached model {repository} has several commits ({', '.join(found)}), and its refs/main names none of "
            f"them: name one, as in MODELS_REPOSITORY={repository}@{found[0]}."
        )
    return snapshots / found[0] if found else snapshots


def _repository_folder(hub: Path, repository: str) -> Path:
    folder = hub / f"models--{repository.replace('/', '--')}"
    if folder.is_dir() or not hub.is_dir():
        return folder
    return next((path for path in sorted(hub.iterdir()) if path.name.lower() == folder.name.lower()), folder)
