"""Processes that are killed at seeded random moments, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from local_hosts import Hosts, tgz

__all__ = ["COMMANDS", "Kill", "run"]

_ROOT = Path(__file__).parents[2]
_SAMPLE = _ROOT / "sample" / "mobilenet_v1_0.25_64.ckpt"


@dataclass(frozen=True)
class Kill:
    """A process that was killed, or had ended before.

    Attributes:
      command: One of `COMMANDS`.
      seconds: After how long it was to be killed.
      killed: False if it had ended before.
      left: How many hidden folders it left behind, which the next run removed.
      problem: What was wrong afterwards; empty if nothing was.
    """

    command: str
    seconds: float
    killed: bool
    left: int
    problem: str


class _Command:
    """A command, what it makes, and whether that is whole.

    Attributes:
      name: In the report.
      share: How many kills it gets where others get one; more if it takes no time.
    """

    name = ""
    share = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": str(folder / "tmp"),
            "MOBILENETS_CACHE": str(folder / "cache"),
        }
        (folder / "tmp").mkdir(parents=True)

    def arguments(self) -> list[object]:
        raise NotImplementedError

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *map(str, self.arguments())],
            env=self.environment,
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def reset(self) -> None:
        """Before each kill; what is there may stay."""

    def problem(self) -> str:
        """What is there but not whole; empty if nothing is."""
        raise NotImplementedError

    def close(self) -> None:
        pass


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _hidden(folder: Path) -> list[Path]:
    """What is being written, or was: hidden folders, and those for temporary files."""
    return [path for path in folder.rglob("*.partial") if path.is_dir()]


class _Modules(_Command):
    """Whole modules are equal, byte for byte, to those of a run that nobody killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._whole: dict[str, dict[str, bytes]] = {}

    def _modules(self) -> Iterator[Path]:
        return (path for path in self.output.glob("*/*") if not path.name.startswith("."))

    @property
    def output(self) -> Path:
        return self.folder / "models"

    def reset(self) -> None:
        # Half of the kills hit a folder that has one of two modules.
        for path in list(self._modules())[: 1 + len(self._whole) % 2]:
            shutil.rmtree(path)

    def problem(self) -> str:
        for path in self._modules():
            name, found = path.relative_to(self.output).as_posix(), _files(path)
            if found != self._whole.setdefault(name, found):
                return f"{name} differs from a whole one"
        return ""


class _Checkpoint(_Modules):
    name = "convert checkpoint"

    def arguments(self) -> list[object]:
        return ["-m", "convert", "checkpoint", _SAMPLE, "--output", self.output]


class _All(_Modules):
    name = "convert all --jobs 2"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # Loads TensorFlow, which the short run does without.
        from slim_checkpoints import network
        from weight_formats import plausible

        from convert.export.bundle import write

        for size in (128, 160):
            values = plausible(network("mobilenet_v1", 0.25, 1001))
            write(folder / "checkpoints" / f"mobilenet_v1_0.25_{size}.ckpt", values)

    def arguments(self) -> list[object]:
        return [
            *("-m", "convert", "all", "--checkpoints", self.folder / "checkpoints"),
            *(
                "--output",
                self.output,
                "--jobs",
                2,
                "--offline",
                "--only",
                "mobilenet_v1_025_1[26][08]",
            ),
        ]


class _Download(_Command):
    name = "a download into the cache"
    share = 10

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._hosts = Hosts()
        self._hosts.drip = (1 << 14, 0.02)
        threading.Thread(target=self._hosts.serve_forever, args=(0.01,), daemon=True).start()
        files = {f"model.ckpt{s}": Path(f"{_SAMPLE}{s}").read_bytes() for s in _SUFFIXES}
        self._body = tgz(files)
        self._url = f"{self._hosts.url}/model.tgz"
        self._hosts.answers[self._url] = self._body
        self.environment["MOBILENETS_HOSTS"] = self._hosts.environment

    def arguments(self) -> list[object]:
        program = (
            "import sys\n"
            "from convert import light\n"
            "from mobilenets import fetching\n"
            "from mobilenets.published import Source\n"
            "fetching.fetch(Source('archive', sys.argv[1]))\n"
        )
        return ["-c", program, self._url]

    def reset(self) -> None:
        for path in (self.folder / "cache").rglob("model.tgz*"):
            path.unlink()

    def problem(self) -> str:
        for path in (self.folder / "cache").rglob("model.tgz"):
            if path.parent.name != "new" and path.read_bytes() != self._body:
                return "a file in the cache is not whole"
        return ""

    def close(self) -> None:
        self._hosts.shutdown()
        self._hosts.server_close()


_SUFFIXES = (".index", ".data-00000-of-00001")


class _Publish(_Command):
    name = "publish"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        made = _Checkpoint(folder / "made")
        with made.start() as process:
            assert process.wait() == 0
        self._models = made.output

    def arguments(self) -> list[object]:
        return ["-m", "convert", "publish", self._models, "--output", self.folder / "site"]

    def reset(self) -> None:
        shutil.rmtree(self.folder / "site", ignore_errors=True)

    def problem(self) -> str:
        """The index lists what is there, whole; archives may be there that it does not list yet."""
        site = self.folder / "site"
        index = site / "index.json"
        if not index.exists():
            return ""
        for each in json.loads(index.read_text())["modules"]:
            path = site / each["name"] / each["kind"] / f"{each['version']}.tar.gz"
            if hashlib.sha256(path.read_bytes()).hexdigest() != each["sha256"]:
                return f"{path.name} is not what the index lists"
        return ""


class _Save(_Modules):
    name = "mobilenets.save over a module"

    def arguments(self) -> list[object]:
        # One model, or the other: the module is one of the two.
        program = (
            "import sys, random\n"
            "import mobilenets\n"
            "model = mobilenets.load(sys.argv[1])\n"
            "if random.random() < 0.5:\n"
            "    model = model.with_classes(None)\n"
            "mobilenets.save(model, sys.argv[2])\n"
        )
        return ["-c", program, _SAMPLE, self.output / "mine" / "module"]

    def reset(self) -> None:
        pass

    def problem(self) -> str:
        path = self.output / "mine" / "module"
        if not path.exists():
            return "the module is gone" if self._whole else ""
        found = _files(path)
        config = json.loads(found["assets.extra/mobilenet.json"])
        if found != self._whole.setdefault(str(config["num_classes"]), found):
            return "the module is neither the old one nor the new one"
        return ""


COMMANDS: dict[str, type[_Command]] = {
    command.name: command for command in (_Checkpoint, _All, _Download, _Publish, _Save)
}


def run(
    name: str, count: int, seed: int, folder: Path, on_kill: Callable[[Kill], None]
) -> list[Kill]:
    """Kills a command at random moments of its run.

    After each kill the command runs again to its end.

    Args:
      name: One of `COMMANDS`.
      count: How many kills.
      seed: Decides the moments.
      folder: Where everything is made; absent.
      on_kill: Called with each.
    """
    chance = random.Random(f"{seed}/{name}")
    command = COMMANDS[name](folder)
    found = []
    try:
        # The first run is slower than all that follow: moments up to its end would come too late.
        for _ in range(2):
            command.reset()
            begin = time.monotonic()
            with command.start() as process:
                said = process.communicate()[1]
            if process.returncode or (problem := command.problem()):
                raise RuntimeError(f"{name}: {problem or said.decode()[-1000:]}")
            lasts = time.monotonic() - begin
        for _ in range(count):
            command.reset()
            seconds = chance.uniform(0, lasts)
            kill = _killed(command, seconds)
            found.append(kill)
            on_kill(kill)
    finally:
        command.close()
    return found


def _killed(command: _Command, seconds: float) -> Kill:
    process = command.start()
    try:
        process.communicate(timeout=seconds)
        killed = False
    except subprocess.TimeoutExpired:
        # The process alone: its workers have to notice.
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed = True
    problem = command.problem() or _survivors(process.pid)
    left = len(_hidden(command.folder))
    with command.start() as again:
        said = again.communicate()[1].decode(errors="replace")
    if not problem and again.returncode:
        problem = f"the next run failed: {said[-300:]}"
    problem = problem or command.problem()
    if not problem and (hidden := _hidden(command.folder)):
        problem = f"the next run left {', '.join(path.name for path in hidden)}"
    return Kill(command.name, seconds, killed, left, problem)


def _survivors(session: int) -> str:
    """Processes of the killed one that are still there some seconds later."""
    for _ in range(100):
        alive = [each for each in Path("/proc").glob("[0-9]*") if _session(each) == session]
        if not alive:
            return ""
        time.sleep(0.1)
    for each in alive:
        os.kill(int(each.name), signal.SIGKILL)
    return f"{len(alive)} processes went on without it"


def _session(process: Path) -> int | None:
    try:
        # After the name, which is in parentheses: state, parent, group, session.
        state, _, _, session = process.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
        return int(session) if state != "Z" else None
    except (OSError, ValueError):
        return None
