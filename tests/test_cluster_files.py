"""The files of cluster/, each judged by the validator of whoever reads it."""

import copy
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

from digipath_ray.cli import app, run_app
from tests.heads import CONFIG, free_port

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
RAYCLUSTER = CLUSTER / "kuberay" / "raycluster.yaml"
RAYJOB = CLUSTER / "kuberay" / "rayjob.yaml"
LAUNCHERS = (CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml")
SLURM = CLUSTER / "slurm.sh"
DOCKERFILE = CLUSTER / "Dockerfile"
README = CLUSTER / "README.md"
FILLED_IN = (DOCKERFILE, RAYCLUSTER, RAYJOB, *LAUNCHERS, SLURM)
GAP = re.compile(r"YOUR-[A-Z]+(?:-[A-Z]+)*")
IN_IMAGE = "/opt/digipath/"
SPOT_LABELS = {
    "cloud.google.com/gke-spot",
    "eks.amazonaws.com/capacityType",
    "karpenter.sh/capacity-type",
}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def change(tree: Any, path: str, value: Any) -> Any:
    """A copy of a tree where the key at ``a.b.0.c`` is another one's name or value."""
    changed = copy.deepcopy(tree)
    *above, last = path.split(".")
    here = changed
    for key in above:
        here = here[int(key) if key.isdigit() else key]
    if isinstance(value, str) and value.startswith("key:"):
        here[value.removeprefix("key:")] = here.pop(last)
    else:
        here[last] = value
    return changed


# KubeRay


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it names the known ones."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        closed["additionalProperties"] = False
    return closed


@functools.cache
def validator(schema: Path) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(strict(json.loads(schema.read_text())))


def check_manifest(manifest: Any, shared_data: Path) -> None:
    name = f"{manifest['kind'].lower()}.v1.schema.json"
    validator(shared_data / "kuberay" / name).validate(manifest)


def cluster_of(manifest: Any) -> Any:
    """The RayCluster's spec, also where it lies in a RayJob."""
    spec = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


@pytest.mark.parametrize("path", [RAYCLUSTER, RAYJOB], ids=lambda p: p.stem)
def test_kuberay_manifest_fits_its_schema(path: Path, shared_data: Path) -> None:
    manifest = read_yaml(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    check_manifest(manifest, shared_data)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        (RAYCLUSTER, "spec.workerGroupSpecs.0.minReplicas", "key:minReplica"),
        (RAYCLUSTER, "spec.workerGroupSpecs.1.groupName", "key:group"),
        (RAYCLUSTER, "spec.authOptions.secretName", "key:secret"),
        (RAYCLUSTER, "spec.authOptions.mode", "tokens"),
        (RAYCLUSTER, "spec.autoscalerOptions.version", 2),
        (
            RAYCLUSTER,
            "spec.workerGroupSpecs.1.template.spec.tolerations",
            "key:toleration",
        ),
        (
            RAYCLUSTER,
            "spec.headGroupSpec.template.spec.containers.0.volumeMounts.0.mountPath",
            "key:path",
        ),
        (RAYJOB, "spec.entrypoint", "key:entryPoint"),
        (RAYJOB, "spec.backoffLimit", "2"),
        (RAYJOB, "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
    ],
)
def test_kuberay_schema_refuses_a_slip(
    file: Path, path: str, value: Any, shared_data: Path
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_manifest(change(read_yaml(file), path, value), shared_data)


def test_both_manifests_ask_for_the_same_cluster() -> None:
    assert cluster_of(read_yaml(RAYJOB)) == read_yaml(RAYCLUSTER)["spec"]


def test_rays_autoscaler_reads_the_groups_as_meant() -> None:
    manifest = read_yaml(RAYCLUSTER)
    manifest["metadata"]["namespace"] = "default"
    groups = _derive_autoscaling_config_from_ray_cr(manifest)["available_node_types"]
    assert groups["headgroup"]["resources"]["CPU"] == 0
    assert "GPU" not in groups["headgroup"]["resources"]
    assert groups["gpu"]["min_workers"] == 0
    assert groups["gpu"]["resources"]["GPU"] == 1
    assert groups["readers"]["min_workers"] > 0, "a run divides what it finds"
    assert "GPU" not in groups["readers"]["resources"]


def test_kuberay_head_is_never_on_spot() -> None:
    pod = read_yaml(RAYCLUSTER)["spec"]["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in pod
    terms = pod["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert len(terms) == 1, "of several terms one would be enough"
    refused = {e["key"] for e in terms[0]["matchExpressions"]}
    assert {e["operator"] for e in terms[0]["matchExpressions"]} == {"NotIn"}
    assert refused == SPOT_LABELS


def test_kuberay_volumes_fit_the_pods() -> None:
    groups = read_yaml(RAYCLUSTER)["spec"]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        volumes = {v["name"]: v["emptyDir"] for v in pod["volumes"]}
        memory = _gib(container["resources"]["limits"]["memory"])
        # Ray puts 30 % of the memory into /dev/shm, or falls back to the disk.
        assert 0.3 * memory < _gib(volumes["shm"]["sizeLimit"]) < 0.4 * memory
        assert volumes["shm"]["medium"] == "Memory"
        mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounted["shm"] == "/dev/shm"
        if "cache" in volumes:
            env = {e["name"]: e["value"] for e in container["env"]}
            assert mounted["cache"] == env["DIGIPATH_CACHE"]
            limit = _gib(volumes["cache"]["sizeLimit"])
            assert 10e8 < int(env["DIGIPATH_CACHE_GB"]) * 1e9 < limit * 2**30


def _gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_rayjob_takes_its_cluster_away_and_tries_again() -> None:
    spec = read_yaml(RAYJOB)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0, "else a night may cost without end"
    gpu = spec["rayClusterSpec"]["workerGroupSpecs"][1]
    words = shlex.split(spec["entrypoint"])
    assert int(words[words.index("--actors") + 1]) == gpu["maxReplicas"]


# Ray's launcher


def check_launcher(config: Any) -> Any:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda p: p.stem)
def test_launcher_takes_its_file(path: Path) -> None:
    config = read_yaml(path)
    nodes = check_launcher(config)["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["head"]["max_workers"] == 0
    assert nodes["gpu"]["min_workers"] == 0
    assert nodes["gpu"]["resources"]["GPU"] == 1
    assert "GPU" not in nodes["readers"]["resources"]
    most = sum(nodes[n]["max_workers"] for n in ("readers", "gpu"))
    assert config["max_workers"] == most, "a lower one would hold a group back"
    start = " ".join(config["head_start_ray_commands"])
    assert "--num-cpus=0 --num-gpus=0" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("max_workers", "key:max_worker"),
        ("docker.pull_before_run", "key:pull_before"),
        ("head_node_type", "haed"),
        ("available_node_types.gpu.min_workers", "key:min_worker"),
        ("available_node_types.readers.min_workers", 99),
    ],
)
def test_launcher_refuses_a_slip(path: Path, where: str, value: Any) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        check_launcher(change(read_yaml(path), where, value))


def test_launchers_put_workers_on_spot_and_the_head_not() -> None:
    aws, gcp = (read_yaml(p)["available_node_types"] for p in LAUNCHERS)
    market = {
        n: t["node_config"].get("InstanceMarketOptions", {}) for n, t in aws.items()
    }
    spot = {"MarketType": "spot"}
    assert market == {"head": {}, "readers": spot, "gpu": spot}
    model = {
        n: t["node_config"].get("scheduling", {}).get("provisioningModel")
        for n, t in gcp.items()
    }
    assert model == {"head": None, "readers": "SPOT", "gpu": "SPOT"}


# The token, everywhere


def test_every_file_asks_for_a_token_and_none_holds_one() -> None:
    auth = read_yaml(RAYCLUSTER)["spec"]["authOptions"]
    assert auth == {"mode": "token", "secretName": "digipath-token"}
    for path in LAUNCHERS:
        config = read_yaml(path)
        assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        token = "/home/ray/.ray/auth_token"
        assert config["file_mounts"] == {token: "~/.ray/auth_token"}
    assert "RAY_AUTH_MODE=token" in SLURM.read_text()
    for path in FILLED_IN:
        assert not re.search(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{16}", path.read_text())


# Linters


def run_linter(name: str, *arguments: str, text: str) -> int:
    """Exit status of a linter of the extra ``test`` that reads standard input."""
    tool = shutil.which(name, path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.fail(f"{name} is not beside {sys.executable}: pip install '.[test]'")
    done = subprocess.run(
        [tool, *arguments, "-"], input=text, capture_output=True, text=True, check=False
    )
    print(done.stdout + done.stderr)
    return done.returncode


def test_dockerfile_passes_hadolint() -> None:
    assert run_linter("hadolint", text=DOCKERFILE.read_text()) == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("WORKDIR", "WORKDIRR"),
        ("python:3.11-slim-trixie", "python:latest"),
        ("USER 1000", "USER root"),
        ("--no-install-recommends", ""),
    ],
)
def test_hadolint_refuses_a_slip(right: str, wrong: str) -> None:
    text = DOCKERFILE.read_text()
    assert right in text
    assert run_linter("hadolint", text=text.replace(right, wrong)) != 0


def test_slurm_script_passes_shellcheck() -> None:
    assert run_linter("shellcheck", text=SLURM.read_text()) == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [('"$ray_dir"', "$ray_dir"), ("fi\n", ""), ("$job_dir", "$jobdir")],
)
def test_shellcheck_refuses_a_slip(right: str, wrong: str) -> None:
    text = SLURM.read_text()
    assert right in text
    assert run_linter("shellcheck", text=text.replace(right, wrong, 1)) != 0


def test_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied.update(line.split()[1:-1])
    inside = {name for name in copied if any(f"{k}/" in name for k in kept)}
    assert copied - inside == kept
    assert [name for name in copied if not (ROOT / name).exists()] == []


# The lock file


def pins(lock: str) -> dict[str, str]:
    """Versions in a lock file by name; every one has a hash."""
    found = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^ *#.*\n", "", lock)):
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", entry)
        assert match, entry
        assert "--hash=sha256:" in entry, entry
        found[canonicalize_name(match[1])] = match[2]
    return found


def unmet(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """Requirements that no pinned version meets."""
    parsed = [Requirement(r) for r in requirements]
    return [
        str(r)
        for r in parsed
        if not r.specifier.contains(versions.get(canonicalize_name(r.name), "0"))
    ]


def asked_for() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (CLUSTER / "requirements.in").read_text().splitlines()
    more = [line.partition("#")[0].strip() for line in lines]
    viewer = project["optional-dependencies"]["viewer"]
    return [*project["dependencies"], *viewer, *filter(None, more)]


def test_lock_meets_every_requirement() -> None:
    lock = (CLUSTER / "requirements.lock").read_text()
    versions = pins(lock)
    assert unmet(asked_for(), versions) == []
    assert {"hatchling", "boto3", "nvidia-cudnn-cu13", "triton"} <= set(versions)
    assert not re.search("://|--index|--find-links|file:", lock), "of some machine"


def test_lock_check_names_what_is_missing_or_old() -> None:
    versions = {"numpy": "1.26.4", "pyarrow": "18.0"}
    asked = ["numpy>=2.0", "pyarrow>=18", "ray[data]>=2.55"]
    assert unmet(asked, versions) == ["numpy>=2.0", "ray[data]>=2.55"]


def test_lock_is_for_the_images_python() -> None:
    lock = (CLUSTER / "requirements.lock").read_text()
    bases = re.findall(
        r"^FROM python:(\d+\.\d+)-", DOCKERFILE.read_text(), re.MULTILINE
    )
    assert bases == ["3.11", "3.11"]
    assert "--python-version 3.11 " in lock


def test_one_ray_everywhere() -> None:
    locked = pins((CLUSTER / "requirements.lock").read_text())["ray"]
    assert read_yaml(RAYCLUSTER)["spec"]["rayVersion"] == locked
    said = re.findall(r"ray\[default\]==([0-9.]+[0-9])", README.read_text())
    assert said
    assert set(said) == {locked}


# The README


def test_readme_lists_every_gap_of_every_file() -> None:
    table = re.findall(r"^\| (`YOUR-.*?) \|.*\| (.*?) \|$", README.read_text(), re.M)
    listed: dict[str, set[str]] = {}
    before: set[str] = set()
    for gaps, files in table:
        before = before if files == "the same" else set(re.findall("`(.*?)`", files))
        for gap in GAP.findall(gaps):
            listed[gap] = before
    found: dict[str, set[str]] = {}
    for path in FILLED_IN:
        for gap in GAP.findall(path.read_text()):
            found.setdefault(gap, set()).add(path.name)
    assert found == listed
    assert set(GAP.findall(README.read_text())) == set(found)


def test_no_image_but_the_users_own() -> None:
    texts = [p.read_text() for p in (RAYCLUSTER, RAYJOB, *LAUNCHERS)]
    images = re.findall(r"\bimage: (?:&\w+ )?([^*\s]\S*)", "\n".join(texts))
    assert set(images) == {"YOUR-REGISTRY/digipath:YOUR-TAG"}
    assert len(images) == len(texts)


# The command


def parse(arguments: list[str]) -> dict[str, Any]:
    """What the options of ``digipath run`` make of a command line."""
    group = typer.main.get_command(app)
    command = group.commands["run"]  # type: ignore[attr-defined]
    return dict(command.make_context("run", list(arguments)).params)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line in cluster/ that runs overnight.py, without its program."""
    yield RAYJOB.name, shlex.split(read_yaml(RAYJOB)["spec"]["entrypoint"])[1:]
    text = README.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        for program in (f"python {IN_IMAGE}jobs/overnight.py ", "cluster/slurm.sh "):
            _, found, rest = line.partition(program)
            if found and ("submit" in line or "sbatch" in line):
                yield README.name, [program.split()[-1], *shlex.split(rest)]
    for line in SLURM.read_text().splitlines():
        if line.startswith("#   sbatch "):
            yield SLURM.name, shlex.split(line)[2:]


def test_commands_are_of_our_own_options() -> None:
    found = list(commands())
    names = [name for name, _ in found]
    assert names == ["rayjob.yaml", *["README.md"] * 4, "slurm.sh"]
    for _, (program, *arguments) in found:
        assert (ROOT / program.removeprefix(IN_IMAGE)).is_file()
        options = parse(arguments)
        assert options["preset"] == "camelyon17"
        assert len(options["slides"]) == 1
        assert options["weights"]


def test_a_slip_in_the_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _, (_, *arguments) = next(commands())
    wrong = [a.replace("--gpus-per-actor", "--gpus-per-actors") for a in arguments]
    assert run_app(["run", *wrong]) == 2
    assert "No such option: --gpus-per-actors" in capsys.readouterr().err


# The Slurm script, with a node's Ray and without Slurm

SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && echo node1
[ "$1" = requeue ] && echo "$2" > "$REQUEUED"
exit 0
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on one node, where srun runs what it is told here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(ROOT),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }


@pytest.mark.ray
@pytest.mark.slow
def test_slurm_script_is_interrupted_queued_again_and_goes_on(
    slurm: dict[str, str], job_cohort: Path, tmp_path: Path
) -> None:
    here = tmp_path / "submitted-from"
    here.mkdir()
    (here / "jobs").symlink_to(ROOT / "jobs")
    config, run = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(CONFIG)
    arguments = [str(job_cohort), "--out", str(run), "--config", str(config)]
    command = ["bash", str(SLURM), *arguments]
    token = here / f"digipath-{slurm['SLURM_JOB_ID']}" / "token"
    log = tmp_path / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=here, env=slurm, stdout=out, stderr=out) as job,
    ):
        wait_for(lambda: "prepare:" in log.read_text(), job, log)
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.parent.stat().st_mode & 0o777 == 0o700
        assert len(token.read_text()) == 64
        job.send_signal(signal.SIGUSR1)
        job.wait(timeout=120)
    assert "goes on from what is finished" in log.read_text()
    assert (tmp_path / "requeued").read_text().strip() == slurm["SLURM_JOB_ID"]
    assert not token.parent.exists()

    again = subprocess.run(
        command,
        cwd=here,
        env=slurm,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert again.returncode == 1, again.stdout + again.stderr
    assert "2 of 3 slides finished" in again.stdout
    assert pq.read_table(run / "failures.parquet")["slide_id"].to_pylist() == ["broken"]
    assert not token.parent.exists()


def wait_for(reached: Any, job: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        if reached():
            return
        if job.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(log.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "no slides"), (["slides"], "repository's root")]
)
def test_slurm_script_refuses_what_cannot_run(
    arguments: list[str], said: str, slurm: dict[str, str], tmp_path: Path
) -> None:
    command = ["bash", str(SLURM), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=slurm, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("digipath-*"))
