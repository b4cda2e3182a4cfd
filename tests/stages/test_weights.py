"""Weights: where they are looked for, how they are fetched, and that they stay what they were."""

import contextlib
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.request import Request

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from fineclip.config import WeightsConfig
from fineclip.errors import CheckpointError
from fineclip.models import shipped as shipped_module
from fineclip.shards import read_manifest
from fineclip.stages import download
from fineclip.stages.download import _connect, _Redirects, is_public, needed
from fineclip.stages.weights import fetch_weights, hash_of, weights_at

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MANIFEST = Path("data/weights/detect/yolo9.e.json")


class Server(BaseHTTPRequestHandler):
    """Answers by the path: the file, a cut file, redirects, an endless stream."""

    asked: ClassVar[list[str]] = []
    content = CONTENT

    def do_HEAD(self) -> None:
        """The hub's client asks for a file's size and hash before it fetches it."""
        self.asked.append(self.path)
        self._head(len(self.content))

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path in {"/model.pt", "/my%20model.pt"}:
            self._answer(len(self.content), self.content)
        elif self.path == "/cut.pt":
            self._answer(len(self.content), self.content[:100])
        elif self.path.startswith("/hub/api/models/"):
            siblings = [{"rfilename": name} for name in REPOSITORY]
            answer = {"id": "a/b", "modelId": "a/b", "sha": "0" * 40, "siblings": siblings}
            tree = [{"type": "file", "path": name, "oid": DIGEST, "size": len(self.content)} for name in REPOSITORY]
            content = json.dumps(tree if "/tree/" in self.path else answer).encode()
            self._answer(len(content), content)
        elif self.path.startswith("/hub/a/b/resolve/"):
            self._answer(len(self.content), self.content)
        elif self.path == "/endless.pt":
            self._answer(None, self.content * 1000)
        else:
            self.send_error(404)

    def _head(self, announced: int | None) -> None:
        self.send_response(200)
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        if self.path.startswith("/hub/"):
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{DIGEST}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def _answer(self, announced: int | None, content: bytes) -> None:
        self._head(announced)
        with contextlib.suppress(ConnectionError):  # who has had enough hangs up
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked, Server.content = [], CONTENT
    service = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}"
    service.shutdown()
    service.server_close()
    thread.join()


def fetch(config: WeightsConfig, *, allow_private: bool = False) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        if allow_private:
            patched.setattr(download, "is_public", lambda _: True)
        fetch_weights("detect", "yolo9.e", MANIFEST, config)
    return weights_at(MANIFEST, config)


def test_fetched_once_then_found(server: str) -> None:
    config = WeightsConfig(url=f"{server}/model.pt", size_mb=0.01)
    path = fetch(config, allow_private=True)
    assert path == Path("data/weights/detect/yolo9.e/model.pt")
    assert path.read_bytes() == CONTENT
    first = MANIFEST.read_bytes()
    assert read_manifest(MANIFEST).outputs == {path.as_posix(): DIGEST}
    MANIFEST.unlink()  # as Snakemake does before a job
    assert fetch(config, allow_private=True) == path
    assert Server.asked == ["/model.pt"]
    assert MANIFEST.read_bytes() == first


def test_the_path_comes_first_and_nothing_is_asked_of_the_network(server: str) -> None:
    Path("mine.pt").write_bytes(CONTENT)
    assert fetch(WeightsConfig(path="mine.pt", url=f"{server}/model.pt")) == Path("mine.pt")
    assert Server.asked == []


def test_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_module, "FOLDER", tmp_path / "package")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "tiny.pt").write_bytes(CONTENT)
    assert fetch(WeightsConfig(shipped="tiny.pt")) == tmp_path / "package" / "tiny.pt"
    assert read_manifest(MANIFEST).outputs == {"shipped:tiny.pt": DIGEST}
    (tmp_path / "package" / "tiny.pt").write_bytes(b"a new version of the package")
    assert fetch(WeightsConfig(shipped="tiny.pt")).is_file()  # the package answers for what it ships
    with pytest.raises(CheckpointError, match=f"the configuration says {DIGEST}"):
        fetch(WeightsConfig(shipped="tiny.pt", sha256=DIGEST))


def test_the_configured_hash_is_enforced(server: str) -> None:
    wrong = "0" * 64
    config = WeightsConfig(url=f"{server}/model.pt", sha256=wrong)
    with pytest.raises(CheckpointError, match=f"(?s){DIGEST}.*{wrong}"):
        fetch(config, allow_private=True)
    assert not MANIFEST.exists()
    with pytest.raises(CheckpointError):  # what was refused is not taken up again
        fetch(config, allow_private=True)
    assert Server.asked == ["/model.pt"] * 2


def test_the_first_hash_is_enforced_from_then_on() -> None:
    config = WeightsConfig(path="mine.pt")
    Path("mine.pt").write_bytes(CONTENT)
    fetch(config)
    MANIFEST.unlink()
    Path("mine.pt").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=f"(?s){hashlib.sha256(b'other').hexdigest()}.*{DIGEST}.*first fetch"):
        fetch(config)
    Path("data/weights/detect/.yolo9.e.sha256").unlink()
    assert fetch(config) == Path("mine.pt")


def test_another_file_by_hand_is_not_the_fetched_one(server: str) -> None:
    config = WeightsConfig(path="mine.pt", url=f"{server}/model.pt")
    fetch(config, allow_private=True)
    Path("mine.pt").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="first fetch"):
        fetch(config, allow_private=True)


def test_the_file_has_the_name_that_the_address_encodes(server: str) -> None:
    path = fetch(WeightsConfig(url=f"{server}/my%20model.pt"), allow_private=True)
    assert path == MANIFEST.with_suffix("") / "my model.pt"


def test_another_origin_is_fetched_anew(server: str) -> None:
    fetch(WeightsConfig(url=f"{server}/model.pt"), allow_private=True)
    Server.content = b"the next revision"
    path = fetch(WeightsConfig(url=f"{server}/to//model.pt"), allow_private=True)
    assert path.read_bytes() == b"the next revision"


def test_what_changed_after_the_manifest_is_noticed() -> None:
    config = WeightsConfig(path="mine.pt")
    Path("mine.pt").write_bytes(CONTENT)
    fetch(config)
    Path("mine.pt").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match="Restore the old file"):
        weights_at(MANIFEST, config)
    Path("mine.pt").unlink()
    with pytest.raises(CheckpointError, match="do not exist"):
        weights_at(MANIFEST, config)
    with pytest.raises(CheckpointError, match="the configuration wants"):
        Path("mine.pt").write_bytes(CONTENT)
        weights_at(MANIFEST, WeightsConfig(path="mine.pt", sha256="1" * 64))


def test_a_folder_has_one_hash(tmp_path: Path) -> None:
    folder = Path("captioner")
    (folder / "sub").mkdir(parents=True)
    (folder / "b.json").write_bytes(b"b")
    (folder / "sub" / "a.bin").write_bytes(b"a")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "when").write_bytes(b"today")
    lines = "".join(
        f"{hashlib.sha256(text).hexdigest()}  {name}\n" for text, name in ((b"b", "b.json"), (b"a", "sub/a.bin"))
    )
    assert hash_of(folder) == hashlib.sha256(lines.encode()).hexdigest()
    assert fetch(WeightsConfig(path="captioner")) == folder
    (folder / "sub" / "a.bin").rename(folder / "sub" / "c.bin")
    with pytest.raises(CheckpointError, match="Restore the old file"):
        weights_at(MANIFEST, WeightsConfig(path="captioner"))
    Path("empty").mkdir()
    with pytest.raises(CheckpointError, match="an empty folder"):
        fetch(WeightsConfig(path="empty"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/absent.pt", "404"),
        ("/cut.pt", "truncated: received 100 of 7000"),
        ("/endless.pt", "more than the 12000 bytes"),
        ("/to/file:///etc/passwd", "redirect|not allowed|unknown url type"),
        ("/to/ftp://127.0.0.1/x", "unknown url type"),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(server: str, path: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        fetch(WeightsConfig(url=server + path, size_mb=0.01), allow_private=True)
    assert [file for file in Path("data").rglob("*") if file.is_file()] == []


def test_a_large_announcement_is_refused_before_the_first_byte(server: str) -> None:
    with pytest.raises(CheckpointError, match="announces 7000 bytes, at most 1200"):
        fetch(WeightsConfig(url=f"{server}/model.pt", size_mb=0.001), allow_private=True)


def test_this_machines_own_network_is_not_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1, which is not on the public internet"):
        fetch(WeightsConfig(url=f"{server}/model.pt"))
    assert Server.asked == []
    # after a redirect as well: the first address is taken for a public one, the second is not
    monkeypatch.setattr(download, "is_public", lambda text: text == "127.0.0.1")
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.2, which is not"):
        fetch(WeightsConfig(url=f"{server}/to/http://127.0.0.2:1/secret"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_only_http(tmp_path: Path) -> None:
    Path("secret").write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match="not an http or https address"):
        fetch(WeightsConfig(url=f"file://{tmp_path}/secret"))


EVERYTHING = WeightsConfig(
    path="checkpoints/EVA02_CLIP_B_psz16_s8B.pt",
    hub="QuanSun/EVA-CLIP",
    hub_file="EVA02_CLIP_B_psz16_s8B.pt",
    revision="11afd202f2ae80869d6cef18b1ec775e79bd8d12",
    size_mb=300,
    license="MIT",
)


def test_one_message_says_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", offline)
    with pytest.raises(CheckpointError) as caught:
        fetch_weights("encoders", "eva.b16", Path("data/weights/encoders/eva.b16.json"), EVERYTHING)
    said = str(caught.value)
    for part in (
        "encoders.eva.b16.weights",
        "offline mode is enabled.",
        "EVA02_CLIP_B_psz16_s8B.pt of https://huggingface.co/QuanSun/EVA-CLIP at revision 11afd202",
        "300 MB",
        "MIT",
        "put it   checkpoints/EVA02_CLIP_B_psz16_s8B.pt",
    ):
        assert part in said
    with pytest.raises(CheckpointError, match=r"encoders\.mini\.tokenizer: .* nothing at vocabulary\.gz"):
        fetch_weights(
            "tokenizers", "mini", Path("data/weights/tokenizers/mini.json"), WeightsConfig(path="vocabulary.gz")
        )


def test_offline_stops_at_once() -> None:
    """The hub's own client, in a process that was told there is no network."""
    script = (
        "from pathlib import Path\n"
        "from fineclip.config import WeightsConfig\n"
        "from fineclip.stages.weights import fetch_weights\n"
        "for more in ({'hub_file': 'a.pt'}, {}):\n"
        "    try:\n"
        "        fetch_weights('caption', 'x', Path('data/x.json'), WeightsConfig(hub='a/b', revision='0' * 40, **more))\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, 'HF_HUB_OFFLINE' in str(error) or 'offline' in str(error).lower(), error)\n"
        "import sys; print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HUB_OFFLINE": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("CheckpointError", "True", "False"))]
    assert [line[:20] for line in lines] == ["CheckpointError True"] * 2 + ["False"], done.stdout


class Hub:
    """Stands in for the hub's client: a repository of some files, of which not all may come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
        self.files, self.lost = files, ""
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda _, *args, **options: self.info())
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.one)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.whole)

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def one(self, repository: str, file: str, *, revision: str, local_dir: Path) -> str:
        path = Path(local_dir) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{repository} {file} {revision}".encode())
        return str(path)

    def whole(self, repository: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> str:
        wanted = filter_repo_objects(self.files, allow_patterns=allow_patterns)
        for name in (*wanted, ".cache/huggingface/when"):
            if name != self.lost:
                self.one(repository, name, revision=revision, local_dir=local_dir)
        return str(local_dir)


def test_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, "config.json", "sub/model.pt")
    path = fetch(WeightsConfig(hub="a/b", hub_file="sub/model.pt", revision="c1"))
    assert path == Path("data/weights/detect/yolo9.e/model.pt")
    assert path.read_bytes() == b"a/b sub/model.pt c1"
    folder = fetch(WeightsConfig(hub="a/b", revision="c2"))
    assert folder == Path("data/weights/detect/yolo9.e")
    there = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert there == ["config.json", "sub/model.pt"]  # nothing of the other origin, nothing of the client's own
    assert [file.name for file in folder.parent.iterdir() if "partial" in file.name] == []


def test_half_a_repository_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, "config.json", "model.pt")
    hub.lost = "model.pt"
    config = WeightsConfig(hub="a/b", revision="c1")
    with pytest.raises(CheckpointError, match="1 files of a/b were not downloaded: model.pt"):
        fetch(config)
    hub.lost = ""
    assert (fetch(config) / "model.pt").is_file()
    with pytest.raises(CheckpointError, match="a/b at c1 has no file other.pt"):
        fetch(WeightsConfig(hub="a/b", hub_file="other.pt", revision="c1"))


REPOSITORY = {  # as Salesforce/blip2-opt-6.7b-coco and others have them: name, whether it is wanted
    "config.json": True,
    "tokenizer.json": True,
    "model-00001-of-00002.safetensors": True,
    "model-00002-of-00002.safetensors": True,
    "model.safetensors.index.json": True,
    "pytorch_model-00001-of-00004.bin": False,
    "pytorch_model-00004-of-00004.bin": False,
    "pytorch_model.bin.index.json": False,
    "open_clip_pytorch_model.bin": True,  # of this there are no safetensors
    "adapter/adapter_model.bin": True,
    "vision/model.safetensors": True,
    "vision/pytorch_model.bin": False,
    "tf_model.h5": False,
    "flax_model-00001-of-00003.msgpack": False,
    "flax_model.msgpack.index.json": False,
    "onnx/model.onnx": False,
    "onnx/model.onnx_data": False,
    "openvino/openvino_model.bin": False,
    "rust_model.ot": False,
    "odd [1] name.json": True,
}


def test_no_weights_twice_and_none_of_other_frameworks() -> None:
    assert needed(REPOSITORY) == {name for name, wanted in REPOSITORY.items() if wanted}
    assert needed({"pytorch_model.bin", "config.json"}) == {"pytorch_model.bin", "config.json"}


def test_the_hubs_own_client_asks_for_what_is_needed(server: str, tmp_path: Path) -> None:
    """A whole repository from a local server that answers as the hub does, in a process of its own."""
    script = (
        "from pathlib import Path\n"
        "from fineclip.stages.download import from_hub\n"
        "from_hub('a/b', '0' * 40, Path('whole'), file=None)\n"
    )
    environment = {
        "HF_ENDPOINT": f"{server}/hub",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "",
    }
    subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=True)
    there = {file.relative_to("whole").as_posix() for file in Path("whole").rglob("*") if file.is_file()}
    assert there == {name for name, wanted in REPOSITORY.items() if wanted}
    assert all(Path("whole", name).read_bytes() == CONTENT for name in there)
    assert not any("pytorch_model-0" in path or "onnx" in path for path in Server.asked)


def test_names_with_brackets_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, "config.json", "part[1].bin")
    folder = fetch(WeightsConfig(hub="a/b", revision="c1"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "part[1].bin"]


def test_a_redirect_does_not_leave_https() -> None:
    def leads(start: str, end: str) -> Request | None:
        return _Redirects().redirect_request(Request(start), io.BytesIO(), 302, "Found", HTTPMessage(), end)

    with pytest.raises(OSError, match="without encryption"):
        leads("https://example.org/a", "http://example.org/b")
    for start in ("http", "https"):
        followed = leads(f"{start}://example.org/a", "https://example.org/b")
        assert followed is not None
        assert followed.full_url == "https://example.org/b"


def test_every_address_of_a_host_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr("socket.create_connection", lambda *_: pytest.fail("connected"))
    with pytest.raises(OSError, match="example.org is 127.0.0.1, which is not on the public internet"):
        _connect(("example.org", 80), 1.0)
