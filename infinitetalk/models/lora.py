"""LoRA files, merged into weights while these are loaded.

This is code of our own because diffusers' converter of Wan LoRAs leaves out `.diff` entries of norms and convolutions.
None may be lost: each entry of a file changes a weight or is named in an error.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from infinitetalk.errors import ModelMissing
from infinitetalk.models.checkpoint import Checkpoint, listed

_PREFIX = re.compile(r"^(diffusion_model|transformer|base_model\.model|model\.diffusion_model|pipe\.dit)\.")
# musubi-tuner and kohya-ss write lora_unet_<module>, VideoX-Fun lora_unet__<module>, LyCORIS lycoris_<module>, all with
# underscores for the dots of the module's name.
_FLAT = re.compile(r"^(?:lora_unet__?|lycoris_)(?P<module>[^.]+)\.")
_ENTRY = re.compile(
    r"^(?P<module>.+?)\.(?P<kind>lora_down|lora_up|lora_A|lora_B|diff_b|diff_m|diff|alpha)(\.default)?(\.weight)?$"
)
_KINDS = {"lora_A": "lora_down", "lora_B": "lora_up"}
# Parts of entries that tell methods which are no product of two matrices, and so cannot be merged as one.
_OTHER_METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "lora_mid": "LoCon with a core tensor",
}
_PARAMETERS = {"diff_b": "bias", "diff_m": "modulation"}  # of the module; any other kind changes the weight


logger = logging.getLogger(__name__)


@dataclass
class _Change:
    """What one LoRA adds to one weight: scale * (up @ down * alpha / rank + diff)."""

    scale: float
    source: Checkpoint
    down: str | None = None
    up: str | None = None
    alpha: str | None = None
    diff: str | None = None

    @property
    def incomplete(self) -> str | None:
        """An entry that lacks its counterpart."""
        if bool(self.down) != bool(self.up) or (self.alpha and not self.down):
            return next(filter(None, (self.down, self.up, self.alpha)))
        return None

    def take(self, slot: str, entry: str) -> str | None:
        """Take an entry; give the other one that is there already for the same."""
        there: str | None = getattr(self, slot)
        setattr(self, slot, entry)
        return there if there != entry else None

    @property
    def no_matrices(self) -> list[str]:
        """Entries of a pair that are no matrices, or empty ones."""
        pair = [entry for entry in (self.down, self.up) if entry]
        return [entry for entry in pair if len(self.source.shapes[entry]) < 2 or 0 in self.source.shapes[entry]]

    def delta(self, shape: torch.Size, device: torch.device) -> Tensor:
        total = torch.zeros(shape, device=device)
        if self.down and self.up:
            down, up = (self._read(name, device).flatten(1) for name in (self.down, self.up))
            rank = down.shape[0]
            strength = self.source.read(self.alpha).item() / rank if self.alpha else 1.0
            total += (up @ down).view(shape) * strength
        if self.diff:
            total += self._read(self.diff, device).view(shape)
        return total * self.scale

    def _read(self, name: str, device: torch.device) -> Tensor:
        return self.source.decode(name, self.source.read(name, device).to(device)).float()


def _check_method(path: Path, source: Checkpoint) -> None:
    """Raise ModelMissing for a file of another method than LoRA."""
    for entry in source.shapes:
        for part, method in _OTHER_METHODS.items():
            if part in entry:
                raise ModelMissing(
                    f"{path.name} is a {method} ({entry}), which is not merged here; take a plain LoRA, with "
                    "lora_down and lora_up."
                )


@dataclass
class LoraSet:
    """All LoRAs of a model, by the name of the weight that they change."""

    changes: dict[str, list[_Change]] = field(default_factory=dict)

    def add(
        self,
        path: Path,
        scale: float,
        rename: Callable[[str], list[str]],
        known: Collection[str],
        modules: Iterable[str] = (),
    ) -> None:
        """Add a LoRA file.

        Args:
            path: entries `<module>.lora_down.weight` / `.lora_up.weight` (or `lora_A` / `lora_B`), `.alpha`,
                `.diff` (added to the weight), `.diff_b` (to the bias) and `.diff_m` (to the modulation table), with
                or without a prefix such as `diffusion_model.`, or with underscores for dots after `lora_unet_`.
            scale: strength of the whole file.
            rename: the model's names of a weight, from its name in the file.
            known: the model's weights.
            modules: all names that a module may have in a file, from which underscored ones are told.

        Raises:
            ModelMissing: an entry is of an unknown kind, changes an unknown weight, lacks its counterpart, says what
                another one says, or is no matrix where one is due; or there is no entry at all.
        """
        source, dotted = Checkpoint([path]), _by_underscores(modules)
        _check_method(path, source)
        found: dict[str, _Change] = {}
        unknown: list[str] = []
        for entry in source.shapes:
            match = _ENTRY.match(_with_dots(_PREFIX.sub("", entry), dotted))
            if match is None:
                unknown.append(entry)
                continue
            module, kind = match["module"], _KINDS.get(match["kind"], match["kind"])
            parameter = f"{module}.{_PARAMETERS.get(kind, 'weight')}"
            targets = [name for name in rename(parameter) if name in known]
            if not targets and kind == "diff":  # of a parameter without a module of its own: modulation.diff
                targets = [name for name in rename(module) if name in known]
            if not targets:
                unknown.append(entry)
            for target in targets:
                change = found.setdefault(target, _Change(scale, source))
                slot = {"lora_down": "down", "lora_up": "up", "alpha": "alpha"}.get(kind, "diff")
                other = change.take(slot, entry)
                if other:
                    raise ModelMissing(
                        f"{path.name}: {other} and {entry} are two entries for one change of {target}; take a "
                        "file with one of them."
                    )
        unknown += filter(None, (change.incomplete for change in found.values()))
        if unknown:
            raise ModelMissing(f"{path.name}: nothing to apply these entries to: {listed(unknown)}.")
        flat = [entry for change in found.values() for entry in change.no_matrices]
        if flat:
            shapes = [f"{entry} {list(source.shapes[entry])}" for entry in dict.fromkeys(flat)]
            raise ModelMissing(f"{path.name}: these entries should be matrices that are not empty: {listed(shapes)}.")
        if not found:
            raise ModelMissing(f"{path.name} has no entries, so that it changes nothing; take another file or none.")
        for target, change in found.items():
            self.changes.setdefault(target, []).append(change)
        logger.info("LoRA %s, scale %g: changes %d weights", path.name, scale, len(found))

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The weight `name` with all changes, in float32; the weight itself if nothing changes it.

        Raises ModelMissing if a change has another shape.
        """
        changes = self.changes.get(name)
        if not changes:
            return weight
        merged = weight.float()
        for change in changes:
            try:
                merged = merged + change.delta(weight.shape, weight.device)
            except RuntimeError as error:
                raise ModelMissing(
                    f"{change.source.files[0].name}: the change of {name} does not fit its shape {list(weight.shape)}."
                ) from error
        return merged


def _by_underscores(modules: Iterable[str]) -> dict[str, set[str]]:
    """Modules by their names with underscores for dots; more than one where these are the same."""
    flat: dict[str, set[str]] = {}
    for module in modules:
        flat.setdefault(module.replace(".", "_"), set()).add(module)
    return flat


def _with_dots(entry: str, dotted: Mapping[str, set[str]]) -> str:
    """An entry whose module is written with underscores, with dots; as it is where no one module is meant."""
    match = _FLAT.match(entry)
    if match is None or len(dotted.get(match["module"], ())) != 1:
        return entry
    (module,) = dotted[match["module"]]
    return f"{module}.{entry[match.end() :]}"
