"""What is wrong with a configuration: every fault at once, each with its setting, its place and its remedy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic_core import PydanticCustomError

from tta_daemon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one setting."""

    path: str
    message: str
    remedy: str = ""
    where: str = ""

    def __str__(self) -> str:
        """One line, and the remedy on a second."""
        text = f"{self.path}: {self.message}"
        if self.where:
            text = f"{self.where}: {text}"
        return f"{text}\n    {self.remedy}" if self.remedy else text


class ConfigRefused(ConfigError):  # noqa: N818 - named for what happened
    """A configuration with one fault or more; as a `ConfigError` it speaks for the first."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        first = self.faults[0]
        super().__init__(first.path, first.message, first.remedy)

    def __str__(self) -> str:
        """All faults, one after the other."""
        return "\n".join(map(str, self.faults))


def faults_of(error: ConfigError) -> tuple[Fault, ...]:
    """Every fault that an error speaks of."""
    if isinstance(error, ConfigRefused):
        return error.faults
    return (Fault(error.path, error.message, error.remedy),)


def refusal(faults: Sequence[Fault]) -> PydanticCustomError:
    """Faults in the form in which pydantic collects them with all others."""
    return PydanticCustomError("faults", "{count} refused", {"count": len(faults), "faults": tuple(faults)})


def nearest(name: str, known: Sequence[str]) -> str:
    """Words that lead from a misspelled name to the one meant.

    >>> nearest("bootstrap_server", ["bootstrap_servers", "client_id"])
    'did you mean bootstrap_servers?'
    >>> nearest("colour", ["level", "format"])
    'there are: level, format'
    """
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
