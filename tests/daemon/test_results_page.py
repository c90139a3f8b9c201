"""The published results are what the recipes wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_results() -> None:
    if not (ROOT / "docs" / "results.md").exists():
        pytest.skip("no results are published yet")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "results", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
