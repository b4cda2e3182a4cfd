"""Compare the results of two commits: run the miniature of each in a fresh clone and compare what it made.

    make identity BASE=<commit>
    python -m tests.identity BASE --head HEAD --folder FOLDER

Compared are every packed sample (name and content of each of its tar members), every `model.safetensors` and the
`scores` of every score file. The last line is `N of N identical`; the exit status is 1 if an item differs or is
absent on one side. Both commits run in the environment of this interpreter, from their own sources, so every pin of
the base must also be a pin of the head.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = ("sample", "weights", "scores")
Items = dict[tuple[str, str], str]  # (kind, name) -> digest


def items_of(folder: Path) -> Items:
    """Return the digest of every compared item.

    Args:
        folder: the root of a checkout whose workflow has run.

    Returns:
        Digests by kind (one of `KINDS`) and name; names are paths relative to `folder`, for samples with their key.
    """
    items: Items = {}
    for tar in sorted(folder.glob("data/*/pack/**/*.tar")):
        for key, digest in samples_of(tar).items():
            items["sample", f"{tar.relative_to(folder)} {key}"] = digest
    for results in ("data", "results"):
        for weights in sorted((folder / results).rglob("model.safetensors")):
            with weights.open("rb") as file:
                name = str(weights.relative_to(folder))
                items["weights", name] = hashlib.file_digest(file, "sha256").hexdigest()
    for scores in sorted(folder.glob("results/*/*/evals/[!.]*.json")):  # without hidden copies
        found = json.loads(scores.read_text(encoding="utf-8"))["scores"]
        items["scores", str(scores.relative_to(folder))] = json.dumps(found, sort_keys=True)
    return items


def samples_of(tar: Path) -> dict[str, str]:
    """Return a digest of each sample of a WebDataset tar, over the names and contents of its members."""
    hashes: defaultdict[str, hashlib._Hash] = defaultdict(hashlib.sha256)
    with tarfile.open(tar) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None, f"{tar}: {member.name} is not a file"
            key = member.name.partition(".")[0]
            hashes[key].update(f"{member.name}\0{member.size}\0".encode() + content.read())
    return {key: value.hexdigest() for key, value in hashes.items()}


def differences(base: Items, head: Items) -> list[str]:
    """Return one line for each item that is not the same on both sides, and for each kind without any item."""
    lines = []
    for kind, name in sorted(base.keys() | head.keys()):
        item = (kind, name)
        if item not in head:
            lines.append(f"{kind} only in base: {name}")
        elif item not in base:
            lines.append(f"{kind} only in head: {name}")
        elif base[item] != head[item]:
            lines.append(f"{kind} differs: {name}")
    present = {kind for kind, _ in base.keys() | head.keys()}
    return lines + [f"{kind}: none on either side" for kind in KINDS if kind not in present]


def compare(base: Path, head: Path) -> int:
    """Print what differs between two checkouts whose workflow has run, and the count of identical items.

    Args:
        base: the root of the first checkout.
        head: the root of the second checkout.

    Returns:
        The exit status: 0 if all items are identical, else 1.
    """
    ours, theirs = items_of(head), items_of(base)
    lines = differences(theirs, ours)
    names = theirs.keys() | ours.keys()
    same = sum(theirs.get(name) == ours.get(name) for name in names)
    for line in lines:
        print(line)
    counts = ", ".join(f"{sum(kind == found for found, _ in names)} {kind}" for kind in KINDS)
    print(f"{same} of {len(names)} identical ({counts})")
    return int(bool(lines))


def run_miniature(commit: str, folder: Path) -> Path:
    """Clone this repository at a commit and run its workflow on two cores, with this interpreter's environment.

    Args:
        commit: any name that git resolves.
        folder: the parent of the clone. A clone of the same commit that ran to its end is used as it is.

    Returns:
        The root of the clone.
    """
    sha = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    clone = folder / sha
    done = clone / "logs" / "identity.done"
    if done.is_file():
        return clone
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(clone))
    git("-C", str(clone), "checkout", "--quiet", "--detach", sha)
    require_pins(clone / "requirements.lock")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(clone), "PATH": path}
    print(f"{commit} ({sha[:10]}): snakemake --cores 2 in {clone}", flush=True)
    done.parent.mkdir(exist_ok=True)
    log = done.with_suffix(".log")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "snakemake", "--cores", "2"]
        ended = subprocess.run(command, cwd=clone, env=environment, stdout=output, stderr=output, check=False)
    if ended.returncode:
        sys.exit(f"{commit}: snakemake ended with {ended.returncode}, see {log}")
    done.touch()
    return clone


def require_pins(lock: Path) -> None:
    """Exit if the lock of a clone names a version that the lock of this checkout does not."""
    ours = set((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    other = [pin for pin in lock.read_text(encoding="utf-8").splitlines() if pin not in ours]
    if other:
        sys.exit(f"{lock}: {', '.join(other)} is not pinned here, so one environment cannot run both commits")


def git(*arguments: str) -> str:
    """Return what a git command prints; exit with its message if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> int:
    """Run both commits and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--head", default="HEAD", help="the commit that is compared (default: HEAD)")
    parser.add_argument("--folder", type=Path, help="the parent of the clones (default: a new temporary folder)")
    arguments = parser.parse_args()
    if arguments.head == "HEAD" and git("status", "--porcelain", "--untracked-files=no"):
        print("note: changes that are not committed are not compared")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fineclip-identity-"))
    folder.mkdir(parents=True, exist_ok=True)
    base, head = (run_miniature(commit, folder.resolve()) for commit in (arguments.base, arguments.head))
    return compare(base, head)


if __name__ == "__main__":
    sys.exit(main())
