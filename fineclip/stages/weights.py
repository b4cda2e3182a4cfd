"""Stage `weights`: fetch the weights of a model once, on a machine with a network. All other jobs run offline.

Weights are searched at `path`, in the package, and where an earlier job put them; only then they are fetched.

    data/weights/<kind>/<name>.json        manifest: path and hash of the weights
    data/weights/<kind>/<name>/            fetched files
    data/weights/<kind>/.<name>.sha256     hash of the first fetch, which later fetches must equal; not an output of the rule

The hash of a folder is the SHA-256 of its sorted lines `sha256  relative/name`, without hidden files.
"""

import hashlib
import json
import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fineclip.config import EncoderConfig, WeightsConfig
from fineclip.errors import CheckpointError, ConfigError
from fineclip.models.shipped import PREFIX, shipped
from fineclip.shards import Manifest, read_manifest, sha256_of, write_text
from fineclip.shards.atomic import remove_stale_temp_files
from fineclip.stages.declaration import Stage, catalog_entry, stage
from fineclip.stages.download import NotFetchedError, from_address, from_hub

log = logging.getLogger(__name__)

SPARE = 1.2  # limit of a download, relative to `size_mb`
MOST_BYTES = 20_000_000_000  # limit without `size_mb`


WEIGHTS = Stage(
    name="weights",
    version=1,
    help="fetch the weights of one model and record their hash",
    config=WeightsConfig,
    section="{kind}.{name}.weights",
    options=catalog_entry("detect", "caption", "encoders", "tokenizers"),
)


@stage(WEIGHTS)
def fetch_weights(kind: str, name: str, manifest: Path, config: WeightsConfig) -> None:
    """Find or fetch the weights of one catalog entry, check their hash and write the manifest.

    Args:
        kind: `detect`, `caption`, `encoders` or `tokenizers`.
        name: Name of the entry.
        manifest: `data/weights/<kind>/<name>.json`.
        config: Origin of the weights.

    Raises:
        CheckpointError: The weights cannot be found or fetched; the message states how to fetch them manually. Or their
            hash differs from that of the configuration or of the first fetch.
    """
    path = locate(config, manifest)
    if path is None:
        path = _place(config, manifest)
        log.info("%s.%s: fetching %s", kind, name, _origin_in_words(config))
        try:
            _fetch(config, path)
        except NotFetchedError as error:
            raise CheckpointError(_by_hand(kind, name, config, reason=str(error))) from None
    digest, record = hash_of(path), _record_at(manifest)
    expected = config.sha256 or _recorded(manifest, config).get("sha256")
    if expected not in (None, digest):
        said, change = f"{expected} was recorded at the first fetch ({record})", f"delete {record}"
        if config.sha256 is not None:
            said, change = f"the configuration says {expected}", "correct the configuration"
        raise CheckpointError(
            f"{path}: has sha256 {digest}, but {said}. Provide the right file, or delete this one to fetch it again;"
            f" if it is the intended file, {change}."
        )
    if config.shipped is None:
        values = {"origin": _origin(config), "sha256": digest, "stamps": _stamps(path)}
        write_text(record, json.dumps(values, sort_keys=True, indent=1) + "\n")
    is_shipped = config.shipped is not None and path == shipped(config.shipped)
    written = f"{PREFIX}{config.shipped}" if is_shipped else path.as_posix()
    write_text(manifest, Manifest(WEIGHTS.name, WEIGHTS.version, _origin(config), {}, {written: digest}).text())
    log.info("%s.%s: %s, sha256 %s", kind, name, written, digest)


def locate(config: WeightsConfig, manifest: Path) -> Path | None:
    """Return the path of weights that are present, or None.

    Args:
        config: Origin of the weights.
        manifest: Path of the manifest of the job; fetched weights are stored beside it.

    Returns:
        File or folder; None if the weights must be fetched.

    Raises:
        ConfigError: The package has no model of that name.
    """
    if config.path is not None and Path(config.path).exists():
        return Path(config.path)
    if config.shipped is not None:
        return shipped(config.shipped)
    place = _place(config, manifest)
    return place if (config.hub or config.url) and place.exists() and _recorded(manifest, config) else None


def weights_at(manifest: Path, config: WeightsConfig) -> Path:
    """Return the file or folder of a manifest of weights, after a check of its hash.

    Args:
        manifest: Manifest of `weights`.
        config: Origin of the weights; its `sha256` is compared if set.

    Returns:
        Path of existing weights.

    Raises:
        CheckpointError: It is absent, or its hash differs from that of the manifest or of the configuration.
        ShardError: The manifest does not exist.
    """
    found = read_manifest(manifest)
    if found.stage != "weights" or len(found.outputs) != 1:
        raise CheckpointError(f"{manifest}: is not a manifest of weights")
    [(written, digest)] = found.outputs.items()
    path = shipped(written.removeprefix(PREFIX)) if written.startswith(PREFIX) else Path(written)
    again = f"Delete {manifest} and run `fineclip weights` again"
    if not path.exists():
        raise CheckpointError(f"{path}: these weights do not exist. {again}.")
    if config.sha256 not in (None, digest):
        raise CheckpointError(
            f"{path}: the configuration wants sha256 {config.sha256}, {manifest} has {digest}. {again}."
        )
    record = _recorded(manifest, config)
    is_unchanged = (record.get("sha256"), record.get("stamps")) == (digest, _stamps(path))
    if not is_unchanged and (now := hash_of(path)) != digest:
        raise CheckpointError(
            f"{path}: has sha256 {now}, but {manifest} has {digest}. Restore the old file, or: {again}."
        )
    return path


def vocabulary_at(tokenizer: Path | None, config: EncoderConfig) -> Path | None:
    """Return the vocabulary file of an encoder with its own vocabulary, or None for the default one.

    Args:
        tokenizer: Manifest of `weights` of the vocabulary, or None.
        config: Encoder; its key `tokenizer` is set if and only if `tokenizer` is.

    Returns:
        File of the vocabulary, or None.

    Raises:
        ConfigError: Only one of `tokenizer` and the configuration key is set.
        CheckpointError: The file is absent, or its hash differs.
    """
    if (tokenizer is None) != (config.tokenizer is None):
        raise ConfigError(
            "the encoder's key `tokenizer` and the option --tokenizer require each other: give both, or neither"
        )
    return None if tokenizer is None or config.tokenizer is None else weights_at(tokenizer, config.tokenizer)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the lines of a folder as the module describes.

    Args:
        path: Existing file or folder; hidden files of a folder are ignored.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        CheckpointError: The folder has no files.
    """
    if path.is_file():
        return sha256_of(path)
    lines = [f"{sha256_of(file)}  {name}\n" for name, file in sorted(_files(path).items())]
    if not lines:
        raise CheckpointError(f"{path}: an empty folder; expected the files of a model")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _record_at(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.stem}.sha256")


def _recorded(manifest: Path, config: WeightsConfig) -> Mapping[str, Any]:
    """Return `sha256` of the first fetch, and `stamps` with sizes and times; nothing if there was none from this origin."""
    path = _record_at(manifest)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise CheckpointError(f"{path}: is damaged. Delete it; the next job records the hash again.") from None
    return record if isinstance(record, dict) and record.get("origin") == _origin(config) else {}


def _stamps(path: Path) -> dict[str, list[int]]:
    files = {path.name: path} if path.is_file() else _files(path)
    return {name: [file.stat().st_size, file.stat().st_mtime_ns] for name, file in sorted(files.items())}


def _files(folder: Path) -> dict[str, Path]:
    """Return every file of a folder that is not hidden, by its relative path."""
    found = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    return {name.as_posix(): file for name, file in found.items() if not any(part[0] == "." for part in name.parts)}


def _fetch(config: WeightsConfig, place: Path) -> None:
    remove_stale_temp_files(place.parent, place.name)
    if config.hub is not None:
        from_hub(config.hub, str(config.revision), place, file=config.hub_file)
    elif config.url is not None:
        most = int(config.size_mb * 1e6 * SPARE) if config.size_mb else MOST_BYTES
        from_address(config.url, place, most_bytes=most)
    else:
        raise NotFetchedError(f"there is nothing at {config.path}")


def _place(config: WeightsConfig, manifest: Path) -> Path:
    """Return the path that a fetch writes to: a folder named after the model, or a file in it."""
    folder = manifest.with_suffix("")
    if config.hub_file is not None:
        return folder / PurePosixPath(config.hub_file).name
    if config.url is not None:
        return folder / (PurePosixPath(unquote(urlsplit(config.url).path)).name or "weights")
    return folder


def _origin(config: WeightsConfig) -> dict[str, str]:
    """Return the keys that identify the origin of the weights."""
    keys = ("shipped", "hub", "hub_file", "revision", "url")
    origin = {name: str(value) for name in keys if (value := getattr(config, name)) is not None}
    return origin or {"path": str(config.path)}


def _origin_in_words(config: WeightsConfig) -> str:
    if config.hub is not None:
        file = config.hub_file or "the whole repository"
        return f"{file} of https://huggingface.co/{config.hub} at revision {config.revision}"
    return config.url or f"you: the configuration names no place to fetch from, only the path {config.path}"


def _by_hand(kind: str, name: str, config: WeightsConfig, *, reason: str) -> str:
    key = f"{kind}.{name}.weights" if kind != "tokenizers" else f"encoders.{name}.tokenizer"
    size = f"{config.size_mb:g} MB" if config.size_mb else "not stated in the configuration"
    place = config.path or f"anywhere, and set {key}.path to that path"
    digest = config.sha256 or "not stated; the hash of the first download is recorded"
    lines = f"""\
        {key}: these weights do not exist and could not be fetched: {reason.rstrip(".")}.
          from     {_origin_in_words(config)}
          size     {size}
          license  {config.license or "not stated in the configuration"}
          sha256   {digest}
          put it   {place}
        Run `fineclip weights` on a machine that has a network, or fetch them manually and put them there."""
    return textwrap.dedent(lines)
