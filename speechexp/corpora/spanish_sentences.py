"""A small grammar of everyday Spanish, and its numbers written out.

About 145 words, a third of them numerals: times, dates, prices, codes, commands and short statements, chosen
so that every letter of Spanish that a clean-up of text tends to lose is heard and read: ñ, the accents, ü,
and the doubled letters of "calle", "perro", "leen" and "lección".
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_NUMBER = 999

# Of a transcription: short utterances, 0.7 to 2.5 s when spoken, are what makes training on a CPU fast.
MIN_LETTERS, MAX_LETTERS = 8, 28

# In FLEURS, too, up to three speakers read the same sentence.
MAX_READINGS = 3

# Shares of the sentences, in percent, that belong to each split.
SPLIT_SHARES = {"train": 80, "validation": 10, "test": 10}

_BELOW_THIRTY, _TENS, _HUNDREDS = (
    words.split()
    for words in (
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
        "diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco "
        "veintiséis veintisiete veintiocho veintinueve",
        "treinta cuarenta cincuenta sesenta setenta ochenta noventa",
        "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos "
        "novecientos",
    )
)

# "veintiún kilos" and "doscientas casas" are no cardinals, and a normaliser that spells 21 and 200 out
# would miss them: in front of a noun only numbers that keep their plain form are counted with.
_COUNTS = tuple(n for n in range(2, 101) if n % 10 != 1 or n == 11)
_COUNTS_OF_EUROS = tuple(n for n in range(100, MAX_NUMBER + 1) if n % 10 != 1 or n % 100 == 11)

# A context-free grammar: `{name}` stands for any alternative of the rule `name`, all equally likely; an
# alternative that is an integer is a number, written in digits or in words.
RULES: dict[str, Sequence[str | int]] = {
    "sentence": (
        "{one} {does}{when}.",
        "{one} {does}{when}.",
        "{many} {do}{when}.",
        "{many} {do}{when}.",
        "{order}.",
        "¡{order}!",
        "{question}",
        "{time}.",
        "{time}.",
        "{date}.",
        "{price}.",
        "{code}.",
        "{location}.",
        "{place_name} {number}.",
        "{place_name} {number}.",
        "a {hour}.",
    ),
    "place_name": ("calle", "casa", "tren", "taxi", "página", "lección", "teléfono"),
    "one": ("el niño", "la niña", "mi perro", "el señor", "la señora", "Begoña", "Guillermo", "el pingüino"),
    "many": ("los niños", "las niñas", "los perros", "Begoña y Guillermo"),
    "does": (
        "lee {text}",
        "come {food}",
        "compra {shopping}",
        "corre por la {room}",
        "llega a {hour}",
        "está en la {room}",
    ),
    "do": (
        "leen {text}",
        "comen {food}",
        "compran {shopping}",
        "corren por la {room}",
        "llegan a {hour}",
        "están en la {room}",
    ),
    "when": ("", "", "", " hoy", " ahora", " por la {daytime}", " cada año", " todo el día", " el {weekday}"),
    "soon": (" hoy", " ahora", " por la {daytime}", " el {weekday}"),
    "text": ("el libro", "la lección {number}", "la página {number}", "{count} libros"),
    "food": ("pan", "queso", "pan con queso", "pan con leche"),
    "shopping": ("leche y pan", "agua y queso", "{count} libros"),
    "goods": ("pan", "queso"),
    "room": ("calle", "cocina", "casa", "habitación {number}", "calle {number}"),
    "order": (
        "abre la {closed}{where}",
        "cierra la {closed}{where}",
        "enciende la luz{where}",
        "enciende la luz{where}",
        "apaga la luz{where}",
        "apaga la luz{where}",
        "pon la alarma a {hour}",
        "llama a {person}{soon}",
        "llama al {pair} {pair}",
        "lee la página {number}",
    ),
    "closed": ("puerta", "ventana"),
    "where": ("{place}", "{place}{soon}", " a {hour}", " a {hour}", " de la habitación {number}"),
    "place": (" de la cocina", " de la calle", " de la casa", ""),
    "person": ("Begoña", "Guillermo", "mi perro", "la señora", "los niños"),
    "question": (
        "¿qué lee {one}{when}?",
        "¿a qué hora llega {one}?",
        "¿cuánto cuesta {item}{when}?",
        "¿hay {food} en la {room}?",
        "¿está {one} en la {room}?",
    ),
    "time": (
        "{clock_is}",
        "ahora {clock_is}",
        "el {vehicle} sale a {hour}",
        "el {vehicle} {number} llega a {hour}",
    ),
    "clock_is": ("son {hours}", "son {hours} de la {daytime}", "es {one_o_clock}"),
    "hour": ("{hours}", "{hours}", "{hours} de la {daytime}", "{one_o_clock}"),
    "hours": ("las {hour_number}", "las {hour_number}{past}", "las {hour_number} y {minute}"),
    "hour_number": range(2, 13),
    "past": (" y media", " y cuarto", " menos cuarto"),
    "minute": range(2, 60),
    "one_o_clock": ("la una{past}", "la una y {minute}"),
    "daytime": ("tarde", "noche", "mañana"),
    "vehicle": ("tren", "taxi"),
    "date": (
        "hoy es {weekday}, {day} de {month}",
        "mañana es {day} de {month}",
        "el {day} de {month} es {weekday}",
        "el {weekday} {day} llega {one}",
    ),
    "weekday": ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
    "day": range(1, 31),
    "month": ("enero", "mayo", "julio", "agosto"),
    "price": (
        "{item} cuesta {euros} euros",
        "{one} tiene {euros} euros",
        "{one} tiene {count} años",
        "son {hundreds_of_euros} euros",
        "{one} compra {count} kilos de {goods}",
    ),
    "item": ("el libro", "el taxi", "el tren", "la casa", "el perro", "la habitación {number}"),
    "code": (
        "mi código es {digit} {digit} {digit} {digit}",
        "el código es {digit} {digit} {digit} {digit} {digit}",
        "el número es {digit} {digit} {digit}",
        "mi teléfono es el {pair} {pair}",
        "la página {number} y la {number}",
        "la página {large}",
        "la lección {large}",
    ),
    "location": (
        "hay {count} niños en la {room}",
        "hay {count} perros en la {room}",
        "la lección {number} está en la página {number}",
        "la casa está en la calle número {number}",
    ),
    "number": ("{small}", "{small}", "{large}"),
    "euros": ("{count}", "{hundreds_of_euros}"),
    "small": range(101),
    "large": range(100, MAX_NUMBER + 1),
    "count": _COUNTS,
    "hundreds_of_euros": _COUNTS_OF_EUROS,
    "digit": range(10),
    "pair": range(10, 100),
}

# So many draws in a row without a sentence to keep mean that the grammar is used up.
_VAIN_DRAWS = 500

_SLOT = re.compile(r"\{(\w+)\}")
_PUNCTUATION = re.compile(r"[^\w\s]")


@dataclass(frozen=True)
class Sentence:
    """One sentence in the three forms that a corpus of read speech has it in.

    Attributes:
        raw: as printed, with capitals, punctuation, and numbers in digits or in words.
        spoken: the same with every number in words: what a voice is given to read.
        transcription: `spoken` in lower case without punctuation: the label.
    """

    raw: str
    spoken: str
    transcription: str


def spell_number(number: int) -> str:
    """Write a cardinal number in Spanish words, accents included: 22 is "veintidós".

    Args:
        number: from 0 to 999.

    Raises:
        ValueError: for a number outside that range.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"`number` must be from 0 to {MAX_NUMBER}, but is {number} instead.")
    hundreds, rest = divmod(number, 100)
    if hundreds == 1 and rest == 0:
        return "cien"
    words = [_HUNDREDS[hundreds - 1]] if hundreds else []
    if rest >= 30:
        words.append(_TENS[rest // 10 - 3])
        if rest % 10:
            words += ["y", _BELOW_THIRTY[rest % 10]]
    elif rest or not words:
        words.append(_BELOW_THIRTY[rest])
    return " ".join(words)


def draw_sentence(rng: random.Random) -> Sentence:
    """Draw a sentence of `MIN_LETTERS` to `MAX_LETTERS` characters; half of the draws prefer digits."""
    while True:
        pieces = _expand("{sentence}", rng)
        with_digits = rng.random() < 0.5
        spoken = _capitalise("".join(spell_number(p) if isinstance(p, int) else p for p in pieces))
        raw = _capitalise("".join(str(p) for p in pieces)) if with_digits else spoken
        transcription = " ".join(_PUNCTUATION.sub(" ", spoken.lower()).split())
        if MIN_LETTERS <= len(transcription) <= MAX_LETTERS:
            return Sentence(raw, spoken, transcription)


def draw_sentences(split: str, count: int, rng: random.Random) -> list[Sentence]:
    """Draw sentences of one split, each `MAX_READINGS` times at most.

    Raises:
        ValueError: when the grammar has not that many sentences.
    """
    first: dict[str, Sentence] = {}
    readings: Counter[str] = Counter()
    drawn: list[Sentence] = []
    vain_draws = 0
    while len(drawn) < count and vain_draws < _VAIN_DRAWS:
        sentence = draw_sentence(rng)
        key = sentence.transcription
        vain_draws += 1
        if readings[key] < MAX_READINGS and split_of(key) == split:
            vain_draws = 0
            readings[key] += 1
            # Digits or words: every reading has the text of the first.
            drawn.append(first.setdefault(key, sentence))
    if len(drawn) < count:
        raise ValueError(
            f"`{split}_utterances` must be at most about {len(drawn)}, which is what the grammar has "
            f"({len(first)} sentences, each up to {MAX_READINGS} times), but is {count} instead."
        )
    return drawn


def split_of(transcription: str) -> str:
    """Tell which split a sentence belongs to, whatever the recipe: `train`, `validation` or `test`."""
    digest = hashlib.sha256(transcription.encode()).digest()
    place = int.from_bytes(digest[:4], "big") % sum(SPLIT_SHARES.values())
    for split, share in SPLIT_SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("unreachable: the shares add up to the modulus")


def grammar_fingerprint() -> str:
    """Return a text that changes whenever the grammar or the spelling of its numbers does."""
    numbers = [spell_number(number) for number in range(MAX_NUMBER + 1)]
    return repr((RULES, numbers, MIN_LETTERS, MAX_LETTERS, MAX_READINGS, SPLIT_SHARES))


def _expand(pattern: str, rng: random.Random) -> list[str | int]:
    pieces: list[str | int] = []
    # re.split with one group alternates literal text and slot names.
    for index, part in enumerate(_SLOT.split(pattern)):
        if index % 2 == 0:
            pieces.append(part)
            continue
        choice = rng.choice(RULES[part])
        pieces += _expand(choice, rng) if isinstance(choice, str) else [choice]
    return pieces


def _capitalise(text: str) -> str:
    first = 1 if text[0] in "¿¡" else 0
    return text[:first] + text[first].upper() + text[first + 1 :]
