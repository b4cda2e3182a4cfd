"""Small image files, folders and tars of them, as tests need them."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


def encoded(width: int = 16, height: int = 12, *, color: int = 0, kind: str = "JPEG") -> bytes:
    """An image of one color; another `color` gives other bytes."""
    buffer = io.BytesIO()
    rgb = (color * 37 % 256, color * 101 % 256, color * 7 % 256)
    Image.new("RGB", (width, height), rgb).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a hundred bytes whose header promises 2.5 thousand million pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A plain tar of members in the order given; names may repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def put(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files, by their names relative to a folder, and return the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
