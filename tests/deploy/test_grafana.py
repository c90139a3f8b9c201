"""The dashboards: current, and every panel says what it shows, in which unit, from a data source that can be chosen."""

import json
import re
import runpy

import pytest
import yaml
from asked import DASHBOARDS, DEPLOY, ROOT, metrics, panels

from adapters import METHODS, SIGNALS
from tta_daemon.watch.instruments import PHASES, Instruments

EVERY_PANEL = [
    pytest.param(panel, id=f"{path.stem}: {panel['title']}") for path in DASHBOARDS for panel in panels(path)
]


def test_the_files_are_what_the_script_writes():
    script = runpy.run_path(str(ROOT / "scripts" / "dashboards"))
    assert [path.stem for path in DASHBOARDS] == sorted(script["DASHBOARDS"])
    for path in DASHBOARDS:
        assert json.loads(path.read_text()) == script["dashboard"](path.stem), "run scripts/dashboards"


@pytest.mark.parametrize("panel", EVERY_PANEL)
def test_a_panel_explains_itself(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert "$job" in target["expr"]


def test_every_metric_of_the_streams_is_on_a_dashboard():
    shown = {name for path in DASHBOARDS for p in panels(path) for t in p["targets"] for name in metrics(t["expr"])}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    of_streams = {
        told.name for told in Instruments().declared if re.match(r"tta_(streams?|forwards)_|tta_streams$", told.name)
    }
    assert "tta_streams_forgotten_total" in of_streams
    assert of_streams <= shown


def named(title):
    """The one panel of that title."""
    (found,) = (panel for path in DASHBOARDS for panel in panels(path) if panel["title"] == title)
    return found


def test_the_page_explains_each_signal_as_its_panel_says():
    page, heading = re.search(
        r"(docs/\S+\.md) explains each: (.+)\.$", named("Signals of the method")["description"]
    ).groups()
    section = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{signal}`" for signal in SIGNALS]
    for _, meaning, methods, bad in rows:
        assert meaning
        assert bad
        assert {method.strip("`") for method in methods.split(", ")} <= set(METHODS)


def test_the_panel_of_phases_names_each():
    said = named("Time of a batch, by phase")["description"]
    assert [phase for phase in PHASES if not re.search(rf"\b{phase}\b", said)] == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned_anywhere(path):
    told = json.loads(path.read_text())
    assert told["id"] is None
    assert "__inputs" not in told
    assert [variable["name"] for variable in told["templating"]["list"]] == ["datasource", "job", "instance"]
    assert [mark["name"] for mark in told["annotations"]["list"]] == ["Reloads", "Rewinds", "Domain changes"]
    numbers = [panel["id"] for panel in told["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path):
    taken = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


OF_THE_DATA_SOURCE = {"titleFormat", "textFormat", "step", "useValueForTime", "definition", "id"}
"""Fields that belong to Prometheus' queries, or are null; Grafana's own types of a dashboard do not know them."""


def lost(told, read, path=""):
    """Where two JSON values differ, but for what ``read`` has more."""
    if isinstance(told, dict) and isinstance(read, dict):
        for name, value in told.items():
            yield from lost(value, read.get(name), f"{path}/{name}")
    elif isinstance(told, list) and isinstance(read, list) and len(told) == len(read):
        for number, (one, other) in enumerate(zip(told, read, strict=True)):
            yield from lost(one, other, f"{path}/{number}")
    elif told != read and path.rpartition("/")[2] not in OF_THE_DATA_SOURCE:
        yield path


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_own_types_understand_every_field(path):
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="pip install 'tta-daemon[deploy]'")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder").JSONEncoder
    pytest.importorskip("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    told = json.loads(path.read_text())
    read = json.loads(encoder().encode(sdk.Dashboard.from_json(json.loads(path.read_text()))))
    assert list(lost(told, read)) == []
    told["panels"][1]["titel"] = told["panels"][1].pop("title")
    read = json.loads(encoder().encode(sdk.Dashboard.from_json(told)))
    assert list(lost(told, read)) == ["/panels/1/titel"]


def test_provisioning_finds_them():
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tta-daemon.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    mounts = [mount.split(":")[1] for mount in compose["services"]["grafana"]["volumes"]]
    assert folder in mounts
    assert "/etc/grafana/provisioning" in mounts
