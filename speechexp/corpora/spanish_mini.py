"""spanish_mini: Spanish spoken by espeak-ng, generated on this machine and read like FLEURS."""

from typing import Any

from speechexp.corpora.fleurs import Fleurs
from speechexp.corpora.spanish_corpus import Recipe, make_corpus
from speechexp.errors import UserError
from speechexp.prepare import Progress, writing
from speechexp.recognition import SpeechRecognition


class SpanishMini(Fleurs):
    """The synthetic corpus that needs no download.

    Args:
        task: Says what labels mean.
        train_utterances: How many training utterances; silent and broken clips come on top.
        validation_utterances: The same for validation: unseen sentences, unseen voices.
        test_utterances: The same for the test, in yet other voices.
        corpus_seed: Of sentences, voices, rates and pitches.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    def __init__(
        self,
        task: SpeechRecognition,
        train_utterances: int = 6000,
        validation_utterances: int = 400,
        test_utterances: int = 600,
        corpus_seed: int = 1,
        **loading: Any,
    ) -> None:
        super().__init__(task, config="es_mini", **loading)
        try:
            self.recipe = Recipe(train_utterances, validation_utterances, test_utterances, corpus_seed)
        except ValueError as error:
            raise UserError(f"data=spanish_mini: {error}") from None

    def describe(self) -> str:
        """Say where the audio comes from."""
        return "espeak-ng (synthetic speech)"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Generate the corpus, unless that is done."""
        try:
            with writing(self.cache_dir):
                self.path = make_corpus(
                    self.recipe, self.cache_dir, lambda done, total: progress("speaking", done, total)
                )
        except (ImportError, ValueError) as error:
            raise UserError(f"data=spanish_mini: {error}") from error
        _, total = super().open_source(progress)
        # The recipe decides the content: a corpus that was deleted and made again is the same one.
        return f"spanish_mini|{self.recipe.digest()}", total
