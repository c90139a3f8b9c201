"""The prior: one safetensors file with all that is known of the source, made by `tta-daemon prepare`.

Its manifest is one text in the file's metadata, so that the same knowledge is the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from adapters import METHODS
from adapters.parts.norms import Statistics
from tta_daemon.errors import ConfigError
from tta_daemon.watch.drift.null import Null
from tta_daemon.watch.drift.profile import Profile
from tta_daemon.watch.estimates import Calibration
from tta_daemon.watch.lines import Line

FORMAT = 1
MANIFEST = "manifest"
REMEDY = "make it anew with `tta-daemon prepare`"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a prior was made from, and how. A prior of another model is refused."""

    model: str
    data: str
    images: int
    classes: int
    labeled: bool
    held_out: bool
    method: str
    batch: int
    window: int
    seed: int
    command: str
    versions: Mapping[str, str]
    format: int = FORMAT

    @property
    def block(self) -> int:
        """Images that are scored together: a batch, or a sixteenth of the window where that is more."""
        return max(self.batch, self.window // 16)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the source.

    Attributes:
        manifest: where it comes from.
        profile: what the source looks like, class by class.
        null: what scores of drift chance gives.
        calibration: what estimates of accuracy rest on.
        canary: labeled source images, uint8 M x 3 x H x W, and their labels, M; none without labels.
        priors: of methods that have one, by name.
        folded: mean and variance of what convolutions give that a norm was folded into, by name.
        digest: of the file that it was read from.
    """

    manifest: Manifest
    profile: Profile
    null: Null
    calibration: Calibration
    canary: tuple[Tensor, Tensor] | None = None
    priors: Mapping[str, Any] = field(default_factory=dict)
    folded: Mapping[str, Statistics] = field(default_factory=dict)
    digest: str = ""


def to_bytes(knowledge: Knowledge) -> bytes:
    """The file. The same knowledge gives the same bytes."""
    tensors = {f"profile/{name}": t for name, t in _flat(knowledge.profile).items()}
    tensors |= {f"null/{name}": t for name, t in _flat(knowledge.null).items()}
    tensors |= {f"calibration/{name}": t for name, t in _flat(knowledge.calibration).items()}
    for line_name, line in knowledge.calibration.lines.items():
        tensors |= {f"lines/{line_name}/{name}": t for name, t in _flat(line).items()}
    if knowledge.canary is not None:
        tensors |= {"canary/images": knowledge.canary[0], "canary/labels": knowledge.canary[1]}
    for method, prior in knowledge.priors.items():
        tensors |= {f"methods/{method}/{name}": t for name, t in _flat(prior).items()}
    for layer, (mean, var) in knowledge.folded.items():
        tensors |= {f"folded/{layer}/mean": mean, f"folded/{layer}/var": var}
    manifest = json.dumps(asdict(knowledge.manifest), sort_keys=True, indent=1)
    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(ordered, {MANIFEST: manifest})


def load(path: Path, model: str, setting: str = "model.prior") -> Knowledge:
    """The knowledge in a file, if it is of the model with this digest.

    Raises:
        ConfigError: naming ``setting``: the file cannot be read, is no prior, or is of another model.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(MANIFEST)
        tensors, digest = load_file(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except FileNotFoundError as fault:
        raise ConfigError(setting, f"{path} does not exist", REMEDY) from fault
    except (OSError, safetensors.SafetensorError) as fault:
        raise ConfigError(setting, f"{path} cannot be read: {fault}", REMEDY) from fault
    if text is None:
        raise ConfigError(setting, f"{path} has no manifest, so it is no prior", REMEDY)
    manifest = _manifest(text, path, setting)
    if manifest.model != model:
        message = f"{path} is of the model {manifest.model[:12]}, but the deployed one is {model[:12]}"
        raise ConfigError(setting, message, REMEDY)
    try:
        return replace(_from_tensors(manifest, tensors), digest=digest)
    except (KeyError, TypeError, ValueError) as fault:
        raise ConfigError(setting, f"{path} is incomplete: {fault}", REMEDY) from fault


def _manifest(text: str, path: Path, setting: str) -> Manifest:
    try:
        manifest = Manifest(**json.loads(text))
    except (TypeError, ValueError) as fault:
        raise ConfigError(setting, f"{path} has a manifest that makes no sense: {fault}", REMEDY) from fault
    if manifest.format != FORMAT:
        raise ConfigError(setting, f"{path} is of format {manifest.format}, not {FORMAT}", REMEDY)
    return manifest


def _from_tensors(manifest: Manifest, tensors: Mapping[str, Tensor]) -> Knowledge:
    def under(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    names = sorted({name.rsplit("/", 1)[0] for name in under("lines/")})
    lines = {name: Line(**_numbers(Line, under(f"lines/{name}/"))) for name in names}
    calibration = _numbers(Calibration, under("calibration/"))
    methods = sorted({name.split("/")[0] for name in under("methods/")})
    priors = {}
    for method in methods:
        kind = METHODS[method].prior
        if kind is not None:
            priors[method] = kind(**under(f"methods/{method}/"))
    held = under("folded/")
    layers = dict.fromkeys(name.rsplit("/", 1)[0] for name in held)
    folded = {layer: (held[f"{layer}/mean"], held[f"{layer}/var"]) for layer in layers}
    canary = (tensors["canary/images"], tensors["canary/labels"]) if "canary/images" in tensors else None
    return Knowledge(
        manifest,
        Profile(**under("profile/")),
        Null(**_numbers(Null, under("null/"))),
        Calibration(**calibration, lines=lines),
        canary,
        priors,
        folded,
    )


def _flat(value: Any) -> dict[str, Tensor]:  # noqa: ANN401 - any dataclass of tensors and numbers
    """The fields of a dataclass that are tensors or numbers, as tensors."""
    found = {}
    for f in fields(value):
        inner = getattr(value, f.name)
        if isinstance(inner, Tensor):
            found[f.name] = inner
        elif isinstance(inner, int | float):
            found[f.name] = torch.tensor(inner, dtype=torch.int64 if isinstance(inner, int) else torch.float64)
    return found


def _numbers(kind: type, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Scalars back as plain numbers where the dataclass wants such."""
    plain = {f.name for f in fields(kind) if f.type in (float, int)}
    return {name: tensor.item() if name in plain else tensor for name, tensor in tensors.items()}
