"""Commands about configurations, and how every command refuses one. Heavy modules are imported when needed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_daemon.errors import ConfigError

if TYPE_CHECKING:
    from tta_daemon.control.config import Config

CONFIG_ERROR = 78
"""The exit code of a wrong configuration, EX_CONFIG of sysexits.h."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="The configuration, a TOML file.")]

app = typer.Typer(no_args_is_help=True, help="Show, compare and describe configurations.")


@app.command()
def show(
    config: File,
    *,
    resolved: Annotated[bool, typer.Option("--resolved", help="All settings, defaults included.")] = False,
) -> None:
    """Print the settings in force as TOML, secrets masked; without --resolved those that differ from the defaults.

    Example: tta-daemon config show --resolved config.toml
    """
    with refusals():
        settings = loaded(config)
        from tta_daemon.control.reference import differing  # noqa: PLC0415
        from tta_daemon.control.toml import document  # noqa: PLC0415

        typer.echo(document(settings.masked() if resolved else differing(settings)))


@app.command()
def diff(old: File, new: File) -> None:
    """Print what a reload from one file to the other would change, and how far each change reaches.

    live: between two batches. rebuild: one component anew. restart: refused, with all the others.

    Example: tta-daemon config diff config.toml config.new.toml
    """
    from tta_daemon.control.config import changes  # noqa: PLC0415
    from tta_daemon.control.toml import written  # noqa: PLC0415

    with refusals():
        found = changes(loaded(old), loaded(new))
    for change in found:
        typer.echo(f"{change.reach:8} {change.path} = {written(change.old)} -> {written(change.new)}")
    if not found:
        typer.echo("nothing would change")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: tta-daemon config schema > tta-daemon.schema.json
    """
    from tta_daemon.control import reference  # noqa: PLC0415 - torch comes with it

    typer.echo(json.dumps(reference.schema(), indent=2))


def loaded(path: Path) -> "Config":
    """The configuration of a file and of this process's environment."""
    from tta_daemon.control.config import load  # noqa: PLC0415 - torch comes with it

    return load(path, os.environ)


@contextmanager
def refusals() -> Iterator[None]:
    """A refused configuration is printed, fault by fault, and ends the command with 78."""
    try:
        yield
    except ConfigError as error:
        from tta_daemon.control.faults import faults_of  # noqa: PLC0415

        for fault in faults_of(error):
            typer.echo(str(fault), err=True)
        raise typer.Exit(CONFIG_ERROR) from error
