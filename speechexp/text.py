"""Text: normalisers by name, and the characters a network writes with."""

import hashlib
import importlib.metadata
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from speechexp.errors import UserError

NormaliserName = Literal["spanish", "unidecode", "plain"]

# ---------------------------------------------------------------------------------------------- normalisers

_APOSTROPHES = re.compile(r"['’ʼ`´]")
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:[.,\u00a0\u202f]\d{3})+)(?!\d)")
# With plain spaces only from a million on: "2 500" may be two numbers.
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])(?<!\d )([1-9]\d{0,2})((?: \d{3}){2,})(?! ?\d)")
_NUMBER = re.compile(r"(\d+)(?:([.,])(\d+))?(\s*%)?(?:\.?([ºª°]))?")
_LONGEST_NUMBER = 15  # digits; anything longer is an identifier and is read digit by digit
# The characters that the 2024 reference recipe removes, and all digits.
_REFERENCE_REMOVES = re.compile(r"[.,?!;:'\-=@$#<>\[\]_{}|&\\`~*/()+%0-9]")


def _spell_integer(digits: str) -> str:
    from num2words import num2words

    if len(digits) > _LONGEST_NUMBER or (len(digits) > 1 and digits.startswith("0")):
        return " ".join(num2words(int(digit), lang="es") for digit in digits)
    return str(num2words(int(digits), lang="es"))


def _spell_number(match: re.Match[str]) -> str:
    from num2words import num2words

    whole, mark, fraction, percent, ordinal = match.groups()
    if ordinal in ("º", "ª") and mark is None and 0 < int(whole) < 1000:
        spelled = num2words(int(whole), lang="es", to="ordinal")
        if ordinal == "ª":
            spelled = " ".join(re.sub("o$", "a", word) for word in spelled.split())
    else:
        spelled = _spell_integer(whole)
        if fraction is not None:
            spelled += f" {'coma' if mark == ',' else 'punto'} {_spell_integer(fraction)}"
    return f" {spelled}{' por ciento' if percent else ''} "


class _Kept(dict[int, str]):
    """Maps each character to itself if it is kept, to a space otherwise; looked up once for each."""

    def __init__(self, keep_digits: bool) -> None:
        super().__init__()
        self._keep_digits = keep_digits

    def __missing__(self, code: int) -> str:
        c = chr(code)
        kept = (c.isalpha() and c not in "ºª") or (self._keep_digits and c.isdecimal())
        self[code] = c if kept else " "
        return self[code]


_LETTERS, _LETTERS_AND_DIGITS = _Kept(keep_digits=False), _Kept(keep_digits=True)


def _letters_only(text: str, keep_digits: bool = False) -> str:
    """Replace everything but letters (and digits if asked) by a space; collapse spaces."""
    return " ".join(text.translate(_LETTERS_AND_DIGITS if keep_digits else _LETTERS).split())


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", text).lower()
    return _letters_only(_APOSTROPHES.sub("", text), keep_digits=True)


def _spanish(text: str) -> str:
    text = unicodedata.normalize("NFC", text).lower()
    for thousands in (_THOUSANDS, _SPACED_THOUSANDS):
        text = thousands.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _NUMBER.sub(_spell_number, text)
    return _letters_only(_APOSTROPHES.sub("", text))


def _unidecode(text: str) -> str:
    from unidecode import unidecode

    text = _REFERENCE_REMOVES.sub("", unidecode(unicodedata.normalize("NFC", text)).lower())
    return " ".join(text.split())


NORMALISERS: dict[str, Callable[[str], str]] = {"spanish": _spanish, "unidecode": _unidecode, "plain": _plain}
assert set(NORMALISERS) == set(get_args(NormaliserName))


def normalise(text: str, normaliser: NormaliserName) -> str:
    """Bring a transcript to the form that is trained on and scored.

    Args:
        text: Any Unicode text.
        normaliser: ``spanish`` keeps ñ and accents, lower-cases, drops punctuation and spells numbers out
            (``1.000`` and ``1,000`` are a thousand, ``3,5`` is "tres coma cinco", ``10:30`` is "diez treinta");
            ``unidecode`` is what the 2024 reference recipe does: no accents, no ñ, no digits;
            ``plain`` serves any language: lower case, punctuation out, digits left as they are.
    """
    return NORMALISERS[normaliser](text)


def text_version() -> str:
    """Return a hash of what normalises: this file and the packages that it calls."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + unicodedata.unidata_version.encode())
    for package in ("num2words", "unidecode"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------- vocabulary

_BLOCK = 1 << 16  # texts read together


class Texts(Sequence[str]):
    """Normalised texts in an Arrow column: millions of them are looked through without being held in memory.

    Args:
        values: An Arrow ``ChunkedArray`` of strings.
        indices: ``(texts,)`` int64, which of them.
    """

    def __init__(self, values: Any, indices: npt.NDArray[np.int64]) -> None:
        self._values = values
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Texts": ...
    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return Texts(self._values, self._indices[index])
        return str(self._values[int(self._indices[index])].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self._indices), _BLOCK):
            yield from self._values.take(self._indices[start : start + _BLOCK]).to_pylist()


class Vocabulary:
    """The characters a CTC network writes with: the blank, the unknown, the word delimiter, the letters.

    Ids are the positions in ``tokens``. The file format is that of ``vocab.json`` on the hub.

    Args:
        tokens: All tokens by id; starts with ``<pad>`` (the CTC blank), ``<unk>`` and ``|`` (the space).
    """

    BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"

    def __init__(self, tokens: Sequence[str]) -> None:
        if list(tokens[:3]) != [self.BLANK, self.UNKNOWN, self.DELIMITER]:
            raise ValueError(f"a vocabulary must begin with <pad>, <unk>, |, but begins with {tokens[:3]}.")
        self.tokens = list(tokens)
        self.blank_id = 0
        self.unknown_id = 1
        self._ids = {token: i for i, token in enumerate(tokens)}
        self._ids[" "] = self._ids[self.DELIMITER]
        self._letters = np.array(["", "", " ", *tokens[3:]])

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Vocabulary":
        """Build the vocabulary of normalised texts: their characters, sorted, so that ids never change."""
        characters = set().union(*texts) - {" ", cls.DELIMITER}
        return cls([cls.BLANK, cls.UNKNOWN, cls.DELIMITER, *sorted(characters)])

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a ``vocab.json``.

        Raises:
            UserError: The file is missing or is not a vocabulary of ours.
        """
        try:
            ids = json.loads(path.read_text(encoding="utf-8"))
            if sorted(ids.values()) != list(range(len(ids))):
                raise ValueError(f"its ids must be 0 to {len(ids) - 1}, each once.")
            return cls(sorted(ids, key=ids.__getitem__))
        except FileNotFoundError:
            raise UserError(f"The vocabulary {path} does not exist.") from None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is not a vocabulary: {error}") from error

    def save(self, path: Path) -> None:
        """Write ``vocab.json``."""
        ids = {token: i for i, token in enumerate(self.tokens)}
        path.write_text(json.dumps(ids, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(tuple(self.tokens))

    @property
    def characters(self) -> set[str]:
        """The letters (and digits) that can be written; the space is not counted."""
        return set(self.tokens[3:])

    def encode(self, text: str) -> list[int]:
        """Return an id for each character of a normalised text; unknown ones become ``<unk>``."""
        return [self._ids.get(character, self.unknown_id) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of label ids, nothing collapsed: the inverse of `encode`."""
        return "".join(self._letters[list(ids)].tolist())

    def decode_ctc(self, ids: npt.NDArray[np.integer]) -> str:
        """Return the text of one utterance's frame-wise ids by the CTC rule.

        Repeats are merged, then blanks removed (Graves et al. 2006, section 3.1).

        Args:
            ids: ``(frames,)``, cut at the utterance's true length.
        """
        if len(ids) == 0:
            return ""
        first = np.empty(len(ids), dtype=bool)
        first[0] = True
        np.not_equal(ids[1:], ids[:-1], out=first[1:])
        return " ".join("".join(self._letters[ids[first & (ids != self.blank_id)]].tolist()).split())

    def difference(self, other: "Vocabulary", here: str, there: str) -> str:
        """Say in words how this vocabulary (``here``) differs from another (``there``)."""
        only_here, only_there = self.characters - other.characters, other.characters - self.characters
        parts = []
        if only_here:
            parts.append(f"only {here}: {_quote(only_here)}")
        if only_there:
            parts.append(f"only {there}: {_quote(only_there)}")
        if not parts:
            return "the same characters in another order"
        return "; ".join(parts)


def _quote(characters: Iterable[str]) -> str:
    return " ".join(f"«{character}»" for character in sorted(characters))


def frames_needed(text: str) -> int:
    """Return how many frames CTC needs for a text: one a character, and one more between equal neighbours."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return len(codes) + int((codes[1:] == codes[:-1]).sum())
