"""Every PromQL expression that deploy/ ships: of rules, alerts, panels and annotations."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "tta-daemon.rules.yaml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


class Asked(NamedTuple):
    """An expression, and who asks it."""

    who: str
    expression: str


def rules(kind):
    """All rules of a kind, `alert` or `record`."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels(dashboard):
    """All panels of a dashboard, without the headings of its rows."""
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def everything():
    """Every expression."""
    for rule in rules("record"):
        yield Asked(f"record {rule['record']}", rule["expr"])
    for rule in rules("alert"):
        yield Asked(f"alert {rule['alert']}", rule["expr"])
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield Asked(f"{path.stem}: {panel['title']} {target['refId']}", target["expr"])
        for mark in json.loads(path.read_text())["annotations"]["list"]:
            yield Asked(f"{path.stem}: annotation {mark['name']}", mark["expr"])


def metrics(expression):
    """The names of our metrics in an expression."""
    return set(re.findall(r"\btta_\w+", expression))
