"""conversation_mini: conversations generated on this machine and read like CallHome, and a real one beside them."""

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechexp.audio import measure
from speechexp.corpora.callhome import CallHome
from speechexp.corpora.conversation_corpus import ConversationRecipe, make_conversation_corpus
from speechexp.diarization import Diarization
from speechexp.errors import UserError
from speechexp.gated import Page
from speechexp.manifest import Row
from speechexp.prepare import Progress, writing
from speechexp.rttm import read_rttm
from speechexp.turns import read_reference

RECORDING = "pyannote_sample"


class ConversationMini(CallHome):
    """The generated conversations that need no download, and in the test the real one that pyannote.audio brings.

    Rows tell for breakdowns their ``source`` (mixed or recorded), the number of ``speakers``, and the ``band``
    (telephone or wide).

    Args:
        task: Says what references mean.
        train_conversations: How many to train with; broken ones come on top.
        validation_conversations: The same for validation: other voices.
        test_conversations: The same for the test, in yet other voices.
        conversation_seconds: How long each is.
        corpus_seed: Of voices, turns, rooms and noise.
        recording: Whether the half minute of real speech in pyannote.audio's package is tested, too.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    def __init__(
        self,
        task: Diarization,
        train_conversations: int = 90,
        validation_conversations: int = 10,
        test_conversations: int = 16,
        conversation_seconds: float = 40.0,
        corpus_seed: int = 1,
        recording: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(task, config="mini", **loading)
        try:
            self.recipe = ConversationRecipe(
                train_conversations,
                validation_conversations,
                test_conversations,
                float(conversation_seconds),
                corpus_seed,
            )
        except ValueError as error:
            raise UserError(f"data=conversation_mini: {error}") from None
        self.recording = recording
        self._num_mixed = 0

    def describe(self) -> str:
        """Say where the audio comes from."""
        beside = f", {RECORDING} (real speech)" if self.recording else ""
        return f"generated conversations{beside}{self.turn_rows.described}"

    def gated_pages(self) -> list[Page]:
        """Nothing is fetched."""
        return []

    def split_hint(self) -> str:
        """Splits are always there."""
        return ""

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Generate the corpus, unless that is done, and find the recording.

        Raises:
            UserError: The corpus can't be made, or the recording is not there.
        """
        try:
            with writing(self.cache_dir):
                self.path = make_conversation_corpus(
                    self.recipe, self.cache_dir, lambda done, total: progress("conversing", done, total)
                )
        except (ImportError, ValueError) as error:
            raise UserError(f"data=conversation_mini: {error}") from error
        _, total = super().open_source(progress)
        assert total is not None  # of files
        self._num_mixed = total
        # The recipe decides the content: a corpus that was deleted and made again is the same one.
        key = f"conversation_mini|{self.recipe.digest()}|{self.turn_rows.key}"
        if self.recording:
            key += f"|{_digest(*_recording_files())}"
        return key, total + self.recording

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Give the rows from the ``start``-th on; the real recording is the last."""
        yield from super().rows(start)
        if self.recording and start <= self._num_mixed:
            yield self._real()

    def row(self, record: dict[str, Any], split: str) -> Row:
        """Make a row of a record."""
        row = super().row(record, split)
        return _told(row, "mixed", row.id.rpartition("_")[2])

    def _real(self) -> Row:
        audio, rttm = _recording_files()
        (turns,) = read_rttm(rttm).values()
        return _told(self.turn_rows.row(RECORDING, "test", audio, measure(audio), turns), "recorded", "wide")


def _told(row: Row, source: str, band: str) -> Row:
    """Add the attributes that figures are broken down by."""
    speakers = str(len(read_reference(row.reference).speakers))
    return replace(row, attributes={"source": source, "speakers": speakers, "band": band})


def _recording_files() -> tuple[Path, Path]:
    """Find the audio and the turns that pyannote.audio's package brings, without importing it, which takes seconds.

    Raises:
        UserError: They are not there.
    """
    # The parent is a namespace of a few milliseconds.
    found = importlib.util.find_spec("pyannote.audio") if importlib.util.find_spec("pyannote") else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        files = Path(folder) / "sample" / "sample.wav", Path(folder) / "sample" / "sample.rttm"
        if all(file.is_file() for file in files):
            return files
    raise UserError(
        "data.recording=true needs the sample that pyannote.audio's package brings, which is not there. Install it: "
        "pip install pyannote.audio; or leave the recording out: data.recording=false."
    )


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
