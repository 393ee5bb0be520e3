"""FLEURS (Conneau et al. 2022): from the hub, or from a local copy in any of its layouts."""

from pathlib import Path
from typing import Any

from speechexp.corpora.hub_tables import HubTables, encoded, is_text
from speechexp.errors import UserError
from speechexp.manifest import Row
from speechexp.recognition import SpeechRecognition

_GENDERS = ["male", "female", "other"]


class Fleurs(HubTables):
    """FLEURS, or any data set with its columns.

    Args:
        task: Says what labels mean.
        name: The data set's id on the hub.
        config: The language, such as ``es_419``.
        revision: A branch, tag or commit of the hub's repository.
        path: A local copy that is used instead of the hub: parquet, or a ``save_to_disk`` folder.
        text_column: ``transcription`` or ``raw_transcription``.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    title = "FLEURS"
    stand_in = "data=spanish_mini"
    # {config} is the language. The first two are the hub's own, newer and older.
    layouts = (
        "parquet-data/{config}/{split}-*.parquet",
        "{config}/{split}/*.parquet",
        "{config}/{split}-*.parquet",
        "data/{split}-*.parquet",
        "{split}-*.parquet",
        "{split}/*.parquet",
    )

    def __init__(
        self,
        task: SpeechRecognition,
        name: str = "google/fleurs",
        config: str = "es_419",
        revision: str | None = None,
        path: str | None = None,
        text_column: str = "transcription",
        **loading: Any,
    ) -> None:
        super().__init__(task, name, config, revision, path, **loading)
        self.text_column = text_column

    def read_columns(self) -> set[str]:
        """Return the columns that rows are made of."""
        return {"id", "path", "audio", "gender", self.text_column}

    def reading(self) -> str:
        """Return the column of the transcript."""
        return self.text_column

    def row(self, record: dict[str, Any], split: str) -> Row:
        """Make a row of a record."""
        content, name = encoded(record.get("audio"))
        stem = Path(str(record.get("path") or name)).stem or str(record["id"])
        clip_id = f"{record['id']}-{stem}" if stem != str(record["id"]) else stem
        attributes = {"gender": _gender(record["gender"])} if record.get("gender") is not None else {}
        return Row(clip_id, split, content, record[self.text_column] or "", attributes)

    def check_columns(self, schema: Any, where: str) -> None:
        """Raise unless an Arrow schema has FLEURS's columns, of its types."""
        self.require_columns(schema, where, "id", "audio")
        if self.text_column not in schema.names:
            raise UserError(
                f"{where} has no column {self.text_column!r}. data.text_column must be a column; "
                f"there is: {', '.join(schema.names)}."
            )
        text = schema.field(self.text_column).type
        if not is_text(text):
            texts = ", ".join(field.name for field in schema if is_text(field.type))
            raise UserError(
                f"data.text_column={self.text_column} must be a column of text, but is {text} in {where}. "
                f"There is: {texts}."
            )
        self.require_audio(schema, where)


def _gender(value: int | float | str) -> str:
    """Return FLEURS's class label as a word."""
    return _GENDERS[int(value)] if value in (0, 1, 2) else str(value)
