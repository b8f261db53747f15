"""Lists units, money, abbreviations and symbols, and how they are said in English."""

from __future__ import annotations


def _plural(singular: str) -> tuple[str, str]:
    return singular, f"{singular}s"


UNITS: dict[str, tuple[str, str]] = {
    "mm": _plural("millimeter"), "cm": _plural("centimeter"), "m": _plural("meter"), "km": _plural("kilometer"),
    "mi": _plural("mile"), "ft": ("foot", "feet"), "yd": _plural("yard"), "inch": ("inch", "inches"),
    "mg": _plural("milligram"), "g": _plural("gram"), "kg": _plural("kilogram"), "lb": _plural("pound"),
    "lbs": _plural("pound"), "oz": _plural("ounce"), "ml": _plural("milliliter"), "mL": _plural("milliliter"),
    "l": _plural("liter"), "L": _plural("liter"), "tbsp": _plural("tablespoon"), "tsp": _plural("teaspoon"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "kmh": ("kilometer per hour", "kilometers per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour"),
    "m/s": ("meter per second", "meters per second"), "m²": ("square meter", "square meters"),
    "km²": ("square kilometer", "square kilometers"), "m³": ("cubic meter", "cubic meters"),
    "ft²": ("square foot", "square feet"), "sq ft": ("square foot", "square feet"),
    "ms": _plural("millisecond"), "s": _plural("second"), "sec": _plural("second"), "min": _plural("minute"),
    "mins": _plural("minute"), "h": _plural("hour"), "hr": _plural("hour"), "hrs": _plural("hour"),
    "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "KB": _plural("kilobyte"), "kB": _plural("kilobyte"), "MB": _plural("megabyte"),
    "GB": _plural("gigabyte"), "TB": _plural("terabyte"), "W": _plural("watt"), "kW": _plural("kilowatt"),
    "kWh": _plural("kilowatt hour"), "mAh": _plural("milliampere hour"),
    "V": _plural("volt"), "kcal": _plural("kilocalorie"), "cal": _plural("calorie"),
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "℃": ("degree Celsius", "degrees Celsius"), "℉": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "%": ("percent", "percent"),
}  # fmt: skip
"""Units after a number, each in singular and plural, in American spelling."""

CURRENCIES: dict[str, tuple[str, str, str, str]] = {
    "US$": ("dollar", "dollars", "cent", "cents"), "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"), "₹": ("rupee", "rupees", "paisa", "paise"),
}  # fmt: skip
"""Currency signs, each with singular and plural of the whole and of the hundredth."""

SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
"""Letters that can follow an amount of money."""

ABBREVIATIONS: dict[str, str] = {
    "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miss", "Dr.": "Doctor", "Prof.": "Professor", "Mt.": "Mount",
    "Jr.": "Junior", "Sr.": "Senior", "Inc.": "Incorporated", "Ltd.": "Limited", "Ave.": "Avenue",
    "vs.": "versus", "approx.": "approximately", "incl.": "including",
    "dept.": "department", "fig.": "figure", "Fig.": "Figure",
    "e.g.": "for example", "eg.": "for example", "i.e.": "that is", "ie.": "that is", "w/o": "without", "w/": "with",
}  # fmt: skip
"""Abbreviations that are always said in full."""

SYMBOLS: dict[str, str] = {
    "&": " and ", "@": " at ", "%": " percent", "+": " plus ", "=": " equals ", "×": " times ", "÷": " divided by ",
    "±": " plus or minus ", "≈": " about ", "~": " about ", "≤": " at most ", "≥": " at least ", "≠": " is not ",
    "°": " degrees", "→": " to ", "§": " section ", "©": "", "®": "", "™": "", "¿": "", "¡": "", "†": "",
}  # fmt: skip
"""Single characters and how they are said."""

FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5),
    "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
"""Fractions that are a single character."""

PLAIN_CHARACTERS = {
    "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "`": "'", "´": "'", "…": "...",
    "‐": "-", "‑": "-", "−": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200b": "", "\u200c": "", "\u2060": "",
    "\ufeff": "", "\u00ad": "",
}  # fmt: skip
"""Typographic characters and their plain equivalents."""
