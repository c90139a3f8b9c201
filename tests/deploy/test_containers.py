"""The image and compose: linted, hardened, built from files that are really there, for settings that are accepted."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from asked import DEPLOY, ROOT
from typer.testing import CliRunner

from tta_daemon.cli import app

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"


def tool(name):
    """Where a tool of the `deploy` extra lies: beside this Python, or anywhere on the path."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (pip install 'tta-daemon[deploy]')")
    return found


def test_hadolint_has_nothing_to_say():
    said = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def stages():
    """The stages of the Dockerfile by name: what they start from, and their lines."""
    found, name = {}, ""
    for line in DOCKERFILE.read_text().splitlines():
        if begins := re.match(r"FROM (\S+) AS (\S+)", line):
            name = begins[2]
            found[name] = (begins[1], [])
        elif name:
            found[name][1].append(line)
    return found


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_targets_run_as_nobody_and_know_how_they_are(target):
    start, lines = stages()[target]
    assert start == "runtime"
    assert f"COPY --from=build-{target} /opt/venv /opt/venv" in lines
    _, runtime = stages()["runtime"]
    assert "USER 65532:65532" in runtime
    assert not any(line.startswith(("USER root", "USER 0")) for line in [*runtime, *lines])
    assert any(line.endswith('CMD ["tta-daemon", "healthcheck"]') for line in runtime)
    assert 'ENTRYPOINT ["tta-daemon"]' in runtime


def test_everything_is_pinned():
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-\w+-\w+$", DOCKERFILE.read_text(), re.MULTILINE)
    installs = [line for line in DOCKERFILE.read_text().splitlines() if "pip install" in line and "RUN" in line[:4]]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), service["image"]


def context():
    """The files that .dockerignore lets through: a list of exceptions to nothing."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[1] == "*"
    return [rule[1:].rstrip("/") for rule in rules if rule.startswith("!")]


@pytest.mark.slow
def test_the_build_context_is_enough_for_the_package(tmp_path):
    for name in context():
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name, **({"ignore": ignored} if source.is_dir() else {}))
    words = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('.')"]
    built = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    assert {"tta_daemon/cli.py", "adapters/tent.py", "tta_daemon/offline/digits.safetensors"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=" + ".join)
def test_docker_compose_accepts_it(files):
    named = [word for name in files for word in ("-f", DEPLOY / "compose" / name)]
    words = [tool("docker-compose"), *named, "config", "--quiet"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=" + ".join)
def test_compose_builds_every_image_of_ours_with_the_demo(files):
    named = [word for name in files for word in ("-f", DEPLOY / "compose" / name)]
    words = [tool("docker-compose"), *named, "config"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    ours = [one for one in yaml.safe_load(said.stdout)["services"].values() if one["image"].startswith("tta-daemon:")]
    assert len(ours) == 2
    built = {one["image"]: one["build"]["args"]["EXTRAS"] for one in ours if "build" in one}
    assert {one["image"] for one in ours} == set(built)
    assert set(built.values()) == {"[demo]"}


def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.mark.parametrize("name", ["daemon", "producer", "prometheus", "grafana"])
def test_services_of_compose_are_hardened(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_files_that_compose_mounts_are_there():
    mounts = [mount.split(":")[0] for service in services().values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) >= 6
    assert [mount for mount in files if not (COMPOSE.parent / mount).exists()] == []


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_settings_of_compose_are_accepted():
    said = CliRunner().invoke(app, ["check", "--no-environment", str(DEPLOY / "compose" / "daemon" / "config.toml")])
    assert said.exit_code == 0, said.output
