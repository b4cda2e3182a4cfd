"""Tell what a file of weights is by its first bytes, whatever its name. torch is not imported."""

import zipfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from fineclip.errors import CheckpointError

HEAD = 4096  # bytes that are looked at
UNPACKED = 4  # torch stores its archives without compression; a file that unpacks to more is not one of them


class Container(Enum):
    """A container of named tensors that is read."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "an archive of torch"
    TORCH_PICKLE = "a pickle of torch before 1.6"


class OtherKind(NamedTuple):
    """A kind of file that is not read.

    Attributes:
        what: What it is.
        advice: What to do instead.
        start: Its first bytes.
        offset: Where they are.
        suffixes: Endings of names; they decide for formats whose first bytes say nothing.
    """

    what: str
    advice: str
    start: bytes | None = None
    offset: int = 0
    suffixes: tuple[str, ...] = ()


OF_TORCH = "Use weights of PyTorch: .safetensors, .pt or .bin."
OTHER_KINDS: Sequence[OtherKind] = (
    OtherKind(
        "a Git LFS pointer, which stands for a file that was not downloaded",
        "Run `git lfs pull` where it was cloned.",
        b"version https://git-lfs",
    ),
    OtherKind(
        "a web page, saved in place of the file",
        "Download the file itself; a page may ask to log in.",
        b"<!doctype html",
    ),
    OtherKind(
        "a web page, saved in place of the file", "Download the file itself; a page may ask to log in.", b"<html"
    ),
    OtherKind("a GGUF file of llama.cpp, quantized for inference", OF_TORCH, b"GGUF", suffixes=(".gguf",)),
    OtherKind("a GGML file of llama.cpp or whisper.cpp", OF_TORCH, b"lmgg", suffixes=(".ggml",)),
    OtherKind(
        "an HDF5 file, as Keras and TensorFlow write weights",
        OF_TORCH,
        b"\x89HDF\r\n\x1a\n",
        suffixes=(".h5", ".keras"),
    ),
    OtherKind("a TensorFlow Lite model", OF_TORCH, b"TFL3", offset=4, suffixes=(".tflite",)),
    OtherKind("an ONNX model", OF_TORCH, suffixes=(".onnx",)),
    OtherKind("a TensorFlow model", OF_TORCH, suffixes=(".pb", ".index", ".meta")),
    OtherKind("a TensorFlow checkpoint", OF_TORCH, suffixes=(".data-00000-of-00001",)),
    OtherKind("an array of NumPy", OF_TORCH, b"\x93NUMPY", suffixes=(".npy",)),
    OtherKind("a file of Flax", OF_TORCH, suffixes=(".msgpack",)),
    OtherKind("a TensorRT engine", OF_TORCH, suffixes=(".engine", ".plan")),
    OtherKind("compressed with gzip", "Decompress it first: gunzip, or tar -xzf.", b"\x1f\x8b"),
    OtherKind("compressed with bzip2", "Decompress it first: bunzip2.", b"BZh"),
    OtherKind("compressed with xz", "Decompress it first: unxz.", b"\xfd7zXZ\x00"),
    OtherKind("compressed with zstd", "Decompress it first: unzstd.", b"\x28\xb5\x2f\xfd"),
    OtherKind("a 7z archive", "Unpack it first: 7z x.", b"7z\xbc\xaf\x27\x1c"),
    OtherKind("a RAR archive", "Unpack it first: unrar x.", b"Rar!"),
)
ONNX, TENSORFLOW = (kind for kind in OTHER_KINDS if kind.what in ("an ONNX model", "a TensorFlow model"))


def container_of(path: Path) -> Container:
    """Return the container that a file is, by its content.

    Args:
        path: An existing file.

    Returns:
        The container.

    Raises:
        CheckpointError: It is empty, cannot be read, or is a file of another kind, which the message names.
    """
    try:
        size, head = path.stat().st_size, _head(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: is empty. Fetch it again.")
    other = other_kind(path)
    if other is not None:
        raise CheckpointError(f"{path}: is {other.what}, and is not read. {other.advice}")
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path, size)
        return Container.TORCH_ZIP
    if _is_safetensors(head, size) or (path.suffix == ".safetensors" and not head.startswith(b"\x80")):
        return Container.SAFETENSORS
    return Container.TORCH_PICKLE


def other_kind(path: Path) -> OtherKind | None:
    """Return the kind of a file that is not read, or None if it may be weights of PyTorch.

    Args:
        path: A file.

    Returns:
        Entry of `OTHER_KINDS`, or None if the file cannot be read.
    """
    try:
        head, size = _head(path), path.stat().st_size
    except OSError:
        return None
    if _is_safetensors(head, size) or head.startswith((b"PK", b"\x80")):
        return None  # the first bytes of safetensors are a length, which can be those of any format
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for kind in OTHER_KINDS:
        if kind.start is not None and (head[kind.offset :].startswith(kind.start) or text.startswith(kind.start)):
            return kind
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # protocol buffers: a version, then a text or a message
        return ONNX if head[1] > 2 else TENSORFLOW
    return next((kind for kind in OTHER_KINDS if path.name.lower().endswith(kind.suffixes or ("\0",))), None)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Tell whether bytes begin with the length of a JSON header that fits into the file."""
    return len(head) > 8 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= size - 8


def _check_archive(path: Path, size: int) -> None:
    """Check that a zip is one of torch's, and does not unpack to far more than it holds.

    Args:
        path: The file.
        size: Its bytes.

    Raises:
        CheckpointError: It is damaged, a program (TorchScript), arrays of NumPy, a folder of files, or compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path}: is not a checkpoint of torch, or is truncated. Fetch it again.") from None
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path}: is a TorchScript archive, a program as OpenAI publishes its models, and is not run here. Use the "
            "same weights as tensors, as open_clip publishes them on the Hugging Face hub (timm/vit_base_patch16_clip_224.openai)."
        )
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path}: holds arrays of NumPy (.npz), as programs in JAX write weights, and is not read. {OF_TORCH}"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            f"{path}: is a zip archive of {len(names)} files, not a checkpoint of torch. Unpack it first."
        )
    if sum(entry.file_size for entry in entries) > UNPACKED * size + HEAD:
        raise CheckpointError(
            f"{path}: unpacks to more than {UNPACKED} times its size. Files of torch are not compressed; it is not read."
        )
