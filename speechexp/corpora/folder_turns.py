"""Turns of a user's own recordings: RTTM and UEM files beside them, or one for many."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from speechexp.audio import AUDIO_SUFFIXES, measure
from speechexp.corpora.folder_labels import recordings_in
from speechexp.corpora.turn_rows import Stretch, TurnRows
from speechexp.errors import UserError, did_you_mean
from speechexp.manifest import Row
from speechexp.prepare import Progress
from speechexp.rttm import UNKNOWN_FILE, Fault, RttmTurn, read_rttm, read_uem, rttm_name

T = TypeVar("T")
_SHOWN = 5


@dataclass(frozen=True)
class _Given(Generic[T]):
    """What the RTTM or UEM files of a folder give a recording, and the file it is from."""

    file: Path
    values: Sequence[T]


class FolderTurns:
    """Reads a folder of recordings with RTTM files, and UEM files if there are.

    They may lie anywhere within: ``x.wav`` and ``x.rttm``, ``rttm/x.rttm``, or one RTTM file for many recordings. A
    file speaks of the recordings in its own folder and below; where there are none, of those in the next folder above
    that has some. In it, a recording goes by its name without the suffix, to which its folders may be added: ``x``,
    ``train/x``. An RTTM file with nothing in it, named as its recording, says that nobody speaks there.

    Args:
        path: The folder.
        splits: Each name that a split's folder may have, and which split it is.
        draw: Gives the split of a recording by its path within the folder, where no folder says that.
        rows: Makes the rows.
    """

    def __init__(
        self, path: Path, splits: Mapping[str, str], draw: Callable[[str], str], rows: TurnRows
    ) -> None:
        self.path = path.absolute()
        self.splits = splits
        self.draw = draw
        self.turn_rows = rows
        self._unknown: list[Fault] = []

    def read(self, progress: Progress) -> list[Row]:
        """Return all rows; say what was mended.

        Args:
            progress: Told how many recordings were looked at.

        Raises:
            UserError: There is nothing to read, a recording has no turns or those of two files, or there are faults
                and they are refused.
        """
        audio = sorted(recordings_in(self.path))
        if not audio:
            raise UserError(
                f"data.path={self.path} holds no recording: no file there ends in "
                f"{', '.join(sorted(AUDIO_SUFFIXES))}."
            )
        self._unknown = []
        split_of = self._splits(audio)
        turns = self._given(audio, "rttm", read_rttm)
        scored = self._given(audio, "uem", read_uem)
        self._require_turns(audio, turns)
        self.turn_rows.forget()
        rows: list[Row] = []
        for number, file in enumerate(audio, 1):
            progress("reading", number, len(audio))
            stretches = scored[file].values if file in scored else None
            rows += self._rows_of(file, split_of[file], turns[file].values, stretches)
        self.turn_rows.add(self._unknown)
        self.turn_rows.check()
        self.turn_rows.tell(str(self.path))
        return rows

    # -------------------------------------------------------------------------------------------- rows

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _rows_of(
        self, file: Path, split: str, turns: Sequence[RttmTurn], scored: Sequence[Stretch] | None
    ) -> Iterator[Row]:
        name = PurePosixPath(self._name(file)).with_suffix("").as_posix()
        extent = measure(file)
        if self.turn_rows.channels == "mix" or extent is None or extent.channels == 1:
            yield self.turn_rows.row(name, split, file, extent, turns, scored)
            return
        channels = [str(number + 1) for number in range(extent.channels)]
        for turn in turns:
            if turn.channel not in channels:
                raise UserError(
                    f"{turn.where} must name a channel of {self._name(file)} in its third field, "
                    f"{' or '.join(channels)}, but that is {turn.channel}. Correct it, or set data.channels=mix."
                )
        for channel in channels:
            own = [turn for turn in turns if turn.channel == channel]
            yield self.turn_rows.row(f"{name}/{channel}", split, file, extent, own, scored, int(channel))

    def _splits(self, audio: Sequence[Path]) -> dict[Path, str]:
        folders = {file: file.relative_to(self.path).parts[:-1] for file in audio}
        told = {file: self.splits.get(parts[0].lower()) if parts else None for file, parts in folders.items()}
        other = next((file for file in audio if told[file] is None), None)
        if other is not None and any(told.values()):
            names = sorted({folders[file][0] for file in audio if told[file]})
            raise UserError(
                f"data.path={self.path} has the splits {', '.join(names)}, but {self._name(other)} lies elsewhere. "
                "Move it into one of them."
            )
        return {file: told[file] or self.draw(self._name(file)) for file in audio}

    def _require_turns(self, audio: Sequence[Path], turns: Mapping[Path, _Given[RttmTurn]]) -> None:
        missing = [self._name(file) for file in audio if file not in turns]
        if not missing:
            return
        if self._unknown:  # which is likely why
            self.turn_rows.add(self._unknown)
            self.turn_rows.check()
        example = PurePosixPath(missing[0]).with_suffix(".rttm")
        listed = f"{', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}"
        raise UserError(
            f"data.path={self.path}: {len(missing)} of {len(audio)} recordings have no turns in an RTTM file: "
            f"{listed}. Write them, each into a file such as {example} or all into one; a file with nothing in it "
            "says that nobody speaks."
        )

    # ------------------------------------------------------------------------------------------- files

    def _given(
        self, audio: Sequence[Path], kind: str, read: Callable[[Path], Mapping[str, Sequence[T]]]
    ) -> dict[Path, _Given[T]]:
        """Read the files of a kind, and return what they give each recording.

        Raises:
            UserError: One can't be read, a recording is in several, or a name in one is that of several recordings.
        """
        found: dict[Path, _Given[T]] = {}
        holding = {folder for path in audio for folder in path.parents}
        names: dict[Path, dict[str, list[Path]]] = {}  # by folder
        for file in sorted(recordings_in(self.path, {f".{kind}"})):
            folder = next(each for each in file.parents if each in holding)
            if folder not in names:
                names[folder] = self._names_in(folder, audio)
            by_id = names[folder]
            content = {**read(file)}
            if kind == "rttm" and not content:
                content = {file.stem: []}
            for file_id, values in content.items():
                meant = by_id.get(file_id, [])
                if len(meant) > 1:
                    both = " and ".join(self._name(each) for each in meant[:2])
                    raise UserError(
                        f"{file}: {file_id} is {both}. Write folders too, such as "
                        f"{PurePosixPath(self._name(meant[0])).with_suffix('')}, or give each a name of its own."
                    )
                if not meant:
                    where = getattr(values[0], "where", str(file)) if values else str(file)
                    text = f"no recording is called {file_id}.{did_you_mean(file_id, by_id)}"
                    self._unknown.append(Fault(UNKNOWN_FILE, where, text))
                    continue
                before = found.get(meant[0])
                if before is not None:
                    both = f"twice in {file}" if before.file == file else f"in {before.file} and in {file}"
                    raise UserError(f"{self._name(meant[0])} is {both}. Take it out of one place.")
                found[meant[0]] = _Given(file, values)
        return found

    def _names_in(self, folder: Path, audio: Sequence[Path]) -> dict[str, list[Path]]:
        """Return the recordings in a folder and below, by each name that an RTTM or UEM file there may call them."""
        names: dict[str, list[Path]] = defaultdict(list)
        for path in audio:
            if path.is_relative_to(folder):
                parts = path.relative_to(self.path).with_suffix("").parts
                for depth in range(1, len(parts) + 1):
                    name = "/".join(parts[-depth:])
                    for each in {name, rttm_name(name)}:
                        names[each].append(path)
        return names
