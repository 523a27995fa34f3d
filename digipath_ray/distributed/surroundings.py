"""What Ray would meet here, looked at before Ray is: it may wait for minutes.

``digipath doctor`` prints these findings; a run ends at the first that is a failure.
"""

import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Verdict = Literal["ok", "warn", "fail"]
Finding = tuple[Verdict, str, str]
"""Verdict, what was looked at, what was found and how to mend it."""

SHARED_MEMORY = Path("/dev/shm")
STORE_SHARE = 0.3
"""Share of the free memory that Ray gives its object store, ..."""
STORE_MOST = 10**10
"""... and where it stops if /dev/shm is no larger (ray/_private/utils.py)."""
ANSWER_S = 5.0
"""Seconds in which a head takes a connection, and again in which it greets."""
SOCKET_BYTES = 107
"""How long the path of a Unix socket may be on Linux (103 on macOS)."""
SESSION = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray puts below its folder, with the longest process id."""
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""HTTP/2's first words and an empty SETTINGS frame, which gRPC answers with its own."""
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Cluster:
    """An address at which Ray would join a cluster, and what names it."""

    address: str
    named_by: str
    fix: str


def ray_folder(environment: Mapping[str, str]) -> Path:
    """Where Ray keeps its sockets and logs, and spills objects."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in environment:
            return Path(environment[name]) / "ray"
    return Path("/tmp/ray")


def find_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that Ray would join; None if it would start on this machine.

    Raises:
        OSError: the file that names it cannot be read.
    """
    address = environment.get("RAY_ADDRESS", "")
    if address == "local":
        return None
    if address not in ("", "auto"):
        fix = "start it, or unset RAY_ADDRESS to run on this machine alone"
        return Cluster(address, f"RAY_ADDRESS={address}", fix)
    file = ray_folder(environment) / "ray_current_cluster"
    if not file.exists():
        return None
    address = file.read_text(encoding="utf-8", errors="replace").strip()
    fix = (
        f"it is left of a cluster that has ended: delete {file}, or set "
        "RAY_ADDRESS=local to run on this machine alone"
    )
    return Cluster(address, f"{file}, which names {address or 'nothing'}", fix)


def look_around(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Findings about Ray's surroundings, within seconds and without Ray.

    Args:
        environment: variables; None takes those of this process.
    """
    environment = os.environ if environment is None else environment
    folder = ray_folder(environment)
    try:
        cluster = find_cluster(environment)
    except OSError as e:
        fix = "set RAY_ADDRESS=local, or RAY_TMPDIR to a folder of your own"
        yield "fail", "ray address", f"{e.filename}: {e.strerror}; {fix}"
        return
    yield check_address(cluster, environment)
    if cluster is None:
        yield check_folder(folder, environment)
        yield check_shared_memory(folder)
    yield check_uv(cluster)
    yield check_proxy(cluster, environment)


def check_address(cluster: Cluster | None, environment: Mapping[str, str]) -> Finding:
    """Whether a Ray head answers where Ray would look for one."""
    what = "ray address"
    if cluster is None:
        if environment.get("RAY_ADDRESS") == "auto" and not _head_runs_here():
            text = "RAY_ADDRESS=auto, but no Ray head runs on this machine: ray start "
            return "fail", what, f"{text}--head, or unset RAY_ADDRESS"
        return "ok", what, "none: Ray starts on this machine"
    if (wrong := _wrong_form(cluster)) or (wrong := _stranger(cluster, environment)):
        return "fail", what, wrong
    host, port = _parse(cluster.address)
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except OSError as e:
        return "fail", what, f"no Ray head answers at {_named(cluster, e)}"
    if environment.get("RAY_USE_TLS", "0") in ("", "0"):
        reply = _greet(host, port)
        if reply[3:4] != b"\4":
            heard = f"it says {reply[:16]!r}" if reply else "it says nothing"
            return (
                "fail",
                what,
                f"what answers is no Ray head: {_named(cluster, heard)}",
            )
    return "ok", what, f"a head answers at {cluster.named_by}"


def _named(cluster: Cluster, reason: object) -> str:
    return f"{cluster.named_by} ({reason}): {cluster.fix}"


def _wrong_form(cluster: Cluster) -> str:
    """What is wrong with how an address is written; empty if it is host:port."""
    address, named = cluster.address, cluster.named_by
    scheme, separator, rest = address.partition("://")
    if separator and scheme in ("http", "https"):
        return (
            f"{named} is Ray's job server: it takes jobs ('ray job submit --address "
            f"{address} -- digipath run ...'), and a run joins the head itself: unset "
            "RAY_ADDRESS, or give HOST:PORT of the head (its default port is 6379)"
        )
    if separator:
        return (
            f"{named}: a run joins the head itself, not through {scheme}://; give "
            f"HOST:PORT of the head, such as {rest.partition(':')[0]}:6379, from a "
            "machine of the cluster, or use 'ray job submit'"
        )
    found = ADDRESS.fullmatch(address)
    if found and 0 < int(found["port"]) < 65536:
        return ""
    return (
        f"{named}: no address of the form HOST:PORT (as 10.0.0.1:6379); {cluster.fix}"
    )


def _stranger(cluster: Cluster, environment: Mapping[str, str]) -> str:
    """Whether another user's file names the cluster; empty if it is ours or root's."""
    if environment.get("RAY_ADDRESS", "") not in ("", "auto"):
        return ""
    owner = (ray_folder(environment) / "ray_current_cluster").stat().st_uid
    if owner in (0, os.getuid()):
        return ""
    return (
        f"{cluster.named_by}, is of another user (uid {owner}): set RAY_ADDRESS="
        f"{cluster.address} to join that cluster, or RAY_ADDRESS=local and RAY_TMPDIR "
        "to a folder of your own"
    )


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _greet(host: str, port: int) -> bytes:
    """The first bytes that a server says to a client of gRPC."""
    reply = b""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S) as server:
            server.sendall(GREETING)
            while len(reply) < 9 and (more := server.recv(16)):
                reply += more
    except OSError:
        pass
    return reply


def _head_runs_here() -> bool:
    return any("gcs_server" in (p.info["name"] or "") for p in _processes())


def _processes() -> Iterator[psutil.Process]:
    yield from psutil.process_iter(["name"])


def check_folder(folder: Path, environment: Mapping[str, str]) -> Finding:
    """Whether Ray can make its folder, and sockets in it."""
    what = "ray folder"
    fix = "set RAY_TMPDIR to a short folder of your own, as /tmp/$USER"
    if not folder.is_absolute():
        return "fail", what, f"{folder} is no absolute path: {fix}"
    length = len(os.fsencode(folder / SESSION))
    if length > SOCKET_BYTES:
        over = length - SOCKET_BYTES
        return "fail", what, f"{folder} is {over} bytes too long for a socket: {fix}"
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        return "fail", what, f"{there} is no folder: {fix}"
    if not os.access(there, os.W_OK | os.X_OK):
        owner = there.stat().st_uid
        return "fail", what, f"{there} is of uid {owner}, not writable for you: {fix}"
    if shutil.disk_usage(there).free < 1 << 26:
        return "fail", what, f"the disk of {there} is full: free space, or {fix}"
    return "ok", what, str(folder)


def check_shared_memory(folder: Path, shared: Path | None = None) -> Finding:
    """Whether Ray's object store has memory to lie in."""
    shared = shared or SHARED_MEMORY
    if has_shared_memory(shared):
        return "ok", "shared memory", f"{shared} is there"
    return (
        "warn",
        "shared memory",
        f"no {shared} that can be written: Ray keeps objects in slower files in "
        f"{folder}; mount a tmpfs there, or start the container with --shm-size",
    )


def has_shared_memory(shared: Path | None = None) -> bool:
    """Whether there is a folder in memory; Ray ends without one on Linux."""
    shared = shared or SHARED_MEMORY
    return shared.is_dir() and os.access(shared, os.W_OK | os.X_OK)


def check_uv(cluster: Cluster | None) -> Finding:
    """Whether ``uv run`` would make Ray send this folder to all nodes."""
    if cluster is None or not _under_uv_run():
        return "ok", "uv", "nothing is uploaded"
    if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1") in ("0", "false"):
        return "ok", "uv", "nothing is uploaded (RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    return (
        "warn",
        "uv",
        f"under 'uv run' Ray sends {Path.cwd()} to every node, at most 512 MiB: start "
        "where no slides are, or set RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 if the nodes have "
        "digipath_ray installed",
    )


def _under_uv_run() -> bool:
    """Whether a parent of this process is ``uv run``."""
    try:
        for parent in psutil.Process().parents():
            words = parent.cmdline()
            if words[1:2] == ["run"] and Path(words[0]).name in ("uv", "uv.exe"):
                return True
    except psutil.Error:
        pass
    return False


def check_proxy(cluster: Cluster | None, environment: Mapping[str, str]) -> Finding:
    """Whether a proxy would come between this machine and the cluster."""
    proxies = [name for name in PROXIES if environment.get(name)]
    wants = environment.get("RAY_grpc_enable_http_proxy", "0") not in ("", "0", "false")
    if proxies and wants:
        text = f"RAY_grpc_enable_http_proxy sends Ray through {proxies[0]}"
        return "warn", "proxy", f"{text}: unset it unless the proxy knows the cluster"
    if proxies and cluster is not None and not _is_direct(cluster, environment):
        host = _parse(cluster.address)[0] if not _wrong_form(cluster) else "HOST"
        text = f"Ray itself goes past {proxies[0]}, 'ray job submit' does not"
        return "warn", "proxy", f"{text}: export no_proxy=$no_proxy,{host}"
    return "ok", "proxy", f"Ray goes past {proxies[0]}" if proxies else "none"


def _is_direct(cluster: Cluster, environment: Mapping[str, str]) -> bool:
    """Whether no_proxy names the cluster's host."""
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    host = cluster.address.rpartition(":")[0].rpartition("//")[2].strip("[]")
    return host in [name.strip() for name in named.split(",")] or named.strip() == "*"
