import json
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from unidecode import unidecode

from speechexp.errors import UserError
from speechexp.text import Texts, Vocabulary, frames_needed, normalise

# ---------------------------------------------------------------------------------------------- normalisers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("El Niño comió Ñoquis", "el niño comió ñoquis", id="keeps ñ and accents, lower-cases"),
        pytest.param("pingüino", "pingüino", id="keeps the diaeresis"),
        pytest.param("¿Qué tal?  ¡Bien, gracias!", "qué tal bien gracias", id="drops punctuation"),
        pytest.param("«Hola» — dijo…", "hola dijo", id="drops quotes and dashes"),
        pytest.param("bien-estar y/o", "bien estar y o", id="a hyphen or slash parts words"),
        pytest.param("d’Artagnan y O'Higgins", "dartagnan y ohiggins", id="an apostrophe joins words"),
        pytest.param(" uno\t dos\u00a0tres\n", "uno dos tres", id="single spaces only"),
        pytest.param("tiene 21 años", "tiene veintiuno años", id="spells a number"),
        pytest.param("1.000 o 1,000", "mil o mil", id="thousands by point or comma"),
        pytest.param("2.500.000", "dos millones quinientos mil", id="thousands twice"),
        pytest.param("1\u00a0000 y 1\u202f500", "mil y mil quinientos", id="thousands by a narrow space"),
        pytest.param(
            "1 000 000 o 2 500 000,5", "un millón o dos millones quinientos mil coma cinco", id="a million"
        ),
        pytest.param(
            "2 500 y 12 30 000", "dos quinientos y doce treinta cero cero cero", id="spaces below it"
        ),
        pytest.param(
            "20 100 200 30", "veinte cien doscientos treinta", id="groups that are not all of three"
        ),
        pytest.param(
            "1999 100 200 300", "mil novecientos noventa y nueve cien doscientos trescientos", id="a list"
        ),
        pytest.param("3,5", "tres coma cinco", id="decimal comma"),
        pytest.param("3.5", "tres punto cinco", id="decimal point"),
        pytest.param("3,05", "tres coma cero cinco", id="zeros behind the comma are read"),
        pytest.param("1.234,5", "mil doscientos treinta y cuatro coma cinco", id="thousands and decimals"),
        pytest.param("0,500", "cero coma quinientos", id="a leading zero makes no thousands"),
        pytest.param("1º, 2ª y 3.º", "primero segunda y tercero", id="ordinals"),
        pytest.param("la 21ª", "la vigésima primera", id="both words of an ordinal are feminine"),
        pytest.param("50% o 3,5 %", "cincuenta por ciento o tres coma cinco por ciento", id="percent"),
        pytest.param("a las 10:30", "a las diez treinta", id="time"),
        pytest.param("007", "cero cero siete", id="leading zeros are read one by one"),
        pytest.param("20 °C", "veinte c", id="degree sign"),
        pytest.param("covid-19", "covid diecinueve", id="number behind a hyphen"),
        pytest.param("5G", "cinco g", id="number glued to a letter"),
        pytest.param("?!...", "", id="nothing is left of punctuation"),
        pytest.param("", "", id="empty"),
    ],
)
def test_spanish(text: str, expected: str) -> None:
    assert normalise(text, "spanish") == expected


def test_spanish_reads_a_very_long_digit_string_digit_by_digit() -> None:
    words = normalise("9" * 400, "spanish").split()

    assert words == ["nueve"] * 400


@pytest.mark.parametrize("name", ["spanish", "plain"])
def test_decomposed_letters_become_composed_ones(name: str) -> None:
    text = "el niño pidió una acción en la cigüeña"

    assert normalise(unicodedata.normalize("NFD", text), name) == text


@pytest.mark.parametrize("name", ["spanish", "unidecode", "plain"])
def test_normalising_twice_changes_nothing(name: str) -> None:
    once = normalise("¡El 3,5 % de O'Higgins — año 1999, ñandú nº 2!", name)

    assert normalise(once, name) == once


SENTENCES = [
    "El Ñandú comió 25 «manzanas» en São Paulo.",
    "¿Cuánto cuesta? ¡$3,50 (o 20%)!",
    'Dijo: "sí" - y se fue; a las 10:30 h.',
    "d'Artagnan & co. [sic] {x} <y> a/b c+d e=f #g @h i_j k|l m~n o*p `q` r\\s",
    "1º, 2ª — “comillas” … y € ° ½",
    "  dos   espacios  ",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_unidecode_is_the_reference_recipe(text: str) -> None:
    removed = set(".,?!;:'-=@$#<>[]_{}|&\\`~*/()+%") | set("0123456789")
    recipe = "".join(c for c in unidecode(text).lower() if c not in removed)

    assert normalise(text, "unidecode") == " ".join(recipe.split())


def test_unidecode_loses_ñ_and_accents() -> None:
    assert normalise("El niño comió", "unidecode") == "el nino comio"


def test_plain_serves_other_languages_and_leaves_digits() -> None:
    assert normalise("Straße Nr. 12, ЁЛКА; 東京!", "plain") == "straße nr 12 ёлка 東京"


def test_plain_drops_digits_that_stand_for_something_else() -> None:
    assert normalise("12 m² y ① ٣", "plain") == "12 m y ٣"


# ----------------------------------------------------------------------------------------------- vocabulary


def test_vocabulary_is_sorted_behind_blank_unknown_and_delimiter() -> None:
    assert Vocabulary.from_texts(["ñu casa", "él"]).tokens == [
        *("<pad>", "<unk>", "|"),
        *("a", "c", "l", "s", "u", "é", "ñ"),
    ]


def test_vocabulary_does_not_depend_on_the_order_of_texts() -> None:
    texts = ["la calle", "y el perro", "leen ñandú"]

    assert Vocabulary.from_texts(texts) == Vocabulary.from_texts(reversed(texts))


def test_vocabulary_writes_nothing_that_training_text_lacks() -> None:
    vocabulary = Vocabulary.from_texts(["ab"])

    assert vocabulary.encode("axb") == [3, vocabulary.unknown_id, 4]


def test_vocabulary_survives_its_file(tmp_path) -> None:
    vocabulary = Vocabulary.from_texts(["el niño y la cigüeña"])
    vocabulary.save(tmp_path / "vocab.json")

    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary


def test_vocabulary_file_is_the_hubs_format(tmp_path) -> None:
    Vocabulary.from_texts(["ña"]).save(tmp_path / "vocab.json")

    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert ids == {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "ñ": 4}


def test_missing_vocabulary_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        Vocabulary.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["{", "[1, 2]", "3", '{"a": 0, "b": 1}', '{"<pad>": 0, "<unk>": null}'])
def test_what_is_no_vocabulary_is_refused_by_its_path(tmp_path, content: str) -> None:
    (tmp_path / "vocab.json").write_text(content)

    with pytest.raises(UserError, match=r"vocab\.json is not a vocabulary"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize("last", [5, 3, -1, '"4"'])
def test_vocabulary_file_whose_ids_are_not_0_1_2_is_refused(tmp_path, last: object) -> None:
    (tmp_path / "vocab.json").write_text(f'{{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": {last}}}')

    with pytest.raises(UserError, match=r"vocab\.json is not a vocabulary"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize("text", ["la calle y el perro leen", "ñandú", "a", "", "llaaama  doble"])
def test_decoding_labels_gives_the_text_back(text: str) -> None:
    vocabulary = Vocabulary.from_texts([text])

    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_ctc_merges_repeats_and_keeps_letters_doubled_across_a_blank() -> None:
    vocabulary = Vocabulary.from_texts(["cale"])
    c, a, l, e = vocabulary.encode("cale")  # noqa: E741

    assert vocabulary.decode_ctc(np.array([0, c, c, a, 0, l, l, 0, l, e, e, 0])) == "calle"


def test_ctc_merges_doubled_letters_without_a_blank() -> None:
    vocabulary = Vocabulary.from_texts(["cale"])

    assert vocabulary.decode_ctc(np.array(vocabulary.encode("calle"))) == "cale"


def test_ctc_text_has_single_spaces_and_none_at_its_ends() -> None:
    vocabulary = Vocabulary.from_texts(["a b"])
    space, a, b = vocabulary.encode(" ab")

    assert vocabulary.decode_ctc(np.array([space, a, space, 0, space, b, 0, space])) == "a b"


@pytest.mark.parametrize("ids", [[], [0, 0, 0], [1, 1], [2, 0, 2]])
def test_ctc_without_letters_is_empty(ids: list[int]) -> None:
    assert Vocabulary.from_texts(["a"]).decode_ctc(np.array(ids, dtype=np.int64)) == ""


def test_ctc_finds_every_sentence_again_from_its_shortest_alignment() -> None:
    text = "la calle y el perro leen"
    vocabulary = Vocabulary.from_texts([text])
    frames: list[int] = []
    for label in vocabulary.encode(text):
        frames += [0, label] if frames and frames[-1] == label else [label]

    assert vocabulary.decode_ctc(np.array(frames)) == text
    assert len(frames) == frames_needed(text)


def test_difference_names_the_characters_on_each_side() -> None:
    here, there = Vocabulary.from_texts(["ñab"]), Vocabulary.from_texts(["abz"])

    assert here.difference(there, "in the checkpoint", "in the data") == (
        "only in the checkpoint: «ñ»; only in the data: «z»"
    )


def test_difference_of_order_alone_is_said() -> None:
    head = ["<pad>", "<unk>", "|"]

    text = Vocabulary([*head, "a", "b"]).difference(Vocabulary([*head, "b", "a"]), "here", "there")
    assert "order" in text


@pytest.mark.parametrize(
    ("text", "frames"), [("", 0), ("a", 1), ("aña", 3), ("ññ", 3), ("aaab", 6), ("a b", 3)]
)
def test_frames_needed_is_one_a_character_and_one_between_equal_neighbours(text: str, frames: int) -> None:
    assert frames_needed(text) == frames


def test_texts_are_looked_through_by_number_in_order_and_in_part() -> None:
    column = pa.chunked_array([["uno", None, "dos"], ["tres"]])
    texts = Texts(column, np.array([3, 0, 2]))

    assert list(texts) == ["tres", "uno", "dos"]
    assert [texts[0], texts[2]] == ["tres", "dos"]
    assert list(texts[1:]) == ["uno", "dos"]
    assert len(texts) == 3
