"""Sound classes: how a label is written, in sources, in the cache and in checkpoints."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_WITH_MID = re.compile(r"(?P<name>.+) \((?P<mid>/[a-z]/[^\s()]+)\)")


@dataclass(frozen=True, order=True)
class SoundClass:
    """A class of sounds.

    Attributes:
        name: For people, such as ``Speech``.
        mid: AudioSet's id of it, such as ``/m/09x0r``; empty where the source has none.
    """

    name: str
    mid: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.mid})" if self.mid else self.name

    @classmethod
    def parse(cls, text: str) -> "SoundClass":
        """Read what ``str`` has written."""
        found = _WITH_MID.fullmatch(text)
        return cls(found["name"], found["mid"]) if found else cls(text)


def write_labels(classes: Iterable[SoundClass]) -> str:
    """Return the reference of a clip with these classes: a JSON list, sorted, each once."""
    return json.dumps(sorted({str(each) for each in classes}), ensure_ascii=False)


def read_labels(reference: str) -> list[SoundClass]:
    """Return the classes of a reference that `write_labels` has written."""
    return [SoundClass.parse(text) for text in json.loads(reference)]
