"""AudioSet (Gemmeke et al. 2017): from the hub, or from a local copy in any of its layouts."""

import random
import re
from pathlib import Path
from typing import Any

from speechexp.corpora.hub_tables import HubTables, encoded, is_text
from speechexp.errors import UserError
from speechexp.labels import SoundClass, write_labels
from speechexp.manifest import Row
from speechexp.prepare import Progress
from speechexp.tagging import AudioTagging

# The names of AudioSet's own two training sets, by config; any source may call its training split train.
_TRAINING = {
    "balanced": ("bal_train",),
    "unbalanced": ("unbal_train",),
    "full": ("bal_train", "unbal_train"),
}
_MID = re.compile(r"/[a-z]/[^\s()]+")


class AudioSet(HubTables):
    """AudioSet, or any data set with its columns.

    The hub has no validation split: where a source has none, a share of the training clips is drawn for it.

    Args:
        task: Says what labels mean.
        name: The data set's id on the hub.
        config: ``balanced``, ``unbalanced`` or ``full``, which is both.
        revision: A branch, tag or commit of the hub's repository.
        path: A local copy that is used instead of the hub: parquet, or a ``save_to_disk`` folder.
        validation_share: Share of the training clips drawn for validation where the source has none.
        split_seed: Of that draw; it depends on a clip's ``video_id`` alone, so other clips never move it.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    title = "AudioSet"
    stand_in = "data=sound_mini"
    layouts = (
        "data/{split}/*.parquet",  # the hub's
        "{config}/{split}/*.parquet",  # the hub's branch refs/convert/parquet
        "{split}/*.parquet",
        "data/{split}-*.parquet",
        "{split}-*.parquet",
    )

    def __init__(
        self,
        task: AudioTagging,
        name: str = "agkphysics/AudioSet",
        config: str = "balanced",
        revision: str | None = None,
        path: str | None = None,
        validation_share: float = 0.05,
        split_seed: int = 1,
        **loading: Any,
    ) -> None:
        super().__init__(task, name, config, revision, path, **loading)
        self.validation_share = validation_share
        self.split_seed = split_seed
        self._draws = False

    def sources(self, split: str) -> tuple[str, ...]:
        """Return by which names a split may go in the source."""
        if split == "train":
            return ("train", *_TRAINING.get(self.config, ()))
        return ("test", "eval") if split == "test" else (split,)

    def describe(self) -> str:
        """Say where the audio comes from, and a drawn validation split."""
        drawn = f", {self.validation_share:.3g} of train drawn for validation" if self._draws else ""
        return f"{self.path or self.hub_id} ({self.config}{drawn})"

    def split_hint(self) -> str:
        """Say where splits come from."""
        return (
            f" With data.config={self.config}, training clips are in {' and '.join(self.sources('train'))}, test "
            "clips in test or eval; without a split validation they are drawn from train: see "
            f"data.validation_share={self.validation_share}."
        )

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Find the local files, or download from the hub."""
        if not 0 <= self.validation_share < 1:
            raise UserError(
                f"data.validation_share={self.validation_share} must be a share of the training clips, such as 0.05."
            )
        self._draws = False
        return super().open_source(progress)

    def opened(self) -> None:
        """Find out whether validation is drawn.

        Raises:
            UserError: One of the two training sets of ``full`` is there, and not the other.
        """
        there = {name: self.has_source(name) for name in _TRAINING["full"]}
        if self.config == "full" and len(set(there.values())) > 1:
            found, missing = sorted(there, key=lambda name: not there[name])
            raise UserError(
                f"data.config=full takes bal_train and unbal_train, but {self.describe()} has no {missing}. "
                f"Add it, or set data.config={'balanced' if found == 'bal_train' else 'unbalanced'}."
            )
        drawn_from = any(map(self.has_source, self.sources("train"))) and self.validation_share > 0
        self._draws = drawn_from and not self.has_source("validation")

    def reading(self) -> str:
        """Return how labels are read, and how validation is drawn if it is."""
        return f"labels|{self.validation_share}|{self.split_seed}" if self._draws else "labels"

    def read_columns(self) -> set[str]:
        """Return the columns that rows are made of."""
        return {"video_id", "audio", "labels", "human_labels"}

    def row(self, record: dict[str, Any], split: str) -> Row:
        """Make a row of a record."""
        clip_id = str(record["video_id"])
        if self._draws and split == "train":
            draw = random.Random(f"{self.split_seed}|{clip_id}").random()
            split = "validation" if draw < self.validation_share else "train"
        labels = [(label or "").strip() for label in record["labels"] or []]
        if "human_labels" in record:
            names = [(name or "").strip() for name in record["human_labels"] or []]
        else:
            labels = names = [label for label in labels if label]
        if len(labels) != len(names) or not all(names):
            raise UserError(
                f"{self.path or self.hub_id}, the clip {clip_id}: human_labels must name each of labels, but labels "
                f"is {_shortened(labels)} and human_labels {_shortened(names)}. Mend it, or leave out the whole "
                "column human_labels."
            )
        classes = [
            SoundClass(name, label if _MID.fullmatch(label) else "")
            for label, name in zip(labels, names, strict=True)
        ]
        return Row(clip_id, split, encoded(record.get("audio"))[0], write_labels(classes))

    def check_columns(self, schema: Any, where: str) -> None:
        """Raise unless an Arrow schema has AudioSet's columns, of its types; names may be missing."""
        import pyarrow.types as types

        self.require_columns(schema, where, "video_id", "audio", "labels")
        kind = schema.field("video_id").type
        if not is_text(kind) and not types.is_integer(kind):
            raise UserError(f"{where}: its column video_id must be text, but is {kind}.")
        for column, example in (("labels", "/m/09x0r"), ("human_labels", "Speech")):
            if column in schema.names and not _is_texts(schema.field(column).type):
                raise UserError(
                    f'{where}: its column {column} must be a list of texts, such as ["{example}"], '
                    f"but is {schema.field(column).type}."
                )
        self.require_audio(schema, where)

    def nothing_in(self, path: Path) -> str:
        """Say that a folder holds none of the layouts; of the hub's older one, what to fetch."""
        tars = sorted(path.rglob("*.tar*"))
        if tars and not any(path.rglob("*.parquet")):
            return (
                f"data.path={path} holds {tars[0].relative_to(path)}: AudioSet as it was uploaded before, as tar "
                f"files, which are not read. Fetch today's parquet files: hf download {self.hub_id} --repo-type "
                "dataset --include 'data/bal_train/*.parquet' 'data/eval/*.parquet' --local-dir DIR."
            )
        return super().nothing_in(path)


def _is_texts(kind: Any) -> bool:
    """Tell whether an Arrow type is a list of texts, or has no value that isn't null."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return is_text(kind.value_type)
    return bool(types.is_null(kind))


def _shortened(labels: list[str]) -> str:
    text = str(labels)
    return text if len(text) <= 80 else f"{text[:79]}…"
