"""docs/reload.md: written from what reloads were seen to do, from what bad files were told, and from one long run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reload_bad import Bad
from reload_table import Row

from tta_daemon.control.toml import written
from tta_daemon.watch.instruments import Instruments

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reload.md"
RUN = ROOT / "benchmarks/results/reloads.json"

WAYS = """\
# Reload

<!-- Written by scripts/reload_page; do not edit. -->

A running daemon goes by a changed file without being restarted: all of it, or nothing. It looks at the file

- once a second, by its content: a file that is replaced (`mv`), rewritten or swapped through a ConfigMap's `..data`
- on SIGHUP
- on `POST /-/reload`, and `tta-daemon reload`, which wait and say what became of it; both need `http.lifecycle = true`
  and the token. 200 says applied or unchanged, 202 not yet, 409 refused; 401, 403, 405, 408, 413 and 503 that nothing
  was done.

`tta-daemon config diff OLD NEW` says beforehand what would change, and `tta-daemon check FILE` whether it is good.

## What happens

1. **Read.** A file that was written to is read once it held still for 0.1 s, and never more than 1 MiB of it. The
   environment still wins over it.
2. **Check.** Every fault is found at once, each with its line and a remedy. A change of a setting that needs a restart
   is a fault too.
3. **Prepare**, beside the loop, on the watcher's thread: the model is loaded, the adapter built, a decoder set up,
   whichever the change needs. The loop goes on answering. Anything that fails is a refusal.
4. **Wait** in one slot. A newer file replaces what lies there; a file that says what is in force already empties it; a
   bad one leaves it.
5. **Take**, on the loop's thread, between two batches: references are exchanged, nothing is built, nothing can fail.
   Where images will be decoded otherwise, those that wait are answered first, as they were decoded.

The Kafka clients stay, and with them partitions, positions and transactions: no record is lost or repeated. A changed
number never costs what was learned. Another model, method or structural option begins anew; what was left is
remembered (the last four), and given back when the same model, method and structural options return.

A file that a setting names is read when that setting changes: give new weights a new name. Python code that was
imported is not imported again.

## Where it shows"""

LOGS = """\
| Log message | Level | Says |
| --- | --- | --- |
| `configuration taken` | info | the digest, and each setting with its old and its new value |
| `reload refused; everything stays as it was` | error | each fault with its line and its remedy |

`/api/status` has the settings in force and their digest (`config`), how the last look at the file ended and the last
refusal, in words and with its time (`reload`). Secrets are masked everywhere, and have no part in the digest."""

TABLE = """\
## What each setting does

Every row was observed: a daemon in memory that had learned from two batches was given a file in which this one setting
was changed. Its Kafka ends stayed the same objects, all records were answered once, and after it was taken every part
of the daemon was equal, value by value, to one that was started with the new file. Observe it again:
`scripts/reload_page`.

| Setting | Reach | From | To | Seen |
| --- | --- | --- | --- | --- |"""

BAD = """\
## What a bad file is told

Each of these was put into the place of a running daemon's good file. It went on as it was.

| What is wrong | The file says | The daemon says |
| --- | --- | --- |"""

LIVE = """\
## Under load

One daemon process, `exactly_once`, {per_second:g} records a second, each file drawn at random and brought by `mv`, by a
swap of `..data`, by SIGHUP or by POST. Measured at commit {commit} on {cores} cores shared with other work (load
average {load[0]:.1f} before, {load[1]:.1f} after), by
`scripts/reloads --count {count} --seed {seed} --json benchmarks/results/reloads.json`:

| | Without reloads | Neutral settings | Any settings |
| --- | ---: | ---: | ---: |
{rows}

Of {sent:,} records, {dead_letters:,} of them nonsense, {lost} were lost and {repeated} were answered or buried twice;
the group was rebalanced {rebalances} times, and {undelivered} transactions failed. After the neutral reloads, what was
learned was {same}equal, bit for bit, to what a daemon that is never reloaded learns from the same {compared:,} records,
and {same_answers:,} of {compared:,} answers were the same.

A gap is the time between two answers, as the daemon writes them or as a reader of committed records sees them. A file
that nobody announces is looked at once a second; slowest is the time from its arrival until `/api/status` shows it in
force or refused.{note}"""

SEPARATE = "<br>"


def page(rows: Iterable[str], bad: Iterable[str]) -> str:
    """The whole page, of the lines of its two tables."""
    metrics = [
        f"| `{i.name}` | {', '.join(f'`{v}`' for v in i.labels) or ' '} | {i.help} |"
        for i in Instruments().declared
        if i.name.startswith("tta_config_")
    ]
    head = "| Metric | Labels | Meaning |\n| --- | --- | --- |"
    parts = [WAYS, "\n".join([head, *metrics]), LOGS]
    parts += ["\n".join([TABLE, *rows]), "\n".join([BAD, *bad]), _live()]
    return "\n\n".join(parts) + "\n"


def row_line(row: Row) -> str:
    """One row of the table of settings."""
    cells = (f"`{row.path}`", row.reach.value, f"`{written(row.old)}`", f"`{written(row.new)}`", row.seen)
    return _line(cells)


def bad_line(bad: Bad, message: str) -> str:
    """One row of the table of bad files."""
    return _line((bad.title, f"`{bad.shown}`" if bad.shown else "", message.replace("\n", SEPARATE)))


def lines(text: str, heading: str) -> list[str]:
    """The rows of the table below a heading."""
    below = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
    return [line for line in below.splitlines() if line.startswith("| ")][2:]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('    ', ' ') for cell in cells)} |"


def _live() -> str:
    run: Mapping[str, Any] = json.loads(RUN.read_text(encoding="utf-8"))
    parts = [run["parts"][name] for name in ("no reloads", "neutral", "any")]
    ways = ("mv", "..data swapped", "mv, SIGHUP", "mv, POST")
    shown = {
        "reloads taken": [part["reloads"].get("applied", 0) for part in parts],
        "reloads refused": [part["reloads"].get("refused", 0) for part in parts],
        "records": [f"{part['records']:,}" for part in parts],
        "longest gap, written (s)": [f"{part['longest_gap_written_s']:.2f}" for part in parts],
        "longest gap, seen (s)": [f"{part['longest_gap_seen_s']:.2f}" for part in parts],
    }
    shown |= {
        f"slowest by {way} (s)": [f"{part['slowest_s'][way]:.1f}" if way in part["slowest_s"] else "" for part in parts]
        for way in ways
    }
    rows = "\n".join(_line((name, *map(str, values))) for name, values in shown.items())
    said = {**run, "note": f" {run['note']}" if "note" in run else ""}
    return LIVE.format(rows=rows, same="" if run["same_state"] else "NOT ", **said)
