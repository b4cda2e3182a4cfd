"""Training in several processes: ranks, stopping, killing and resuming."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import psutil
import pytest

from fineclip.cli.launch import SINGLE_NODE, Nodes, first_host, launch, nodes_of
from fineclip.errors import ConfigError
from fineclip.methods import METHODS
from fineclip.train.preemption import handle_stop_signals
from tests.helpers.dag import environment
from tests.helpers.packs import write_world
from tests.helpers.training import lines_of
from tests.helpers.verbs import done
from tests.versions.worlds import WEIGHTS, write_encoder

STEPS = 240
PATIENCE_S = 120
MANIFEST = Path("results/set/run/train.json")
TWO_NODES = {
    "SLURM_JOB_ID": "20123",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[003-004,7],x1", "gpu003"),
        ("gpu[3,5-7]", "gpu3"),
        ("rack2-gpu[01-02]-ib,x", "rack2-gpu01-ib"),
    ],
)
def test_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_nodes_of_a_slurm_step() -> None:
    assert nodes_of({}) == nodes_of({"SLURM_JOB_ID": "1", "SLURM_NNODES": "2"}) == SINGLE_NODE
    assert nodes_of(TWO_NODES) == Nodes(2, 1, "gpu003", 10123)
    with pytest.raises(ConfigError, match=r"4 tasks on 2 nodes.*--ntasks-per-node=1"):
        nodes_of(TWO_NODES | {"SLURM_STEP_NUM_TASKS": "4"})
    with pytest.raises(ConfigError, match="2 tasks on 1 nodes"):
        nodes_of({"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "2"})


def test_second_sigint_exits() -> None:
    assert threading.current_thread() is threading.main_thread()
    with handle_stop_signals() as requests:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert requests.received == signal.SIGTERM
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert ended.value.code == 128 + signal.SIGINT


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[str], dict[str, str | None]]]:
    """Configuration of torch's launcher, its command line and the environment of its processes; nothing is started."""
    asked: list[tuple[Any, list[str], dict[str, str | None]]] = []
    names = ("OMP_NUM_THREADS", "FINECLIP_LAUNCHER", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "TORCH_CPP_LOG_LEVEL")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch",
        lambda config, program: (
            lambda *words: asked.append((config, [program, *words], {name: os.environ.get(name) for name in names}))
        ),
    )
    return asked


@pytest.mark.parametrize(
    ("threads", "processes", "given", "each"),
    [(8, 2, "8", "4"), (9, 4, "9", "2"), (2, 4, "2", "1"), (8, 2, "3", "3"), (8, 2, None, None)],
)
def test_processes_share_the_threads_of_the_job(
    launched: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    processes: int,
    given: str | None,
    each: str | None,
) -> None:
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert launch(["train"], processes, SINGLE_NODE, threads=threads) == 0
    assert launched[0][-1]["OMP_NUM_THREADS"] == each


def test_options_of_the_launcher(launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--nproc-per-node", "7"]
    launch(words, 3, SINGLE_NODE, threads=1)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5")
    launch(words, 2, Nodes(count=4, own=1, first="gpu003", port=10123), threads=1)
    launch(words, 2, Nodes(count=4, own=0, first="gpu003", port=10123), threads=1)
    (alone, command, environment_alone), (second, same_command, environment_second), (first, _, _) = launched
    assert command == same_command == [sys.executable, "-u", "-m", "fineclip", *words]
    assert (alone.nproc_per_node, alone.min_nodes, alone.max_nodes, alone.max_restarts) == (3, 1, 1, 0)
    assert (alone.rdzv_backend, alone.rdzv_endpoint) == ("c10d", "localhost:0")
    assert (second.nproc_per_node, second.min_nodes, second.max_nodes, second.max_restarts) == (2, 4, 4, 0)
    assert (second.rdzv_backend, second.run_id, second.rdzv_endpoint) == ("c10d", "10123", "gpu003:10123")
    assert [each.rdzv_configs["is_host"] for each in (alone, first, second)] == [True, True, False]
    assert environment_alone["FINECLIP_LAUNCHER"] == str(os.getpid())
    assert environment_alone["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "300"
    assert environment_second["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "5"


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the launcher and of the training, neither of which does anything."""
    seen: dict[str, Any] = {}

    def launched(words: list[str], processes: int, nodes: Nodes, *, threads: int) -> int:
        seen["launch"] = (words, processes, nodes, threads)
        return 0

    def trained(*positional: Any, **options: Any) -> None:
        seen["train"] = (positional, options)

    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("fineclip.cli.training.launch", launched)
    monkeypatch.setattr("fineclip.train.run.train_run", trained)
    monkeypatch.setattr("fineclip.cli.training.claim", lambda count, devices: tuple(map(str, devices[:count])))
    return seen


WORDS = [
    *("--select", "select.json", "--pack", "a.json", "b.json", "--weights", "weights.json"),
    *("--manifest", "run/train.json", "--tokenizer", "bpe.json", "--concepts", "concepts.json"),
    *("--texts", "x.json", "y.json"),
]
SECTION = {
    "method": "clip",
    "method_version": METHODS["clip"].version,
    "encoder": {"model": "tiny.json", "weights": {"path": "tiny.safetensors"}},
    "options": {"train_text": True},
    "loader": {"image_backend": "pillow"},
    "train": {"seed": 3},
}


def test_verb_passes_all_options_to_the_training(
    tmp_path: Path, verb: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = '{"device": "cpu", "crop_micro_batch_size": 5}'
    done(tmp_path, "train", *WORDS, "--runtime", runtime, "--threads", "6", config=SECTION)
    (select, packed, weights, manifest, config), options = verb["train"]
    assert (select, packed) == (Path("select.json"), [Path("a.json"), Path("b.json")])
    assert (weights, manifest) == (Path("weights.json"), Path("run/train.json"))
    assert (options["tokenizer"], options["concepts"]) == (Path("bpe.json"), Path("concepts.json"))
    assert options["texts"] == [Path("x.json"), Path("y.json")]
    assert (options["runtime"].crop_micro_batch_size, options["runtime"].device, options["threads"]) == (5, "cpu", 6)
    assert (config.method, config.options.train_text, config.train.seed, config.loader.image_backend) == (
        *("clip", True, 3, "pillow"),
    )
    launched = {"WORLD_SIZE": "6", "RANK": "5", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    done(tmp_path, "train", *WORDS, "--runtime", runtime, "--threads", "6", config=SECTION)
    assert verb["train"][1]["threads"] == 3  # of those of this machine
    assert "launch" not in verb


@pytest.mark.parametrize(
    ("more", "processes"),
    [
        (["--processes", "3"], 3),
        (["--gpus", "2", "--runtime", '{"devices": [4, 5, 6]}'], 2),
        (["--gpus", "2", "--processes", "3", "--runtime", '{"devices": [4, 5, 6]}'], 3),
    ],
)
def test_verb_launches_one_process_per_gpu_or_as_configured(
    tmp_path: Path, verb: dict[str, Any], more: list[str], processes: int
) -> None:
    done(tmp_path, "train", *WORDS, *more, "--threads", "8", config=SECTION)
    words, started, nodes, threads = verb["launch"]
    assert (started, nodes, threads) == (processes, SINGLE_NODE, 8)
    assert words[:3] == ["train", "--select", "select.json"] and words[-2] == "--config"
    assert "train" not in verb


def test_training_on_the_cpu_locks_no_gpu(tmp_path: Path, verb: dict[str, Any]) -> None:
    done(tmp_path, "train", *WORDS, "--gpus", "2", "--runtime", '{"device": "cpu", "devices": [4, 5]}', config=SECTION)
    assert "launch" not in verb and "train" in verb


class Job:
    """The verb `train` in two processes, as the rule starts it."""

    def __init__(self, place: Path, folder: str, **train: Any) -> None:
        self.place, self.manifest, self.log = place, Path(folder) / MANIFEST.name, place / f"{folder}.log"
        config = {
            "method": "fineclip",
            "method_version": METHODS["fineclip"].version,
            "encoder": {
                "model": "tiny.json",
                "weights": {"path": "tiny.safetensors"},
                "image_size": 16,
                "crop_size": 8,
            },
            "options": {},
            "train": {"batch_size": 4, "epochs": STEPS, "max_steps": STEPS, "learning_rate": 1e-3, "warmup_steps": 1}
            | {"log_every_steps": 1, "checkpoint_every_steps": 10, "max_regions": 2, **train},
        }
        self.words = [
            *("--select", "data/select.json", "--pack", "data/pack/a.json", "data/pack/b.json"),
            *("--weights", str(WEIGHTS), "--manifest", str(self.manifest), "--config", json.dumps(config)),
            *("--runtime", '{"device":"cpu","tensorboard":false}', "--threads", "2", "--log", str(self.log)),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fineclip", "train", *self.words, *more]
        return subprocess.Popen(
            command, cwd=self.place, env=environment() | {"TMPDIR": str(self.place)}, stderr=subprocess.PIPE, text=True
        )

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        _, said = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said

    def steps(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    @property
    def folder(self) -> Path:
        return (self.place / self.manifest).parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    with chdir(folder):
        write_encoder()
        write_world(Path("data"), {"a": 6, "b": 3})
    return folder


def until(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "train" in child.cmdline()]


@pytest.mark.slow
def test_stopped_and_killed_processes_resume_to_the_same_files(place: Path) -> None:
    whole, torn = Job(place, "whole"), Job(place, "torn")
    code, said = whole.ended(whole.start("--processes", "2"))
    assert code == 0, said
    assert "launching processes: 2" in said and "world size 2, device cpu" in said
    assert whole.log.read_text().count("training: 9 samples") == 1

    process = torn.start("--processes", "2")
    until(lambda: torn.steps() >= 20, process)
    for each in [*workers_of(process), psutil.Process(process.pid)]:
        each.send_signal(signal.SIGTERM)  # as a scheduler does; the launcher sends it on once more
    code, said = torn.ended(process)
    assert code == 128 + signal.SIGTERM, said
    stopped = int(torn.log.read_text().split("stop requested at step ")[1].split("/")[0])
    saved = max((torn.folder / "state").glob("step-*.json"))
    assert json.loads(saved.read_text())["step"] == stopped >= 20
    assert not (place / torn.manifest).exists()

    process = torn.start("--processes", "2")
    until(lambda: torn.steps() >= stopped + 20, process)
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()  # the launcher; the kernel takes the others at once
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []
    process.communicate()

    process = torn.start("--processes", "2")
    until(lambda: torn.steps() >= stopped + 60, process)
    workers_of(process)[1].kill()
    code, said = torn.ended(process)
    assert code != 0, said
    assert torn.steps() < STEPS

    process = torn.start("--processes", "2")
    code, said = torn.ended(process)
    assert code == 0, said
    assert f"resuming after step {stopped}:" not in said and "resuming after step" in said
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (torn.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert len(lines_of(torn.folder / "metrics.jsonl")) == STEPS
    assert not (torn.folder / "state").exists()


@pytest.mark.slow
def test_one_process_per_gpu_and_exit_code_2_for_a_user_error(place: Path) -> None:
    job = Job(place, "wrong", learning_rate=1e30, max_steps=20)
    job.words[job.words.index("--runtime") + 1] = (
        '{"devices":[98,99],"tensorboard":false}'  # no machine has them: a CPU
    )
    code, said = job.ended(job.start("--gpus", "2"))
    assert code == 2, said
    assert "using GPU 98, 99" in said and "launching processes: 2" in said
    assert "no longer finite" in job.log.read_text()


@pytest.mark.slow
def test_two_nodes(place: Path) -> None:
    job = Job(place, "nodes", max_steps=6)
    host = {"SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    command = [sys.executable, "-m", "fineclip", "train", *job.words]
    launched = [
        subprocess.Popen(
            command,
            cwd=place,
            env=environment() | TWO_NODES | host | {"SLURM_NODEID": node},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in ("1", "0")
    ]
    ended = [job.ended(process) for process in launched]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "world size 2, device cpu" in job.log.read_text()
    assert len(lines_of(job.folder / "metrics.jsonl")) == 6


def test_verb_launches_one_process_on_each_of_two_nodes(
    tmp_path: Path, verb: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TWO_NODES.items():
        monkeypatch.setenv(name, value)
    done(tmp_path, "train", *WORDS, config=SECTION)
    assert verb["launch"][1:3] == (1, nodes_of(TWO_NODES))
    assert "train" not in verb
