"""Labels of a user's own sounds: from a column of the metadata, or from the names of folders."""

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechexp.audio import AUDIO_SUFFIXES
from speechexp.errors import UserError, did_you_mean
from speechexp.labels import SoundClass, read_labels

_COLUMNS = ("label", "labels")


def label_column(columns: Iterable[str], chosen: str | None, metadata: Path) -> str:
    """Return the column of a metadata file that holds the labels.

    Args:
        columns: Those it has.
        chosen: What ``data.label_column`` says; None for ``label`` or ``labels``, whichever is there.
        metadata: The file, for the message.

    Raises:
        UserError: It is not there, or both are.
    """
    there = list(columns)
    if chosen is not None:
        if chosen not in there:
            raise UserError(
                f"data.label_column={chosen} must be a column of {metadata}.{did_you_mean(chosen, there)}"
            )
        return chosen
    found = [column for column in _COLUMNS if column in there]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{metadata} has a column label and a column labels. Choose one: data.label_column=label or "
            "data.label_column=labels."
        )
    raise UserError(
        f"{metadata} has no column label or labels. Set data.label_column to one of its columns: "
        f"{', '.join(there)}."
    )


def classes_in(cell: Any, column: str, where: str) -> list[SoundClass]:
    """Read a cell's classes; spaces around labels go, and labels with nothing in them.

    In a column named ``label`` a text is one label. In any other it is one, or several separated by ``;``. In both
    it may be a JSON list, and a cell of a list of texts is taken as it is.

    Raises:
        UserError: It is something else.
    """
    labels = _texts_in(cell, column) if isinstance(cell, str) else [] if cell is None else cell
    if not isinstance(labels, list) or not all(isinstance(label, str | None) for label in labels):
        written = repr(cell) if len(repr(cell)) <= 80 else f"{repr(cell)[:79]}…"
        several = (
            f"Several go into the list {json.dumps(['Dog', 'Rain'])}"
            + ("" if column == "label" else ", or are separated by ;: Dog;Rain")
            + "."
        )
        raise UserError(f"{where}: {column} must be a label or a list of labels, but is {written}. {several}")
    return [_class_of(label) for label in labels if label and label.strip()]


def _texts_in(cell: str, column: str) -> Any:
    """Return the labels of a text, or None if it is not one of the forms."""
    text = cell.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    if column != "label":
        return text.split(";")
    return None if ";" in text else [text]


def _class_of(label: str) -> SoundClass:
    return SoundClass.parse(unicodedata.normalize("NFC", " ".join(label.split())))


def check_spellings(references: Iterable[str], path: Path) -> None:
    """Raise where one class seems to be written in several ways, or several classes as one label.

    Args:
        references: Of every clip, as `speechexp.labels.write_labels` writes them.
        path: The folder, for the message.

    Raises:
        UserError: Labels differ by case alone, or in having AudioSet's id or not; or the parts of a label between
            commas or bars are all labels themselves.
    """
    counts: Counter[SoundClass] = Counter()
    for reference, clips in Counter(references).items():
        counts.update(dict.fromkeys(read_labels(reference), clips))
    spellings: dict[str, list[SoundClass]] = defaultdict(list)
    for each in counts:
        spellings[each.name.casefold()].append(each)
    for alike in spellings.values():
        if len(alike) > 1:
            written = ", ".join(f"{str(each)!r} ({_clips(counts[each])})" for each in sorted(alike))
            raise UserError(
                f"data.path={path}: the labels {written} would be classes of their own. Write them in one way."
            )
    for each in counts:
        for mark in ",|":
            parts = [part.strip().casefold() for part in each.name.split(mark)]
            if len(parts) > 1 and all(part in spellings for part in parts):
                raise UserError(
                    f"data.path={path}: the label {each.name!r} ({_clips(counts[each])}) seems to be several, which "
                    "are labels of other clips. Name the column labels, and separate them with a ; instead."
                )


def _clips(count: int) -> str:
    return f"{count} clip{'s' if count != 1 else ''}"


def class_folders(path: Path, splits: Mapping[str, str]) -> Iterator[tuple[Path, SoundClass, str | None]]:
    """Give each recording of a folder of folders, its class, and its split where a folder says that.

    Args:
        path: Holds ``CLASS/*.wav``, or ``train/CLASS/*.wav``, ``test/CLASS/*.wav``.
        splits: Each name that a split's folder may have, and which split it is.

    Raises:
        UserError: There is no recording, or one does not lie in a class's folder.
    """
    files = sorted(recordings_in(path))
    if not files:
        raise UserError(
            f"data.path={path} holds no recording: no file there ends in {', '.join(sorted(AUDIO_SUFFIXES))}."
        )
    by_folders = [(file, file.relative_to(path).parts[:-1]) for file in files]
    of_splits = sorted({folders[0] for _, folders in by_folders if folders and folders[0].lower() in splits})
    layout = f"{{{','.join(of_splits)}}}/CLASS/*.wav" if of_splits else "CLASS/*.wav"
    for file, folders in by_folders:
        split = splits.get(folders[0].lower()) if folders else None
        classes = folders[1:] if split else folders
        if len(classes) != 1 or (of_splits and split is None):
            raise UserError(
                f"data.path={path} has no metadata, so a recording's class is the name of its folder, {layout}"
                f"{' (those are splits)' if of_splits else ''}. {file.relative_to(path)} lies elsewhere. Move it, "
                "or write a metadata.csv with the columns file_name and label."
            )
        yield file, _class_of(classes[0]), split


def recordings_in(path: Path, suffixes: Collection[str] = AUDIO_SUFFIXES) -> Iterator[Path]:
    """Give each audio file in a folder and those below, or those of other suffixes; hidden ones are left out."""
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            hidden = name.startswith(".")  # macOS leaves a ._a.wav beside a.wav
            if not hidden and Path(name).suffix.lower() in suffixes:
                yield Path(folder, name)
