"""Manifests: the small files that alone join the rules, written last and the same for the same content.

    {stage, version, config, inputs: {manifest: sha256}, outputs: {file: sha256}, read, kept, dropped: {reason: n}, regions}

A manifest of captions says too, where there are such regions, `uncaptioned: {reason: n}`: how many of its regions have no
caption.

Paths of inputs are as they were given, from the working directory; names of outputs are beside the manifest. Nothing in
it varies from one making to the next. A copy under a hidden name lies beside the data, because Snakemake deletes
declared outputs before a job: by it a verb knows that its work is done already.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fineclip.config import canonical, identity
from fineclip.errors import ShardError
from fineclip.shards.atomic import remove_stale_temp_files, sha256_of, write_text

log = logging.getLogger(__name__)

BEGINNING = b'{\n "config":'  # of every manifest: keys are sorted


@dataclass(frozen=True)
class Manifest:
    """What one job made of what. `read == kept + sum(dropped.values())`."""

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
        """JSON, one spelling for one content."""
        values = asdict(self)
        if not self.uncaptioned:
            del values["uncaptioned"]
        return json.dumps(values, sort_keys=True, ensure_ascii=False, indent=1) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        ShardError: it is absent or not a manifest.
    """
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ShardError(f"{path}: no such manifest. Make it with the stage before, or run snakemake.") from None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{path}: is no manifest ({error}). Delete it and run again.") from None


def input_manifest(manifest_path: Path, stage: str) -> Path:
    """The manifest of `stage` among the inputs of a manifest: how a job finds the tables further up.

    Raises:
        ShardError: there is none.
    """
    manifest = read_manifest(manifest_path)
    for path in map(Path, manifest.inputs):
        if path.suffix == ".json" and path.is_file() and _looks_like_one(path) and read_manifest(path).stage == stage:
            return path
    raise ShardError(f"{manifest_path}: names no manifest of {stage} among its inputs, {', '.join(manifest.inputs)}")


def _looks_like_one(path: Path) -> bool:
    """By its first bytes: an input may also be a JSON of somebody else's, and a very large one."""
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


@dataclass(frozen=True)
class Job:
    """One piece of work that ends in a manifest.

    `inputs` are manifests (hashed here), or a map of names to hashes for what is no manifest.
    """

    manifest: Path
    stage: str
    version: int
    config: BaseModel | Mapping[str, Any]
    inputs: Sequence[Path] | Mapping[str, str]

    def is_done(self) -> bool:
        """Whether the data that lies there is what this job would make; its manifest is put back then.

        It is if the copy of the manifest says the same stage, version, configuration and inputs, and every output is
        there with its hash. `forget` makes it work all the same.
        """
        remove_stale_temp_files(self.manifest.parent, self.manifest.stem)
        copy = hidden_copy(self.manifest)
        if not copy.is_file():
            return False
        try:
            found = read_manifest(copy)
        except ShardError:
            return False
        if self._claim() != (found.stage, found.version, canonical(found.config), dict(found.inputs)):
            return False
        for name, digest in found.outputs.items():
            path = self.manifest.parent / name
            if not path.is_file() or sha256_of(path) != digest:
                log.warning("%s is not what its manifest says: %s is made again", path, self.stage)
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
        """Write the copy, then the manifest. The outputs must lie whole under their names already."""
        stage, version, _, inputs = self._claim()
        hashes = {path.relative_to(self.manifest.parent).as_posix(): sha256_of(path) for path in outputs}
        dropped, uncaptioned = _counted(dropped), _counted(uncaptioned)
        if read != kept + sum(dropped.values()):
            raise AssertionError(f"{self.manifest}: {read} read are not {kept} kept and {dropped} dropped")
        made = Manifest(stage, version, self._config(), inputs, hashes, read, kept, dropped, regions, uncaptioned)
        write_text(hidden_copy(self.manifest), made.text())
        write_text(self.manifest, made.text())
        log.info("%s: %d read, %d kept%s", self.manifest, read, kept, "".join(f", {n} {r}" for r, n in dropped.items()))
        return made

    def _config(self) -> Mapping[str, Any]:
        return identity(self.config) if isinstance(self.config, BaseModel) else self.config

    def _claim(self) -> tuple[str, int, str, dict[str, str]]:
        inputs = self.inputs if isinstance(self.inputs, Mapping) else hashes_of(self.inputs)
        return self.stage, self.version, canonical(self._config()), dict(inputs)


def _counted(reasons: Mapping[str, int] | None) -> dict[str, int]:
    """In one order, without those that nothing counts for."""
    return {reason: count for reason, count in sorted((reasons or {}).items()) if count}


def hashes_of(manifests: Sequence[Path]) -> dict[str, str]:
    """Each path with the sha256 of its bytes, as `Job.inputs` wants them.

    Raises:
        ShardError: one is absent.
    """
    for path in manifests:
        if not path.is_file():
            raise ShardError(f"{path}: no such manifest. Make it with the stage before, or run snakemake.")
    return {path.as_posix(): sha256_of(path) for path in manifests}


def forget(manifest: Path) -> None:
    """Make the next job for this manifest work even where nothing has changed."""
    hidden_copy(manifest).unlink(missing_ok=True)


def hidden_copy(manifest: Path) -> Path:
    """Where the undeclared copy of a manifest lies."""
    return manifest.with_name(f".{manifest.name}")
