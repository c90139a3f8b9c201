"""From the command line's words to one configuration for each method."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapters import METHODS, unmet
from adapters.options import knobs
from tta_daemon.control.config import Config, load
from tta_daemon.control.environment import DIVIDER, PREFIX
from tta_daemon.control.faults import ConfigRefused, nearest
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed
from tta_daemon.offline.replay.results import SOURCE

ALL = "all"
METHOD, OPTIONS = f"{PREFIX}ADAPT{DIVIDER}METHOD", f"{PREFIX}ADAPT{DIVIDER}OPTIONS"


def configurations(path: Path, methods: str, settings: Sequence[str]) -> dict[str, Config]:
    """A configuration for each method, the frozen model's first, then in the order named.

    Args:
        path: the configuration file.
        methods: names with commas between them; ``all``; or nothing for the file's own method.
        settings: ``section.key=value``; ``METHOD.option=value`` for an option of one method.

    Raises:
        ConfigError: something of this is refused.
    """
    pairs = [_pair(words) for words in settings]
    own = _loaded(path, "", pairs).adapt.method
    names = list(METHODS) if methods == ALL else [name.strip() for name in (methods or own).split(",")]
    for name in names:
        if name not in METHODS:
            raise ConfigError("--method", f"no method is called {name!r}", nearest(name, [*METHODS, ALL]))
    given = dict.fromkeys((SOURCE, *names))
    for key, _ in pairs:
        if (option := key.removeprefix("adapt.options.")) != key and not any(option in _options(n) for n in given):
            raise ConfigError(f"--set {key}", "no method replayed has this option", "METHOD.option=value names one")
    return {name: _loaded(path, name, pairs, own=own) for name in given}


def fitting(configs: Mapping[str, Config], deployed: Deployed, *, strict: bool) -> tuple[dict[str, Config], list[str]]:
    """The methods that can work on the model, and a sentence for each that cannot; those are refused if ``strict``."""
    reasons = {name: unmet(name, deployed.classifier, deployed.prior(name)) for name in configs}
    sentences = [f"{name} was left out: {'; '.join(why)}." for name, why in reasons.items() if why]
    if strict and sentences:
        raise ConfigError("--method", sentences[0], "leave it out, or name all for those that can work")
    return {name: config for name, config in configs.items() if not reasons[name]}, sentences


def _pair(words: str) -> tuple[str, str]:
    key, equals, value = words.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"--set {words}", "this sets nothing", "write section.key=value, such as batch.size=10")
    return key.strip(), value.strip()


def _loaded(path: Path, method: str, pairs: Sequence[tuple[str, str]], own: str = "") -> Config:
    """The file's configuration with other words from the command line; options of the file are its method's only."""
    environ = dict(os.environ)
    if method:
        environ[METHOD] = method
    if method != own:
        environ[OPTIONS] = "{}"
    variables = dict(_variables(method, pairs))
    environ |= {name: value for name, (_, value) in variables.items()}
    try:
        return load(path, environ)
    except ConfigRefused as error:
        origins = {f"${name}": f"--set {key}" for name, (key, _) in variables.items()}
        raise ConfigRefused(replace(f, where=origins.get(f.where, f.where)) for f in error.faults) from error


def _variables(method: str, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Settings as the environment would have them: variable, and what was said and set by it."""
    for key, value in pairs:
        names = key.split(".")
        if names[0] in METHODS:
            if names[0] != method:
                continue
            names = ["adapt", "options", *names[1:]]
        elif names[:2] == ["adapt", "options"] and names[-1] not in _options(method):
            continue
        yield PREFIX + DIVIDER.join(names).upper(), (key, value)


def _options(method: str) -> set[str]:
    return {knob.name for knob in knobs(METHODS[method].options)} if method else set()
