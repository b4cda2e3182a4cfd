"""Downloads from the Hugging Face hub, by its client, and from http addresses, with checks.

Every failure is a `NotFetchedError` that states the reason. A download is complete or absent.
"""

import glob
import http.client
import ipaddress
import re
import shutil
import socket
import time
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from tqdm import tqdm
from typing_extensions import override

from fineclip.shards import atomic
from fineclip.system_errors import NO_SPACE, refusal

BLOCK_BYTES = 1 << 16
STALL_SECONDS = 20.0  # longest silence of a server
MOST_SECONDS = 6 * 3600.0  # longest download
HUB_ANSWER_SECONDS = 10.0

OTHER_FRAMEWORKS = re.compile(
    r"\.(h5(\.index\.json)?|msgpack(\.index\.json)?|onnx|onnx_data|ot|tflite|mlmodel)$|(^|/)openvino_"
)

# IPv6 ranges whose last 32 bits are an IPv4 address that a gateway reaches.
_GATEWAYS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/96"))


class NotFetchedError(Exception):
    """A download failed."""


def from_address(url: str, target: Path, *, most_bytes: int) -> None:
    """Write the content of an http or https address to `target`.

    The IP address that is checked is the one that is connected to, after redirects too. Proxies of the environment are not used,
    because they would hide the address.

    Args:
        url: Address of a file.
        target: Path that is replaced after the last byte.
        most_bytes: Greatest size in bytes.

    Raises:
        NotFetchedError: The address is refused, unreachable, absent, too large, too slow, or the transfer is truncated.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise NotFetchedError(f"{url} is not an http or https address")
    opener = build_opener(ProxyHandler({}), _Redirects, _PublicAddresses)
    try:
        with opener.open(url, timeout=STALL_SECONDS) as response, atomic(target) as temporary:
            _copy(response, temporary, most_bytes=most_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotFetchedError(str(error).strip("<>") or type(error).__name__) from None


def from_hub(repository: str, revision: str, target: Path, *, file: str | None) -> None:
    """Fetch one file of a hub repository, or its `needed` files if `file` is None.

    An interrupted download is kept beside `target` and resumed.

    Args:
        repository: Name of the repository.
        revision: Commit hash.
        target: The file, or the folder of the files.
        file: Name of the file in the repository.

    Raises:
        NotFetchedError: The client is not installed or reports an error, or a file does not exist.
        SystemRefusalError: There is no space.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HTTPError
    except ImportError:
        raise NotFetchedError("huggingface_hub is not installed; install fineclip[data]") from None
    partial_folder = target.with_name(f".{target.name}.{revision[:12]}.partial")
    try:
        # This request comes first, because without a network it fails immediately. The calls below would retry for half a
        # minute, or would treat the files of an interrupted download as complete.
        answer = HfApi().repo_info(repository, revision=revision, timeout=HUB_ANSWER_SECONDS)
        names = {entry.rfilename for entry in answer.siblings or ()}
        if file is not None and file not in names:
            raise NotFetchedError(f"{repository} at {revision} has no file {file}")
        wanted = needed(names) if file is None else {file}
        patterns = sorted(map(glob.escape, wanted))
        snapshot_download(repository, revision=revision, local_dir=partial_folder, allow_patterns=patterns)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        if getattr(error, "errno", None) in NO_SPACE and (refused := refusal(error, target, doing="cannot be written")):
            raise refused from None
        raise NotFetchedError(_reason(error)) from None
    absent = sorted(name for name in wanted if not (partial_folder / name).is_file())
    if absent:
        raise NotFetchedError(f"{len(absent)} files of {repository} were not downloaded: {', '.join(absent[:3])}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial_folder / ".cache", ignore_errors=True)
    if target.is_dir():
        shutil.rmtree(target)
    (partial_folder / (file or "")).replace(target)
    shutil.rmtree(partial_folder, ignore_errors=True)


def needed(names: Collection[str]) -> set[str]:
    """Return the files of a repository that PyTorch needs: no weights of other frameworks, and none in two formats.

    Many repositories hold the same weights as safetensors and as pickles (`model-00001-of-00002.safetensors`,
    `pytorch_model-00001-of-00003.bin`, each with an index), and again for TensorFlow, JAX, ONNX or OpenVINO.
    """
    safe = {_model_of(name) for name in names if PurePosixPath(name).suffix == ".safetensors"}
    return {
        name
        for name in names
        if not OTHER_FRAMEWORKS.search(name) and not (_is_pickle(name) and _model_of(name) in safe)
    }


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name.removesuffix(".index.json")).suffix in (".bin", ".pt", ".pth", ".ckpt")


def _model_of(name: str) -> str:
    """Return the path of a weight file without part number, format and the word pytorch: equal for files of one model."""
    path = PurePosixPath(name.removesuffix(".index.json"))
    return (path.parent / re.sub(r"pytorch_|-\d+-of-\d+$", "", path.stem)).as_posix()


def _reason(error: BaseException) -> str:
    """Return the first line of an error and of its causes; the client of the hub wraps the actual error."""
    messages: dict[str, None] = {}
    cause: BaseException | None = error
    while cause is not None:
        messages[next(iter(str(cause).strip().splitlines()), type(cause).__name__).rstrip(".")] = None
        cause = cause.__cause__ or cause.__context__
    return "; ".join(messages)


def _copy(response: http.client.HTTPResponse, target: Path, *, most_bytes: int) -> None:
    announced = int(response.headers.get("Content-Length") or -1)
    if announced > most_bytes:
        raise NotFetchedError(f"the server announces {announced} bytes, at most {most_bytes} were expected")
    deadline, received = time.monotonic() + MOST_SECONDS, 0
    bar = tqdm(total=max(announced, 0) or None, unit="B", unit_scale=True, desc=target.parent.name, disable=None)
    with target.open("wb") as file, bar:
        while block := response.read1(BLOCK_BYTES):
            received += len(block)
            if received > most_bytes:
                raise NotFetchedError(f"the server sends more than the {most_bytes} bytes that were expected")
            if time.monotonic() > deadline:
                raise NotFetchedError(f"not done after {MOST_SECONDS:.0f} s")
            file.write(block)
            bar.update(len(block))
    if 0 <= announced != received:
        raise NotFetchedError(f"truncated: received {received} of {announced} bytes")


class _PublicAddresses(HTTPSHandler, HTTPHandler):
    """Handlers of http and https that connect to public IP addresses only; certificates are checked as usual."""

    @override
    def do_open(self, http_class: Any, req: Request, **http_conn_args: Any) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> Any:
            made = http_class(host, **options)
            made._create_connection = _connect
            return made

        return super().do_open(connection, req, **http_conn_args)


def _connect(address: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
    """Return a connection to an address that passed the check; the name is resolved once."""
    host, port = address
    found = [str(place[4][0]) for place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if not is_public(text):
            raise OSError(f"{host} is {text}, which is not on the public internet")
    failure = OSError(f"{host} has no address")
    for text in found:
        try:
            return socket.create_connection((text, port), timeout)
        except OSError as error:
            failure = error
    raise failure


def is_public(text: str) -> bool:
    """Return whether an IP address is public: not private, loopback, link-local, reserved or multicast."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _GATEWAYS):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast and not address.is_reserved


class _Redirects(HTTPRedirectHandler):
    @override
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise OSError(
                f"the server redirects from {req.type} to {newurl}, an unknown url type or one without encryption"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
