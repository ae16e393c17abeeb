"""What `pyllm.patch` did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class PatchReport:
    """What was replaced and what was left, in the order it was found; `print` it.

    Attributes:
        model: class of the model that was patched, or which later models will be.
        replaced: kind ("attention", "rms_norm", "rope", "swiglu", "experts", "loss", "linear", "quantized") ->
            names of what was replaced: modules as in `named_modules()`, functions with their module.
        left: what stayed as it was -> why.
        classes: kind -> how many of which class.
        patched_before: something was found patched by an earlier call.
    """

    model: str
    replaced: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    patched_before: bool = False

    def add(self, kind: str, name: str, what: str) -> None:
        """Notes that `name`, a `what`, was replaced."""
        self.replaced.setdefault(kind, []).append(name)
        self.classes.setdefault(kind, Counter())[what] += 1

    def leave(self, name: str, why: str) -> None:
        """Notes that `name` was left."""
        self.left[name] = why

    def __str__(self) -> str:
        lines = [f"pyllm.patch({self.model})"]
        for kind, counts in self.classes.items():
            found = ", ".join(f"{count} x {what}" if count > 1 else what for what, count in counts.items())
            lines.append(f"  {kind:<10} {found}")
        if not self.replaced:
            lines.append(
                f"  nothing was replaced{': what can be was already patched' if self.patched_before else ''}"
            )
        lines += [f"  left       {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)
