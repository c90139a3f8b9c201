"""The chart and the component: made by Helm and Kustomize, valid from Kubernetes 1.29 on, hardened, accepted."""

import copy
import json
import re

import pytest
import yaml
from asked import DASHBOARDS, DEPLOY, ROOT, RULES
from cluster import CHART, OPERATORS, VALUES, VERSIONS, given, helm, kustomized, one, rendered, validate

from tta_daemon.control.config import load

EXAMPLE = DEPLOY / "kubernetes" / "example"


@pytest.fixture(scope="module")
def charts():
    return {name: rendered(given(name)) for name in VALUES}


@pytest.fixture(scope="module")
def sidecar():
    return kustomized(EXAMPLE)


@pytest.fixture(scope="module")
def old_sidecar(tmp_path_factory):
    """The example on the component for clusters before 1.29, with an initContainer of the service's own."""
    folder = tmp_path_factory.mktemp("overlay")
    told = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    for name in (*told["resources"], "config.toml"):
        (folder / name).write_text((EXAMPLE / name).read_text())
    told["components"] = ["component"]
    (folder / "component").symlink_to(DEPLOY / "kubernetes" / "sidecar-before-1.29")
    fetch = {"name": "fetch", "image": "busybox:1.37.0", "command": ["true"]}
    patch = [{"op": "add", "path": "/spec/template/spec/initContainers", "value": [fetch]}]
    base = folder / "base"
    base.mkdir()
    (folder / "inference.yaml").rename(base / "inference.yaml")
    mine = {
        "resources": ["inference.yaml"],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(patch)}],
    }
    (base / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    told["resources"] = ["base" if name == "inference.yaml" else name for name in told["resources"]]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(told))
    return kustomized(folder)


@pytest.mark.parametrize("name", VALUES)
def test_helm_lint_has_nothing_to_say(name):
    said = helm().lint(CHART, given(name), strict=True, kube_version="v1.29.0")
    worse = [message for message in said["messages"] if message["severity"] > 1]
    assert (worse, said["errors"]) == ([], [])


def different(manifests):
    """Each manifest once."""
    return list({json.dumps(manifest, sort_keys=True): manifest for manifest in manifests}.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_everything(version, charts, sidecar, old_sidecar):
    everything = different([m for name in charts for m in charts[name]] + sidecar + old_sidecar)
    assert len(everything) > 20
    for manifest in everything:
        if manifest["apiVersion"] not in OPERATORS:
            validate(manifest, version)


def test_the_operators_accept_theirs(charts, sidecar):
    theirs = [m for m in [*charts["keda"], *sidecar] if m["apiVersion"] in OPERATORS]
    assert sorted(m["kind"] for m in theirs) == ["PodMonitor", "PodMonitor", "PrometheusRule", "ScaledObject"]
    for manifest in theirs:
        validate(manifest, VERSIONS[-1])


def test_a_misspelled_field_is_found(charts):
    wrong = copy.deepcopy(one(charts["default"], "StatefulSet"))
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(Exception, match="readOnlyRootFileSystem"):
        validate(wrong, "1.29")
    wrong = copy.deepcopy(one(charts["keda"], "ScaledObject"))
    wrong["spec"]["coolDownPeriod"] = 5
    with pytest.raises(Exception, match="coolDownPeriod"):
        validate(wrong, "1.29")


def daemons(charts, sidecar, old_sidecar):
    """Every container of ours, with its pod."""
    for manifests in charts.values():
        pod = one(manifests, "StatefulSet")["spec"]["template"]["spec"]
        yield pod, pod["containers"][0]
    pod = one(sidecar, "Deployment")["spec"]["template"]["spec"]
    yield pod, pod["initContainers"][0]
    pod = one(old_sidecar, "Deployment")["spec"]["template"]["spec"]
    yield pod, pod["containers"][-1]


def test_every_daemon_is_hardened(charts, sidecar, old_sidecar):
    for pod, container in daemons(charts, sidecar, old_sidecar):
        security = pod.get("securityContext", {}) | container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_every_daemon_has_time_to_drain_and_sees_changes(charts, sidecar, old_sidecar):
    for pod, container in daemons(charts, sidecar, old_sidecar):
        assert pod["terminationGracePeriodSeconds"] >= 30 + 30 + 15  # limits.drain_s, settle.timeout_s, some air
        (config,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/etc/tta-daemon"]
        assert "subPath" not in config


def settings(container, manifests, tmp_path):
    """What the daemon would make of a pod's ConfigMap and environment."""
    maps = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    text = next(data["config.toml"] for data in maps if "config.toml" in data)
    (tmp_path / "config.toml").write_text(text)
    environ = {e["name"]: e.get("value", "tta-tta-daemon-0") for e in container["env"]}
    return load(tmp_path / "config.toml", environ)


@pytest.mark.parametrize("name", VALUES)
def test_the_daemon_accepts_the_settings_of_the_chart(name, charts, tmp_path):
    container = one(charts[name], "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    config = settings(container, charts[name], tmp_path)
    assert config.kafka.group_instance_id == "tta-tta-daemon-0"
    assert config.http.host == "0.0.0.0"  # noqa: S104 - the kubelet asks from outside the pod
    assert config.model.device == ("cuda" if name == "gpu" else "cpu")
    assert config.checkpoint.kind == ("kafka" if name == "tls" else "file")


def test_the_daemon_accepts_the_settings_of_the_example(sidecar, tmp_path):
    container = one(sidecar, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    assert settings(container, sidecar, tmp_path).kafka.input_topic == "classifier-requests"


def test_secrets_arrive_as_files_where_the_settings_look(charts, tmp_path):
    pod = one(charts["tls"], "StatefulSet")["spec"]["template"]["spec"]
    config = settings(pod["containers"][0], charts["tls"], tmp_path)
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    security = config.kafka.security
    for file, name in (
        (security.password_file, "sasl"),
        (security.ca_file, "ca"),
        (security.cert_file, "client"),
        (security.key_file, "client"),
        (config.http.token_file, "http"),
    ):
        assert str(file.parent) == mounts[name]
        paths = {item["path"] for item in volumes[name].get("items", [])} or {"tls.crt", "tls.key"}
        assert file.name in paths
    assert not any(
        "password" in str(e.get("value", "")).lower() for e in pod["containers"][0]["env"] if e["name"][-5:] != "_FILE"
    )


def test_a_gpu_is_asked_for(charts):
    container = one(charts["gpu"], "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].endswith("-cuda")
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 1}


def test_keda_alone_decides_on_replicas(charts):
    assert "replicas" not in one(charts["keda"], "StatefulSet")["spec"]
    trigger = one(charts["keda"], "ScaledObject")["spec"]["triggers"][0]
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["consumerGroup"] == "tta-daemon"


def test_the_rules_in_the_cluster_are_the_ones_that_are_tested(charts):
    rule = one(charts["keda"], "PrometheusRule")
    urls = {r["annotations"].pop("runbook_url") for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r}
    assert all(url.startswith("https://runbooks.example/tta-daemon#tta") for url in urls)
    tested = yaml.safe_load(RULES.read_text())
    for group in tested["groups"]:
        for entry in group["rules"]:
            entry.get("annotations", {}).pop("runbook_url", None)
    assert rule["spec"] == tested


def test_the_dashboards_in_the_cluster_are_the_ones_that_are_tested(charts):
    found = [m["data"] for m in charts["keda"] if m["metadata"].get("labels", {}).get("grafana_dashboard")]
    shown = {name: json.loads(text) for data in found for name, text in data.items()}
    assert shown == {path.name: json.loads(path.read_text()) for path in DASHBOARDS}


def test_selectors_find_the_pods(charts):
    labels = one(charts["keda"], "StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("PodMonitor", "NetworkPolicy", "PodDisruptionBudget", "Service", "StatefulSet"):
        spec = one(charts["keda"], kind)["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        assert selector.get("matchLabels", selector).items() <= labels, kind


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"replica": 2}, "replica"),
        ({"kafka": {"bootstrapServers": ["no port"]}}, "bootstrapServers"),
        ({"kafka": {"security": {"protocol": "SASL_SSL"}}}, "mechanism|passwordSecret"),
        ({"state": {"kind": "disk"}}, "kind"),
        ({"image": {"digest": "latest"}}, "digest"),
    ],
)
def test_wrong_values_are_refused(wrong, words):
    with helm().Chart.load(CHART) as chart, pytest.raises(helm().HelmValuesError, match=words):
        chart.validate_schema(wrong)


def test_the_default_weights_are_where_the_image_has_them():
    python = re.search(r"^ARG PYTHON=(3\.\d+)", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)[1]
    for file in (CHART / "values.yaml", EXAMPLE / "config.toml"):
        weights = re.search(r'weights = "(/opt/venv/lib/python[^"]+)"', file.read_text())[1]
        assert weights == f"/opt/venv/lib/python{python}/site-packages/tta_daemon/offline/digits.safetensors"


def test_a_native_sidecar_is_started_first_and_does_not_speak_for_the_pod(sidecar):
    pod = one(sidecar, "Deployment")["spec"]["template"]["spec"]
    ours = pod["initContainers"][0]
    assert ours["restartPolicy"] == "Always"
    assert "readinessProbe" not in ours
    assert ours["startupProbe"]["httpGet"]["path"] == "/-/healthy"
    assert [container["name"] for container in pod["containers"]] == ["triton"]
    shared = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} & {
        m["name"] for m in ours["volumeMounts"]
    }
    assert shared == {"tta-published"}


def test_before_1_29_it_is_a_container_like_the_others(old_sidecar):
    pod = one(old_sidecar, "Deployment")["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["initContainers"]] == ["fetch"]
    assert [container["name"] for container in pod["containers"]] == ["triton", "tta-daemon"]
    assert "restartPolicy" not in pod["containers"][-1]
    assert "readinessProbe" not in pod["containers"][-1]


def example_in(folder):
    """A copy of the example on the component itself."""
    for path in EXAMPLE.iterdir():
        (folder / path.name).write_text(path.read_text().replace("../sidecar", "component"))
    (folder / "component").symlink_to(DEPLOY / "kubernetes" / "sidecar")


def test_the_example_brings_every_claim_and_config_map_that_it_mounts(sidecar):
    volumes = one(sidecar, "Deployment")["spec"]["template"]["spec"]["volumes"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert claims == {one(sidecar, "PersistentVolumeClaim")["metadata"]["name"]}
    assert maps == {one(sidecar, "ConfigMap")["metadata"]["name"]}


def test_the_example_publishes_where_the_service_looks_and_needs_no_extra(sidecar, tmp_path):
    container = one(sidecar, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    publish = settings(container, sidecar, tmp_path).publish
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(publish.folder) == mounts["tta-published"]
    assert publish.formats == ("safetensors",)


def test_a_stateful_set_keeps_its_state_in_kafka_as_the_page_says(tmp_path):
    example_in(tmp_path)
    service = (EXAMPLE / "inference.yaml").read_text().replace("kind: Deployment", "kind: StatefulSet")
    (tmp_path / "inference.yaml").write_text(service.replace("spec:\n", "spec:\n  serviceName: classifier\n", 1))
    page = (ROOT / "docs" / "deploy-sidecar.md").read_text()
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "TTA_CHECKPOINT__KIND" in text]
    told = yaml.safe_load((tmp_path / "kustomization.yaml").read_text()) | yaml.safe_load(block)
    told["images"] = [{"name": "tta-daemon", "newName": "registry.example/tta-daemon"}]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(told))
    manifests = kustomized(tmp_path)
    for version in VERSIONS:
        validate(one(manifests, "StatefulSet"), version)
    container = one(manifests, "StatefulSet")["spec"]["template"]["spec"]["initContainers"][0]
    assert container["image"] == "registry.example/tta-daemon:0.1.0-cpu"
    config = settings(container, manifests, tmp_path)
    assert config.checkpoint.kind == "kafka"
    assert config.kafka.group_instance_id == "tta-tta-daemon-0"


def test_the_page_lists_every_setting_that_the_component_fixes(sidecar):
    container = one(sidecar, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    page = (ROOT / "docs" / "deploy-sidecar.md").read_text()
    for entry in container["env"]:
        assert f"| `{entry['name']}` | `{entry['value']}` |" in page


def test_only_labeled_deployments_are_touched(sidecar, tmp_path):
    example_in(tmp_path)
    plain = (EXAMPLE / "inference.yaml").read_text().replace('    tta-daemon/inject: "true"\n', "")
    (tmp_path / "inference.yaml").write_text(plain)
    pod = one(kustomized(tmp_path), "Deployment")["spec"]["template"]["spec"]
    assert "initContainers" not in pod


def test_the_config_map_keeps_its_name_so_that_a_change_reaches_running_pods(sidecar):
    assert one(sidecar, "ConfigMap")["metadata"]["name"] == "tta-daemon-config"
