"""The languages that are told apart: codes as py3langid has them (ISO 639-1 where there is one, else 639-3)."""

import difflib
import re
from typing import Final

from miniplm_assets.experiment.settings import nearest

# A test holds them against the model of py3langid.
_TABLE: Final = """
ace Acehnese, af Afrikaans, am Amharic, an Aragonese, ar Arabic, ary Moroccan Arabic, arz Egyptian Arabic, as
Assamese, az Azerbaijani, ba Bashkir, bcl Central Bikol, be Belarusian, bg Bulgarian, bn Bengali, br Breton, bs
Bosnian, ca Catalan, crh Crimean Tatar, cs Czech, cy Welsh, da Danish, de German, dz Dzongkha, el Greek, en English,
eo Esperanto, es Spanish, et Estonian, eu Basque, ext Extremaduran, fa Persian, fi Finnish, fo Faroese, fr French,
fuv Fulfulde, fy Western Frisian, ga Irish, gcf Guadeloupean Creole, gcr Guianese Creole, gd Scottish Gaelic, gl
Galician, gom Konkani, grc Ancient Greek, gu Gujarati, gug Guarani, guw Gun, ha Hausa, hbo Biblical Hebrew, he
Hebrew, hi Hindi, hr Croatian, ht Haitian Creole, hu Hungarian, hy Armenian, id Indonesian, ig Igbo, is Icelandic,
it Italian, ja Japanese, jv Javanese, ka Georgian, kab Kabyle, kik Kikuyu, kk Kazakh, km Khmer, kn Kannada, ko
Korean, ku Kurdish, ky Kyrgyz, la Latin, lb Luxembourgish, lg Ganda, lij Ligurian, ln Lingala, lo Lao, lt
Lithuanian, ltg Latgalian, lv Latvian, mg Malagasy, mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay,
mt Maltese, my Burmese, ne Nepali, nl Dutch, nn Norwegian Nynorsk, no Norwegian, nso Northern Sotho, oc Occitan, om
Oromo, or Odia, pa Punjabi, pcm Nigerian Pidgin, pl Polish, ps Pashto, pt Portuguese, qu Quechua, ro Romanian, ru
Russian, rw Kinyarwanda, sa Sanskrit, sdh Southern Kurdish, se Northern Sami, si Sinhala, sk Slovak, sl Slovenian,
sn Shona, so Somali, sq Albanian, sr Serbian, st Southern Sotho, sv Swedish, sw Swahili, ta Tamil, te Telugu, tg
Tajik, th Thai, tk Turkmen, tl Tagalog, tr Turkish, tt Tatar, ug Uyghur, uk Ukrainian, ur Urdu, uz Uzbek, uzs
Southern Uzbek, vec Venetian, vi Vietnamese, vo Volapük, wa Walloon, wuu Wu Chinese, xh Xhosa, yo Yoruba, yue
Cantonese, zh Chinese, zu Zulu, zxx no language
"""
LANGUAGES: Final[dict[str, str]] = dict(entry.split(maxsplit=1) for entry in _TABLE.strip().split(","))
# What people write who think of a country.
_COUNTRIES: Final = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "kr": "ko", "ua": "uk"}


def nearest_language(word: str) -> str:
    """Return a hint that names the closest code: of a language's name, of a longer code, or of one spelt alike."""
    lowered = word.lower()
    code = _by_name(lowered) or _COUNTRIES.get(lowered)
    if code is None and re.fullmatch(r"[a-z]{2,3}([-_].*)?", lowered):  # eng, zh-cn
        code = next((lowered[:length] for length in (3, 2) if lowered[:length] in LANGUAGES), None)
    return f"did you mean '{code}' ({LANGUAGES[code]})?" if code else nearest(word, list(LANGUAGES))


def _by_name(lowered: str) -> str | None:
    codes = {name.lower(): code for code, name in LANGUAGES.items()}
    begun = [name for name in codes if len(lowered) > 2 and name.startswith(lowered)]
    close = begun if len(begun) == 1 else difflib.get_close_matches(lowered, list(codes), n=1, cutoff=0.75)
    return codes[close[0]] if close else None
