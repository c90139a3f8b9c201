"""TOML, written: the half that the standard library lacks."""

import json
from collections.abc import Mapping


def written(value: object) -> str:
    r"""One value as TOML.

    >>> print(written({"a": [1, 2.5, True], "b": 'say "x"'}))
    { a = [1, 2.5, true], b = "say \"x\"" }
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key_of(name)} = {written(v)}" for name, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return written(str(value))


def key_of(name: str) -> str:
    """A name as a TOML key, in quotes where it needs them."""
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else written(name)


def document(tables: Mapping[str, object], prefix: str = "") -> str:
    """A whole file: plain settings of a table first, then its tables."""
    plain = {name: value for name, value in tables.items() if not isinstance(value, Mapping)}
    lines = [f"{key_of(name)} = {written(value)}" for name, value in plain.items()]
    blocks = ["\n".join([f"[{prefix.removesuffix('.')}]", *lines])] if prefix else ["\n".join(lines)] if lines else []
    blocks += [
        document(value, f"{prefix}{key_of(name)}.") for name, value in tables.items() if isinstance(value, Mapping)
    ]
    return "\n\n".join(blocks)
