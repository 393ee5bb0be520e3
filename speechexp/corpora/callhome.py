"""CallHome as diarization has it, telephone calls: from the hub, or from a local copy in any of its layouts."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechexp.audio import measure
from speechexp.corpora.hub_tables import HubTables, encoded, is_text
from speechexp.corpora.turn_rows import Channels, TurnRows
from speechexp.diarization import Diarization
from speechexp.errors import UserError
from speechexp.gated import Page
from speechexp.manifest import Row
from speechexp.prepare import Progress
from speechexp.rttm import Faults, Placed
from speechexp.turns import Turn

_LISTS = ("timestamps_start", "timestamps_end", "speakers")


class CallHome(HubTables):
    """CallHome (``talkbank/callhome``), or any data set with its columns.

    The hub has one split, ``data``: training, validation and test are drawn from it, call by call. A source with a
    split ``validation`` or ``test`` is taken as it is.

    Args:
        task: Says what references mean.
        name: The data set's id on the hub.
        config: The language: ``spa``, ``eng``, ``deu``, ``jpn`` or ``zho``.
        revision: A branch, tag or commit of the hub's repository.
        path: A local copy that is used instead of the hub: parquet, or a ``save_to_disk`` folder.
        validation_share: Share of the calls drawn for validation where the source has one split.
        test_share: The same for the test; 1 scores all calls.
        split_seed: Of that draw; it depends on a call's id alone, so other calls never move it.
        last_seconds: Take this much from the end of each call alone; None takes all of it.
        faults: What is done about turns that can't be as they are: see `TurnRows`.
        channels: Of stereo calls: see `TurnRows`; a table does not say which channel a turn is on.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    title = "CallHome"
    stand_in = "data=conversation_mini"
    batch_rows = 1  # calls are long
    layouts = (
        "{config}/{split}-*.parquet",  # the hub's
        "{config}/{split}/*.parquet",  # the hub's branch refs/convert/parquet
        "data/{split}-*.parquet",
        "{split}-*.parquet",
        "{split}/*.parquet",
    )

    def __init__(
        self,
        task: Diarization,
        name: str = "talkbank/callhome",
        config: str = "spa",
        revision: str | None = None,
        path: str | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.25,
        split_seed: int = 1,
        last_seconds: float | None = None,
        faults: Faults = "mend",
        channels: Channels = "mix",
        **loading: Any,
    ) -> None:
        super().__init__(task, name, config, revision, path, **loading)
        self.validation_share = validation_share
        self.test_share = test_share
        self.split_seed = split_seed
        self.turn_rows = TurnRows(last_seconds, faults, channels)
        self._draws = False
        self._number = 0

    def gated_pages(self) -> list[Page]:
        """Return the pages of the hub whose conditions must be accepted."""
        return [] if self.path is not None else [Page("dataset", self.hub_id)]

    def sources(self, split: str) -> tuple[str, ...]:
        """Return by which names a split may go in the source."""
        return ("train", "data") if split == "train" else (split,)

    def describe(self) -> str:
        """Say where the audio comes from, and how splits are drawn."""
        drawn = ""
        if self._draws:
            drawn = f", drawn: {self.validation_share:.3g} validation, {self.test_share:.3g} test"
        return f"{self.path or self.hub_id} ({self.config}{drawn}{self.turn_rows.described})"

    def split_hint(self) -> str:
        """Say where splits come from."""
        return (
            " Splits are the source's, or drawn where it has neither validation nor test: see "
            f"data.validation_share={self.validation_share} and data.test_share={self.test_share}."
        )

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Find the local files, or download from the hub.

        Raises:
            UserError: The source is not there or not as it should be, or a setting does not fit.
        """
        shares = self.validation_share, self.test_share
        if min(shares) < 0 or sum(shares) > 1:
            raise UserError(
                f"data.validation_share={shares[0]} and data.test_share={shares[1]} must be shares of all calls, "
                "together at most 1: 0.15 and 0.25, or 0 and 1 to score them all."
            )
        if self.turn_rows.channels == "separate":
            raise UserError(
                "data.channels=separate needs to know which channel each turn is on, which the table of "
                f"{self.title} does not tell. Set data.channels=mix, or give recordings with RTTM files, whose "
                "third field is the channel: data=audio_folder data.path=DIR."
            )
        self._draws = False
        return super().open_source(progress)

    def opened(self) -> None:
        """Find out whether splits are drawn."""
        self._draws = not any(map(self.has_source, ("validation", "test")))

    def reading(self) -> str:
        """Return what decides references, and how splits are drawn if they are."""
        drawn = f"|{self.validation_share}|{self.test_share}|{self.split_seed}" if self._draws else ""
        return f"turns|{self.turn_rows.key}{drawn}"

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Give the rows from the ``start``-th on; at the end, say what was mended."""
        self._number = 0
        self.turn_rows.forget()
        yield from super().rows(start)
        self.turn_rows.tell(self.describe())

    def read_columns(self) -> set[str]:
        """Return the columns that rows are made of."""
        return {"audio", *_LISTS}

    def row(self, record: dict[str, Any], split: str) -> Row:
        """Make a row of a record."""
        content, name = encoded(record.get("audio"))
        call = Path(name).stem or f"{self._number:05d}"
        self._number += 1
        if self._draws:
            draw = random.Random(f"{self.split_seed}|{call}").random()
            train = 1 - self.validation_share - self.test_share
            split = "train" if draw < train else "validation" if draw < 1 - self.test_share else "test"
        where = f"{self.path or self.hub_id}, the call {call}"
        extent = measure(content) if content else None
        row = self.turn_rows.row(call, split, content, extent, placed_turns(record, where))
        self.turn_rows.check()
        return row

    def check_columns(self, schema: Any, where: str) -> None:
        """Raise unless an Arrow schema has CallHome's columns, of its types."""
        import pyarrow.types as types

        self.require_columns(schema, where, "audio", *_LISTS)
        for column in _LISTS:
            kind = schema.field(column).type
            of = getattr(kind, "value_type", None)
            texts = column == "speakers"
            if of is None or not (
                is_text(of) if texts else types.is_floating(of) or types.is_integer(of) or types.is_null(of)
            ):
                expected = 'texts, such as ["A", "B"]' if texts else "seconds, such as [0.5, 2.25]"
                raise UserError(f"{where}: its column {column} must be a list of {expected}, but is {kind}.")
        self.require_audio(schema, where)


def placed_turns(record: dict[str, Any], where: str) -> list[Placed]:
    """Make turns of a call's three lists.

    Raises:
        UserError: They are not of one length, or a time is missing.
    """
    starts, ends, speakers = (record[column] or [] for column in _LISTS)
    if not len(starts) == len(ends) == len(speakers):
        raise UserError(
            f"{where}: timestamps_start, timestamps_end and speakers must be as long as one another, but have "
            f"{len(starts)}, {len(ends)} and {len(speakers)} values. Mend the call, or take it out."
        )
    turns = []
    for number, (start, end, speaker) in enumerate(zip(starts, ends, speakers, strict=True), 1):
        if not speaker or not all(time is not None and math.isfinite(time) for time in (start, end)):
            raise UserError(
                f"{where}: turn {number} must have a start, an end and a speaker, but has {start}, {end} and "
                f"{speaker!r}. Mend the call, or take it out."
            )
        turns.append(Placed(Turn(start, end, speaker), f"{where}, turn {number}"))
    return turns
