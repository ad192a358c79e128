"""Files of weights from the Hugging Face hub: `hf://OWNER/NAME[@REVISION][/FILE]`.

The hub's API (`/api/models/REPO/revision/REVISION?blobs=true`) names the files of a repository with
size and SHA-256. What its weights expect of their input is in a repository of timm's `config.json`,
or of transformers' `preprocessor_config.json`. As for the hub's own tools, $HF_ENDPOINT is another
server, and $HF_TOKEN opens private repositories.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError, DataError, RunError, nearest, some
from convmesh.weights.architectures import other_net
from convmesh.weights.binary_file import printable
from convmesh.weights.download import SECONDS, check_digest, fetch, reason
from convmesh.weights.preprocessing import of_timm, of_transformers

SCHEME = "hf://"
USUAL = ("model.safetensors", "pytorch_model.bin")  # the first of them that a repository has
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_STATED = "+stated"  # after an address: what its repository states
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".keras")
_ANSWER = 2**24  # bytes of a longer answer are not read
_DAMAGED = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, ConfigError)
_FORM = f"{SCHEME}OWNER/NAME[@REVISION][/FILE]"


@dataclass(frozen=True)
class HubFile:
    """A file on the hub, as the user names it; file "": the usual one."""

    repository: str
    revision: str = "main"
    file: str = ""

    @classmethod
    def parse(cls, address: str) -> HubFile:
        """Raises ConfigError if `address` has another form."""
        name = r"\w[\w.-]*"
        form = rf"{SCHEME}({name}/{name})(?:@({name}))?(?:/(.+))?"
        match = re.fullmatch(form, address, re.ASCII)
        if match is None:
            raise ConfigError(f"init_from={address}: not of the form {_FORM}")
        return cls(match[1], match[2] or "main", match[3] or "")


@dataclass(frozen=True)
class _Found:
    """What the hub says of a file."""

    file: str
    commit: str
    digest: str  # SHA-256
    size: int
    licence: str


def hub_weights(address: str, cache: Path, log: Callable[[str], None]) -> Path:
    """The file of `address`, from `cache` or downloaded into it, and verified.

    Without a network, what an earlier call has found is taken from the cache. Raises ConfigError
    if there is no such repository or file, RunError if it cannot be reached, or as `fetch` does.
    """
    wanted = HubFile.parse(address)
    known = _kept(cache, address)
    try:
        found = _choose(wanted, address, _ask(wanted, address))
    except RunError as error:
        found, path = _known(known)
        if found is None or not path.exists():
            raise
        log(f"{error}; taking {path}")
    path = known.parent / f"{found.digest[:16]}-{PurePosixPath(found.file).name}"
    if path.exists():
        check_digest(path, found.digest)
        log(f"init_from={address}: {path}, licence {found.licence}")
    else:
        file = urllib.parse.quote(found.file)
        url = f"{_endpoint()}/{wanted.repository}/resolve/{found.commit}/{file}"
        log(
            f"init_from={address}: {url}, {found.size / 2**20:.0f} MB, licence {found.licence}, "
            f"SHA-256 {found.digest}; it is kept in {path.parent}"
        )
        fetch(url, path, found.digest, log, _headers())
    known.write_text(json.dumps(vars(found)))
    return path


def hub_input(address: str, cache: Path, models: Sequence[str] = ()) -> dict[str, Any]:
    """What the weights of `address` expect of their input, as keys of the config of a classifier.

    {} if its repository has no such file of timm or transformers. Without a network, what an
    earlier call has read is taken from `cache`. Raises ConfigError and RunError as `hub_weights`,
    ConfigError if the config.json states a net that none of `models` computes, DataError for a
    damaged file.
    """
    stated = _stated(address, cache)
    found: dict[str, Any] = {}
    for name, read in ((PREPROCESSOR, of_transformers), (CONFIG, _of_timms_config)):
        try:
            found = read(stated[name]) or found  # timm's own come last
            apply_overrides(defaults("classify"), found)
        except _DAMAGED as error:
            said = printable(str(error))
            raise DataError(f"init_from={address}: its {name} is damaged: {said}") from None
    if other := other_net(stated[CONFIG], models):
        raise ConfigError(f"init_from={address}: its {CONFIG} states {other}")
    kept = _kept(cache, f"{address}{_STATED}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(stated))
    return found


def _of_timms_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `of_timm`, for a config.json; {} for that of another program."""
    # timm's first form has the keys beside the architecture.
    first_form = config if "architecture" in config else {}
    return of_timm(config.get("pretrained_cfg") or first_form)


def _stated(address: str, cache: Path) -> dict[str, Any]:
    """By its name what a file that describes the weights holds, {} if there is none; see `_kept`.

    Raises ConfigError and RunError as `hub_weights`.
    """
    wanted = HubFile.parse(address)
    try:
        answer = _ask(wanted, address)
        names = [entry.get("rfilename") for entry in answer["siblings"] if isinstance(entry, dict)]
        stated = {}
        for name in (CONFIG, PREPROCESSOR):
            url = f"{_endpoint()}/{wanted.repository}/resolve/{answer.get('sha')}/{name}"
            refused = f"init_from={address}: {_endpoint()} does not give its {name}"
            stated[name] = _read_json(url, refused) if name in names else {}
        return stated
    except RunError as error:
        try:
            kept = json.loads(_kept(cache, f"{address}{_STATED}").read_text())
            return {name: kept[name] for name in (CONFIG, PREPROCESSOR)}
        except (OSError, ValueError, LookupError, TypeError):
            raise error from None


def _kept(cache: Path, name: str) -> Path:
    """The file in `cache` for what the hub has said of an address."""
    return cache / "hub" / f"{urllib.parse.quote(name.removeprefix(SCHEME), safe='')}.json"


def _known(file: Path) -> tuple[Any, Path]:
    """What an earlier call has found, and its file; (None, ...) if there was none."""
    try:
        found = _Found(**json.loads(file.read_text()))
        return found, file.parent / f"{found.digest[:16]}-{PurePosixPath(found.file).name}"
    except (OSError, ValueError, TypeError):
        return None, file


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _headers() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN", "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask(wanted: HubFile, address: str) -> dict[str, Any]:
    """The hub's description of the repository. Raises ConfigError, RunError."""
    revision = urllib.parse.quote(wanted.revision, safe="")
    url = f"{_endpoint()}/api/models/{wanted.repository}/revision/{revision}?blobs=true"
    answer = _read_json(
        url,
        f"init_from={address}: {_endpoint()} has no such repository or revision, or it is private "
        "and $HF_TOKEN does not open it",
    )
    if not isinstance(answer, dict) or not isinstance(answer.get("siblings"), list):
        raise RunError(f"{url}: not the answer of a Hugging Face hub")
    return answer


def _read_json(url: str, refused: str) -> Any:
    """What a file of the hub holds; None if it is no JSON.

    Raises ConfigError that says `refused` if it is not there or not for us, RunError if it cannot
    be reached.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "convmesh"})
    for name, value in _headers().items():
        request.add_unredirected_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.loads(reply.read(_ANSWER))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise ConfigError(f"{refused} (HTTP {error.code})") from None
        raise RunError(f"{url}: {reason(error)}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise RunError(
            f"{url}: {reason(error)}; or download the file by other means, and give its path"
        ) from None
    except (ValueError, RecursionError):
        return None


def _choose(wanted: HubFile, address: str, answer: Mapping[str, Any]) -> _Found:
    """The wanted file among those of a repository. Raises ConfigError if it is not clear."""
    files = {
        str(entry["rfilename"]): entry
        for entry in answer["siblings"]
        if isinstance(entry, dict) and "rfilename" in entry
    }
    weights = [name for name in files if name.endswith(SUFFIXES)]
    usual = [name for name in USUAL if name in files] or weights
    name = wanted.file or (usual[0] if usual and (usual[0] in USUAL or len(usual) == 1) else "")
    if name not in files:
        what = f"no file {name}{nearest(name, weights)}" if name else "no usual file of weights"
        there = f"; there are {some(weights)}" if weights else ""
        raise ConfigError(f"init_from={address}: the repository has {what}{there}")
    stored = files[name].get("lfs")
    digest = str(stored.get("sha256", "")) if isinstance(stored, dict) else ""
    commit = str(answer.get("sha", ""))
    if not re.fullmatch("[0-9a-f]{64}", digest) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise ConfigError(
            f"init_from={address}: the hub states no SHA-256 of {name}; download it by other "
            "means, and give its path"
        )
    card = answer.get("cardData")
    licence = card.get("license") if isinstance(card, dict) else None
    size = stored.get("size") if isinstance(stored, dict) else 0
    return _Found(
        file=name,
        commit=commit,
        digest=digest,
        size=size if isinstance(size, int) else 0,
        licence=licence if isinstance(licence, str) else "not stated",
    )
