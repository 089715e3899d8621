"""Words with which texts refer to images by number, order or count: English, German, French and Spanish.

All are in small letters and without accents. Words of a text are looked up here after `folded` and `lower`.
"""

from __future__ import annotations

import unicodedata


def folded(text: str) -> str:
    """The text without accents, and with plain characters for wide, circled and raised ones; capital letters stay.

    >>> folded("dernière Nº ２")
    'derniere No 2'
    """
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _numbered(*lists: str) -> dict[str, int]:
    """Word -> its number in its list, from 1. In a list, "/" joins forms of one word, which share its number."""
    return {form: n for text in lists for n, forms in enumerate(text.split(), 1) for form in forms.split("/")}


SINGULAR = _words("image picture photo photograph img pic snapshot screenshot bild bildes foto aufnahme imagen")
PLURAL = _words(
    "images pictures photos photographs imgs pics snapshots screenshots bilder bildern fotos aufnahmen imagenes"
)
GERMAN_SINGULAR, GERMAN_PLURAL = ("bild", "bildes", "foto", "aufnahme"), ("bilder", "bildern", "fotos", "aufnahmen")
"""Ends of nouns such as "Infrarotbild"."""

# These words mean an image only if a number or an ordinal stands directly beside them.
LABELLED = _words("figure fig frame view input im abbildung abb figura vue")
COUNTED = _words("view views frame frames input inputs modality modalities sources")
ABBREVIATED = _words("fig img im pic abb no nr num n")
NUMBER_WORDS = _words("no nr num number n nummer numero numer")

NUMBERS = _numbered(
    "one two three four five six seven eight nine ten eleven twelve",
    "eins zwei drei vier funf sechs", "un/une deux trois quatre cinq six", "uno dos tres cuatro cinco seis",
)  # fmt: skip
ARTICLES_TOO = _words("un une uno")
"""Numbers that are articles too: "une image" is any image."""
TWO = _words("both beide beiden ambas ambos")

_GERMAN_ENDS = ("e", "er", "es", "en", "em")
_GERMAN_ORDINALS = ("erst", "zweit", "dritt", "viert", "funft", "sechst")
ORDINALS = _numbered(
    "first/1st/former second/2nd third/3rd fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    "premier/premiere/premieres deuxieme/seconde/deuxiemes troisieme quatrieme cinquieme sixieme",
    "primer/primera/primero/primeras segunda/segundo/segundas tercera/tercer/tercero cuarta/cuarto quinta/quinto sexta",
) | {stem + end: n for n, stem in enumerate(_GERMAN_ORDINALS, 1) for end in _GERMAN_ENDS}  # fmt: skip
LAST = _words("last final latter derniere dernier ultima ultimo") | {f"letzt{end}" for end in _GERMAN_ENDS}
BESIDE = _words("previous next preceding left right upper lower top bottom middle leftmost rightmost") | {
    stem + end for stem in ("link", "recht", "ober", "unter", "mittler", "vorherig", "nachst") for end in _GERMAN_ENDS
}
ALONE = _words("only sole single lone seule seul unique unica unico sola solo") | {
    stem + end for stem in ("einzig", "einzeln", "alleinig") for end in _GERMAN_ENDS
}

AND = _words("and or und oder et ou y o")
OF = _words("of de von")
OF_THE = _words("des der")
DETERMINERS = _words(
    "the a an this that these those my your its our each every any another some das die der dem den des dies dieses "
    "diesem diese dieser ein eine einem einer eines im jedes la le les l cette ce ces une un el las los esta este"
)
# Words that never stand between an ordinal and its noun: "First I look at the image" names no first image.
STOPS = DETERMINERS | _words(
    "in on at from to into of for with by as no is are was were be has have had do does did can could will would may "
    "might must i we you he she it they there here which who what when where while if then so but because than see "
    "sees shows show look looks looking use uses using check checks compare examine analyze analyse inspect consider "
    "observe identify describe note am auf aus von mit zu ist sind hat ich man wir zeigt dans sur de du est a il je "
    "en con por es hay se del al"
)
_VERBS = _words(
    "shown showing contains contain depicts depict displays display reveals reveal appears seems demonstrates "
    "illustrates features includes highlights confirms provides gives indicates suggests captures presents sieht gibt "
    "kann enthalt montre contient muestra contiene"
)
FOLLOWERS = STOPS | AND | _VERBS | _words("vs versus cannot not also clearly both alone itself only on")
"""Words that may follow "image 1". Another word may be what the number counts: "in the image 2 people"."""
EDGES = _words("edge side border corner half boundary part region area margin quadrant row column pixel pixels")
