"""sound_mini: sounds generated on this machine and read like AudioSet."""

from typing import Any

from speechexp.corpora.audioset import AudioSet
from speechexp.corpora.sound_corpus import SoundRecipe, make_sound_corpus
from speechexp.errors import UserError
from speechexp.prepare import Progress, writing
from speechexp.tagging import AudioTagging


class SoundMini(AudioSet):
    """The generated sounds that need no download.

    Args:
        task: Says what labels mean.
        train_clips: How many training clips; broken ones come on top.
        validation_clips: The same for validation: other draws of each sound, other voices.
        test_clips: The same for the test.
        corpus_seed: Of sounds and mixtures.
        loading: What every data set has: see `speechexp.data.AudioData`.
    """

    def __init__(
        self,
        task: AudioTagging,
        train_clips: int = 1600,
        validation_clips: int = 240,
        test_clips: int = 400,
        corpus_seed: int = 1,
        **loading: Any,
    ) -> None:
        super().__init__(task, config="mini", **loading)
        try:
            self.recipe = SoundRecipe(train_clips, validation_clips, test_clips, corpus_seed)
        except ValueError as error:
            raise UserError(f"data=sound_mini: {error}") from None

    def describe(self) -> str:
        """Say where the audio comes from."""
        return "generated sounds"

    def open_source(self, progress: Progress) -> tuple[str, int | None]:
        """Generate the corpus, unless that is done."""
        try:
            with writing(self.cache_dir):
                self.path = make_sound_corpus(
                    self.recipe, self.cache_dir, lambda done, total: progress("sounding", done, total)
                )
        except (ImportError, ValueError) as error:
            raise UserError(f"data=sound_mini: {error}") from error
        _, total = super().open_source(progress)
        # The recipe decides the content: a corpus that was deleted and made again is the same one.
        return f"sound_mini|{self.recipe.digest()}", total
