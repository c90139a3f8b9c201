"""The rules: accepted by promtool, every alert fires and does not, every name exists, every alert has a runbook."""

import re
import shutil
import subprocess

import pytest
import yaml
from asked import DEPLOY, ROOT, RULES, everything, metrics, rules

from tta_daemon.watch.instruments import Instruments

TESTS = sorted(RULES.parent.glob("*.test.yaml"))
ALERTS = [rule["alert"] for rule in rules("alert")]


@pytest.fixture(scope="module")
def promtool():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")

    def run(*words):
        return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)

    return run


def test_promtool_accepts_the_rules(promtool):
    said = promtool("check", "rules", RULES)
    assert said.returncode == 0, said.stdout + said.stderr


def test_promtool_accepts_the_configuration_of_compose(promtool):
    said = promtool("check", "config", "--syntax-only", DEPLOY / "compose" / "prometheus.yaml")
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("tests", TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should(promtool, tests):
    said = promtool("test", "rules", tests)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_line_of_the_page_makes_every_runbook_a_url():
    words = re.search(
        r"^sed '(s\|[^']+)' deploy/prometheus", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE
    )
    said = subprocess.run(["sed", words[1], RULES], capture_output=True, text=True, timeout=60, check=True)
    urls = re.findall(r"runbook_url: (\S+)", said.stdout)
    assert len(urls) == len(ALERTS)
    assert all(url.startswith("https://wiki.example/tta-daemon#tta") for url in urls)


def test_every_alert_has_a_scenario():
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    fired = set()
    for case in cases:
        expected = [sample["labels"] for asked in case["promql_expr_test"] for sample in asked["exp_samples"]]
        quiet = [name for name in ("good", "idle", "new") if not any(f'job="{name}"' in labels for labels in expected)]
        assert "good" in quiet, f"{case['name']} lets no job be well"
        fired |= {re.search(r'alertname="(\w+)"', labels)[1] for labels in expected}
    assert fired == set(ALERTS)


def declared():
    """Every series name that the daemon exports."""
    names = set()
    for instrument in Instruments().declared:
        names.add(instrument.name)
        if instrument.kind == "histogram":
            names |= {f"{instrument.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def recorded():
    """What follows the level in the names that rules record."""
    return {name for rule in rules("record") for name in metrics(rule["record"])}


def test_every_name_is_one_that_the_daemon_exports():
    known = declared() | recorded()
    unknown = {asked.who: names for asked in everything() if (names := metrics(asked.expression) - known)}
    assert unknown == {}


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == rule["alert"].lower()
