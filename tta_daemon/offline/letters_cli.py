"""The command about dead letters: a table of them, and the way back for those that deserve another chance."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_daemon.control.config_cli import loaded, refusals
from tta_daemon.errors import Reason, TtaError

if TYPE_CHECKING:
    from rich.console import Console

    from tta_daemon.control.config import Config
    from tta_daemon.stream.records import Position
    from tta_daemon.stream.resubmission import Found, Letter

RUNTIME_ERROR = 1
PIPE_COLUMNS = 160

Config_ = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The daemon's configuration.")]


def dead_letters(  # noqa: PLR0913 - what a person may say
    config: Config_,
    *,
    reason: Annotated[
        list[Reason] | None,
        typer.Option("--reason", "-r", metavar="REASON", help="Only letters with this reason; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest; the others are counted.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="All of them as JSON, for programs.")] = False,
    resubmit: Annotated[bool, typer.Option("--resubmit", help="Send them back to the input topic.")] = False,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Send back only what was rejected less often than this.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what --resubmit would do, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")] = False,
) -> None:
    """Look at the records that could not be answered, and send them back once the cause is gone.

    First see what is there and why; a dead letter is the record as it came, and says so in its headers.

    Then remove the cause: mend the producer, or a setting such as input.resize or input.max_bytes.

    Then send back what was rejected for that reason. It goes to the end of the input topic.

    A letter goes back once, however often you ask. What is rejected again is a new letter that counts its attempts,
    and --max-attempts ends the circle.

    Example: tta-daemon dead-letters --config config.toml --reason wrong_shape

    Example: tta-daemon dead-letters --config config.toml --reason wrong_shape --resubmit --dry-run

    Example: tta-daemon dead-letters --config config.toml --reason wrong_shape --resubmit
    """
    if (dry_run or yes) and not resubmit:
        raise typer.BadParameter("--dry-run and --yes go with --resubmit")
    if as_json and resubmit:
        raise typer.BadParameter("--json lists; it does not go with --resubmit")
    with refusals():
        settings = loaded(config)
        try:
            found = _found(settings, frozenset(reason or Reason))
            if as_json:
                typer.echo(json.dumps([_plain(letter, found) for letter in found.letters], indent=2))
            elif resubmit:
                _resubmit(settings, found, max_attempts, dry_run=dry_run, yes=yes)
            else:
                _show(settings, found, limit)
        except TtaError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(RUNTIME_ERROR) from error


def _found(settings: "Config", reasons: frozenset[Reason]) -> "Found":
    """All letters with one of the reasons, oldest first."""
    from tta_daemon.stream.connection import connection  # noqa: PLC0415 - kafka takes a while to import
    from tta_daemon.stream.resubmission import Found, look  # noqa: PLC0415

    console = _console(stderr=True)
    with console.status("reading the dead letters") as status:
        found = look(
            connection(settings.kafka),
            settings.kafka.dead_letters,
            lambda read: status.update(f"reading the dead letters: {read:,}"),
        )
    everything = reasons == frozenset(Reason)
    kept = (letter for letter in found.letters if everything or letter.reason in reasons)
    return Found(tuple(sorted(kept, key=lambda letter: letter.record.timestamp_s)), found.resubmitted)


def _show(settings: "Config", found: "Found", limit: int) -> None:
    from rich.table import Table  # noqa: PLC0415 - only for people
    from rich.text import Text  # noqa: PLC0415

    console = _console()
    if not found.letters:
        console.print(f"No dead letters in {settings.kafka.dead_letters}.", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("when", "reason", "where from", "attempts", "message"):
        table.add_column(name, justify="right" if name == "attempts" else "left", overflow="fold")
    for letter in found.letters[-limit:]:
        plain = _plain(letter, found)
        place = f"{plain['topic']}-{plain['partition']}@{plain['offset']}" if letter.origin else "unknown"
        message = f"{'(went back) ' if plain['resubmitted'] else ''}{letter.message}"
        row = (plain["when"], letter.reason, place, str(letter.attempt), message)
        table.add_row(*(Text(_printable(text)) for text in row))
    console.print(table)
    reasons = Counter(letter.reason for letter in found.letters)
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    console.print(f"{len(found.letters):,} dead letters in {settings.kafka.dead_letters}: {said}", markup=False)
    if len(found.letters) > limit:
        console.print(f"The newest {limit:,} are shown; --limit shows more.")


def _resubmit(settings: "Config", found: "Found", max_attempts: int, *, dry_run: bool, yes: bool) -> None:
    """Say what would go back and what would not; ask; send."""
    console, topic = _console(), settings.kafka.input_topic
    fates = {letter.record.position: found.obstacle(letter, topic, max_attempts) for letter in found.letters}
    chosen = {position for position, obstacle in fates.items() if not obstacle}
    console.print(f"{len(chosen):,} of {len(fates):,} dead letters would go back to {topic}.", markup=False)
    for obstacle, count in Counter(filter(None, fates.values())).most_common():
        console.print(f"{count:,} would not: {obstacle}", markup=False)
    if dry_run or not chosen:
        return
    if not yes:
        typer.confirm("Send them?", abort=True)
    sent = 0
    for step in _progress(console, _sending(settings, chosen), len(chosen)):
        sent = step
    console.print(f"{sent:,} records went back to {topic}.", markup=False)


def _sending(settings: "Config", chosen: "set[Position]") -> Iterator[int]:
    from tta_daemon.stream.connection import connection  # noqa: PLC0415 - kafka takes a while to import
    from tta_daemon.stream.resubmission import resubmit  # noqa: PLC0415

    kafka = settings.kafka
    transaction = f"{kafka.group_id}-dead-letters" if kafka.delivery == "exactly_once" else None
    return resubmit(connection(kafka), kafka.dead_letters, chosen, transaction)


def _progress(console: "Console", steps: Iterator[int], total: int) -> Iterator[int]:
    """The steps, with a bar that follows them."""
    from rich.progress import Progress  # noqa: PLC0415 - only where something is sent

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("sending", total=total)
        for step in steps:
            progress.update(task, completed=step)
            yield step


def _plain(letter: "Letter", found: "Found") -> Mapping[str, Any]:
    """A letter as JSON holds it. ``letter`` is where it lies, ``topic`` to ``offset`` where its record came from."""
    (dead, number), at = letter.record.position
    origin = letter.origin
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.record.timestamp_s)),
        "reason": letter.reason,
        "message": letter.message,
        "topic": origin.partition.topic if origin else None,
        "partition": origin.partition.number if origin else None,
        "offset": origin.offset if origin else None,
        "id": letter.record.header("id"),
        "attempt": letter.attempt,
        "omitted_bytes": letter.omitted_bytes,
        "resubmitted": letter.record.position in found.resubmitted,
        "letter": {"topic": dead, "partition": number, "offset": at},
    }


def _printable(text: str) -> str:
    """Text from a record's headers, which anybody may have written, without what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _console(*, stderr: bool = False) -> "Console":
    """A console as wide as the terminal; wide enough for a line a letter where there is none."""
    from rich.console import Console  # noqa: PLC0415 - only for people

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_COLUMNS)
