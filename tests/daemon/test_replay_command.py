"""The replay command: words in; tables, numbers and a page that stands alone out."""

import json
import logging
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import structlog
from nets import images
from typer.testing import CliRunner

from tta_daemon.cli import app
from tta_daemon.offline.replay import command
from tta_daemon.offline.replay.run import run

CONFIG = """
[model]
factory = "world:network"
input_size = [16, 16]
threads = 1
labels = ["cat", "dog", "ship", "van", "<b>"]

[batch]
size = 8

[adapt]
method = "tent"
learn_from = 4

[adapt.options]
lr = 0.01
"""


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command logs to the runner's stream, which is closed after it."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before
    structlog.reset_defaults()


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    photos = (images(48) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    labels = np.random.default_rng(1).integers(0, 5, 48)
    np.savez(tmp_path / "s.npz", images=photos, labels=labels, domain=np.repeat(["clear", "fog & <snow>"], 24))
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "s.npz"


def call(stream: Path, *words: str, columns: int = 100):
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": str(columns), "TERM": "dumb"})
    return runner.invoke(app, ["replay", str(stream), "--config", str(stream.with_name("config.toml")), *words])


def test_tables_numbers_and_page(stream: Path) -> None:
    numbers, page = stream.with_name("r.json"), stream.with_name("r.html")
    said = call(stream, "-m", "norm,roid", "--order", "recurring:2", "--json", str(numbers), "--report", str(page))
    assert said.exit_code == 0, said.output
    for words in ("All images", "Error % by domain", "Error % by round", "Cost", "source", "roid", "12 of 12"):
        assert words in said.stdout
    found = json.loads(numbers.read_text())
    assert [m["method"] for m in found["methods"]] == ["source", "norm", "roid"]
    assert found["about"]["images"] == 96
    assert_stands_alone(page.read_text())


def test_the_files_own_method_and_options_are_the_default(stream: Path) -> None:
    numbers = stream.with_name("r.json")
    assert call(stream, "--json", str(numbers)).exit_code == 0
    source, tent = json.loads(numbers.read_text())["methods"]
    assert (source["method"], tent["method"]) == ("source", "tent")
    assert tent["options"]["lr"] == 0.01
    assert source["options"] == {}


@pytest.mark.parametrize(
    ("words", "tent", "rpl", "size"),
    [
        ((), 0.01, 0.001, 6),
        (("--set", "batch.size=24"), 0.01, 0.001, 2),
        (("--set", "tent.lr=0.5"), 0.5, 0.001, 6),
        (("--set", "adapt.options.lr=0.25"), 0.25, 0.25, 6),
        (("--set", "adapt.options.lr=0.25", "--set", "rpl.lr=0.125", "--limit", "4"), 0.25, 0.125, 1),
    ],
    ids=str,
)
def test_settings_reach_the_methods_they_name(
    stream: Path, words: tuple[str, ...], tent: float, rpl: float, size: int
) -> None:
    numbers = stream.with_name("r.json")
    said = call(stream, "-m", "tent,rpl", "--json", str(numbers), *words)
    assert said.exit_code == 0, said.output
    methods = json.loads(numbers.read_text())["methods"]
    assert [m["options"].get("lr") for m in methods] == [None, tent, rpl]
    assert methods[1]["batches"] == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "tant"), "did you mean tent"),
        (("--order", "sideways"), "recurring:N"),
        (("--set", "batch.size"), "sets nothing"),
        (("--set", "batch.sizes=3"), "--set batch.sizes: batch.sizes: there is no such setting"),
        (("--set", "batch.size=-3"), "--set batch.size: batch.size: -3 is not at least 1"),
        (("--set", "adapt.options.lrr=3"), "no method replayed has this option"),
        (("--corrupt", "fog"), "begin at 32 x 32"),
        (("--json", "nowhere/r.json"), "folder does not exist"),
        (("--set", "model.input_size=32,32"), 'input.resize = "crop"'),
        (("--set", "model.labels=a,b"), "model.labels"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_with_its_remedy(stream: Path, words: tuple[str, ...], said: str) -> None:
    result = call(stream, *words)
    assert result.exit_code == 78, result.output
    assert said in result.stderr


def test_all_methods_means_those_that_can_work_here(stream: Path) -> None:
    (stream.with_name("config.toml")).write_text(CONFIG.replace("world:network", "nets:TinyViT"))
    refused = call(stream, "-m", "tent,norm")
    assert refused.exit_code == 78
    assert "BatchNorm" in refused.stderr
    numbers = stream.with_name("r.json")
    assert call(stream, "-m", "all", "--limit", "4", "--json", str(numbers)).exit_code == 0
    found = json.loads(numbers.read_text())
    names = {m["method"] for m in found["methods"]}
    assert {"source", "tent", "cotta"} <= names
    assert "norm" not in names
    assert "norm was left out" in found["about"]["facts"]["Left out"]


def test_tables_fit_a_narrow_terminal(stream: Path) -> None:
    said = call(stream, "-m", "norm,tent,roid,sar,rpl,eata,rotta", "--limit", "8", columns=80)
    assert said.exit_code == 0
    assert "…" not in said.stdout
    assert all(len(line) <= 80 for line in said.stdout.splitlines() if not line.startswith(("numbers", "report")))


def test_an_interrupt_ends_the_replay_and_keeps_what_is_complete(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config, *rest):
        if config.adapt.method == "norm":
            raise KeyboardInterrupt
        return run(config, *rest)

    monkeypatch.setattr(command, "run", interrupted)
    numbers = stream.with_name("r.json")
    said = call(stream, "-m", "tent,norm,sar", "--limit", "8", "--json", str(numbers))
    assert said.exit_code == 0
    assert [m["method"] for m in json.loads(numbers.read_text())["methods"]] == ["source", "tent"]


def test_help_has_an_example() -> None:
    said = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"}).invoke(app, ["replay", "--help"])
    assert said.exit_code == 0
    assert "Example: tta-daemon replay" in said.stdout


class Page(HTMLParser):
    """Collects what a page links to, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, _, attrs) -> None:
        self.links += [v for k, v in attrs if k in {"src", "href", "srcset", "data"}]
        self.ids += [v for k, v in attrs if k == "id"]


def assert_stands_alone(text: str) -> None:
    page = Page()
    page.feed(text)
    assert page.links == []
    assert "http" not in text
    assert "<script" not in text
    assert len(set(page.ids)) == len(page.ids)
    found = re.findall(r'<svg [^>]*role="img".*?</svg>', text, re.DOTALL)
    drawings = [ET.fromstring(drawing) for drawing in found]  # noqa: S314 - our own
    assert len(drawings) == 3 + 2 + 3 + 1  # a strip and a dial for each method, a panel for each domain, one of cost
    for drawing in drawings:
        title, desc = list(drawing)[:2]
        assert drawing.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
        assert title.text
        assert desc.text
    assert "fog &amp; &lt;snow&gt;" in text
    assert "<snow>" not in text
    assert text.count("The numbers behind") == 3
