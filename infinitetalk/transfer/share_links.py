"""Links to a share's page, which people paste where the file's own address belongs."""

from urllib.parse import urlsplit

_OTHERS = {
    "drive.google.com": (
        "for Google Drive, share the file with anyone who has the link and give "
        "https://drive.google.com/uc?export=download&id=FILE_ID (large files lead to a page all the same)"
    ),
    "dropbox.com": "for Dropbox, end the link in dl=1 instead of dl=0",
    "onedrive.live.com": "for OneDrive, add download=1 to the link, as in ?download=1 or &download=1",
    "sharepoint.com": "for SharePoint, share the file with anyone who has the link and add download=1 to it",
}
_SAME = {
    "docs.google.com": "drive.google.com",
    "drive.usercontent.google.com": "drive.google.com",
    "1drv.ms": "onedrive.live.com",
}


def direct_link(url: str) -> str | None:
    """Which link leads to the file itself, in words; None for hosts that are not known for it."""
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    host = _SAME.get(host, host)
    return next((words for name, words in _OTHERS.items() if host == name or host.endswith(f".{name}")), None)
