"""Downloads a file: resumed after an interruption, verified before it has its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from convmesh.errors import RunError, first_line

SECONDS = 30.0  # without a byte, after which a connection is given up
TRIES = 4  # each goes on where the last one ended
PAUSE_SECONDS = 1.0  # before the second try, twice as long before each further one
WORD_SECONDS = 10.0  # between two lines about a download in progress
_CHUNK = 2**20


def fetch(
    url: str,
    path: Path,
    digits: str,
    log: Callable[[str], None],
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Downloads `url` to `path`, whose folder is created; returns `path`.

    What an interrupted call has received is kept in `path` with `.part`, and the next one goes on
    from there. digits: the first ones of the file's SHA-256 in hexadecimal. headers: of the
    request, but not of one to another address that the server refers to.

    Raises RunError if it cannot be downloaded or written, or is another file than expected: then
    nothing is kept.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(TRIES):
            try:
                _receive(url, part, log, headers or {})
                break
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if attempt + 1 == TRIES or not _may_pass(error):
                    raise
                time.sleep(PAUSE_SECONDS * 2**attempt)
        check_digest(part, digits)
        os.replace(part, path)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        kept = part.stat().st_size if part.exists() else 0
        rest = f"; {kept / 2**20:.1f} MB are kept, the next try goes on" if kept else ""
        raise RunError(
            f"{url}: cannot be downloaded: {reason(error)}{rest}; or fetch it by other means "
            f"and put it at {path}"
        ) from None
    return path


def check_digest(path: Path, digits: str) -> None:
    """Raises RunError, and deletes a download, if the SHA-256 of a file begins otherwise."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(digits):
        return
    gone = ""
    if path.suffix == ".part":
        path.unlink()
        gone = "; it is deleted, try again"
    raise RunError(f"{path}: damaged: its SHA-256 is {found[:8]}..., not {digits}...{gone}")


def _receive(url: str, part: Path, log: Callable[[str], None], headers: Mapping[str, str]) -> None:
    """Appends to `part` what it lacks of `url`. Raises OSError, HTTPException."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "convmesh"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        reply = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or it is another file
            return
        raise
    with reply:
        if reply.status != 206:  # the server sends the whole file
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        last_word = time.monotonic()
        with open(part, "ab" if have else "wb") as file:
            while data := reply.read(_CHUNK):
                file.write(data)
                have += len(data)
                if time.monotonic() - last_word > WORD_SECONDS:
                    last_word = time.monotonic()
                    of = f" of {total / 2**20:.0f}" if total else ""
                    log(f"{part.name.removesuffix('.part')}: {have / 2**20:.0f}{of} MB")
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the network, a busy server, but no missing file."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, ConnectionError | TimeoutError)
    return isinstance(error, http.client.HTTPException | ConnectionError | TimeoutError)


def reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        with contextlib.closing(error):
            return f"HTTP {error.code} {error.reason}"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended early"
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return first_line(reason) if isinstance(reason, Exception) else str(reason)
