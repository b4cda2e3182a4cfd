"""Manifests: the only files that rules exchange, written last and equal for equal content.

    {stage, version, config, inputs: {manifest: sha256}, outputs: {file: sha256}, read, kept, dropped: {reason: n}, regions}

A manifest of captions also has `uncaptioned: {reason: n}` if some regions have no caption.

Paths of inputs are relative to the working directory, names of outputs to the folder of the manifest. Nothing in a manifest varies
between runs. A copy with a hidden name is written beside it, because Snakemake deletes declared outputs before a
job; from the copy a verb determines whether its output is up to date.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fineclip.errors import ShardError
from fineclip.identity import canonical, identity
from fineclip.shards.atomic import remove_stale_temp_files, sha256_of, write_text

log = logging.getLogger(__name__)

BEGINNING = b'{\n "config":'  # first bytes of every manifest, because keys are sorted


@dataclass(frozen=True)
class Manifest:
    """Stage, key, outputs and counts of one job. `read == kept + sum(dropped.values())`."""

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    read: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    regions: int = 0
    uncaptioned: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Return the JSON; equal manifests give equal text."""
        values = asdict(self)
        if not self.uncaptioned:
            del values["uncaptioned"]
        return json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a file.

    Args:
        path: JSON file of a manifest.

    Returns:
        The manifest; its outputs are not checked.

    Raises:
        ShardError: The file is absent or not a manifest.
    """
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ShardError(f"{path}: no such manifest. Make it with the stage before, or run snakemake.") from None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{path}: is not a manifest ({error}). Delete it and run again.") from None


def verified_output(manifest: Path, name: str) -> Path:
    """Return the path of an output of a manifest, after a check of its hash.

    Args:
        manifest: Path of the manifest; the output is in the same folder.
        name: File name of the output.

    Returns:
        Path of a file that is the one of the job.

    Raises:
        ShardError: The file is absent, or is not the one that the manifest names.
    """
    path, expected = manifest.with_name(name), read_manifest(manifest).outputs.get(name)
    if not path.is_file():
        raise ShardError(f"{path}: is missing. Delete {manifest} and run again.")
    if sha256_of(path) != expected:
        raise ShardError(f"{path}: is not the one that {manifest.name} names. Delete {manifest} and run again.")
    return path


def input_manifest(manifest_path: Path, stage: str) -> Path:
    """Return the manifest of `stage` among the inputs of a manifest.

    Args:
        manifest_path: Manifest of a later stage.
        stage: Name of the stage whose manifest is wanted.

    Returns:
        Path relative to the working directory.

    Raises:
        ShardError: No input is a manifest of `stage`.
    """
    manifest = read_manifest(manifest_path)
    for path in map(Path, manifest.inputs):
        if path.suffix == ".json" and path.is_file() and _looks_like_one(path) and read_manifest(path).stage == stage:
            return path
    raise ShardError(f"{manifest_path}: names no manifest of {stage} among its inputs, {', '.join(manifest.inputs)}")


def _looks_like_one(path: Path) -> bool:
    """Return whether the file begins as a manifest does; an input may also be a large JSON of another kind."""
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


@dataclass(frozen=True)
class Job:
    """A job that ends in a manifest.

    Attributes:
        manifest: Path of the manifest; outputs are in its folder or below.
        stage: Name of the stage.
        version: Version of the stage.
        config: Section of the configuration; only values that differ from defaults are recorded.
        inputs: Manifests, which are hashed here, or hashes by name for other inputs.
    """

    manifest: Path
    stage: str
    version: int
    config: BaseModel | Mapping[str, Any]
    inputs: Sequence[Path] | Mapping[str, str]

    def is_up_to_date(self) -> bool:
        """Return whether the outputs on disk are those of this job; if so, restore the manifest.

        This holds if the copy of the manifest has the same key and every output has its recorded hash. After `invalidate` it
        does not hold.
        """
        remove_stale_temp_files(self.manifest.parent, self.manifest.stem)
        try:
            found = read_manifest(cached_manifest(self.manifest))
        except ShardError:
            return False
        key = self.key
        if canonical(key) != canonical({name: getattr(found, name) for name in key}):
            return False
        for name, digest in found.outputs.items():
            path = self.manifest.parent / name
            if not path.is_file() or sha256_of(path) != digest:
                log.warning("%s differs from its manifest: running %s again", path, self.stage)
                return False
        write_text(self.manifest, found.text())
        log.info("%s is up to date: nothing to do", self.manifest)
        return True

    def finish(
        self,
        outputs: Sequence[Path],
        *,
        read: int = 0,
        kept: int = 0,
        dropped: Mapping[str, int] | None = None,
        regions: int = 0,
        uncaptioned: Mapping[str, int] | None = None,
    ) -> Manifest:
        """Write the copy of the manifest, then the manifest. The outputs must be complete under their final names.

        Args:
            outputs: Files in the folder of the manifest or below; they are hashed.
            read: Number of input rows.
            kept: Number of kept rows.
            dropped: Dropped rows by reason; counts of 0 are omitted.
            regions: Regions of the kept rows.
            uncaptioned: Regions without a caption by reason; counts of 0 are omitted.

        Returns:
            The manifest that was written.

        Raises:
            AssertionError: `read` is not `kept` plus the dropped rows.
        """
        hashes = {path.relative_to(self.manifest.parent).as_posix(): sha256_of(path) for path in outputs}
        dropped, uncaptioned = _counted(dropped), _counted(uncaptioned)
        if read != kept + sum(dropped.values()):
            raise AssertionError(f"{self.manifest}: {read} read are not {kept} kept and {dropped} dropped")
        made = Manifest(
            **self.key, outputs=hashes, read=read, kept=kept, dropped=dropped, regions=regions, uncaptioned=uncaptioned
        )
        write_text(cached_manifest(self.manifest), made.text())
        write_text(self.manifest, made.text())
        log.info("%s: %d read, %d kept%s", self.manifest, read, kept, "".join(f", {n} {r}" for r, n in dropped.items()))
        return made

    @property
    def key(self) -> dict[str, Any]:
        """Fields of the manifest that identify the job, from the current hashes of its inputs."""
        config = identity(self.config) if isinstance(self.config, BaseModel) else self.config
        inputs = dict(self.inputs) if isinstance(self.inputs, Mapping) else hashes_of(self.inputs)
        return {"stage": self.stage, "version": self.version, "config": config, "inputs": inputs}


def _counted(reasons: Mapping[str, int] | None) -> dict[str, int]:
    """Return the counts that are not 0, sorted by reason."""
    return {reason: count for reason, count in sorted((reasons or {}).items()) if count}


def hashes_of(manifests: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its path.

    Args:
        manifests: Files, relative to the working directory.

    Returns:
        SHA-256 in hexadecimal by path with `/` between folders.

    Raises:
        ShardError: A file does not exist.
    """
    for path in manifests:
        if not path.is_file():
            raise ShardError(f"{path}: no such manifest. Make it with the stage before, or run snakemake.")
    return {path.as_posix(): sha256_of(path) for path in manifests}


def invalidate(manifest: Path) -> None:
    """Delete the copy of a manifest, so that the next job for it runs."""
    cached_manifest(manifest).unlink(missing_ok=True)


def cached_manifest(manifest: Path) -> Path:
    """Return the path of the hidden copy of a manifest."""
    return manifest.with_name(f".{manifest.name}")
