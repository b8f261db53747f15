"""Sentence frames of a voice assistant, and the questions and answers that come of filling them."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

import wordlists as w

CAP = 1500


@dataclass(frozen=True)
class Item:
    """One sentence, its kind and, for a question of fact, the short right answer."""

    kind: str
    text: str
    expected: str | None = None


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith(('uni', 'use', 'one')) else 'a'} {noun}"


def sentence(text: str) -> str:
    """With a capital first letter."""
    return text[0].upper() + text[1:]


def entries(block: str) -> list[str]:
    """A block's entries."""
    return [entry.strip() for entry in " ".join(block.split()).split(";") if entry.strip()]


def listed(block: str) -> list[str]:
    """A comma-separated block's words."""
    return [word.strip() for word in " ".join(block.split()).split(",")]


def table(block: str) -> list[list[str]]:
    """Entries of colon-separated fields."""
    return [[field.strip() for field in entry.split(":")] for entry in entries(block)]


def fill(kind: str, frames: str, slots: dict[str, list[str]], cap: int = CAP) -> list[Item]:
    """Fill every frame's slots: all combinations, or a seeded sample of about `cap` in all."""
    texts: list[str] = []
    parts = entries(frames)
    share = max(1, cap // len(parts))
    for frame in parts:
        names = sorted(set(re.findall(r"{(\w+)}", frame)))
        total = 1
        for name in names:
            total *= len(slots[name])
        dice = random.Random(f"{kind}|{frame}")
        picks = range(total) if total <= share else dice.sample(range(total), share)
        for pick in picks:
            chosen: dict[str, str] = {}
            for name in names:
                pick, place = divmod(pick, len(slots[name]))
                chosen[name] = slots[name][place]
            texts.append(sentence(frame.format(**chosen)))
    return [Item(kind, text) for text in texts]


def sampled(items: list[Item], cap: int = CAP) -> list[Item]:
    """At most `cap` of the items, by a seed."""
    return items if len(items) <= cap else random.Random("items").sample(items, cap)


ONES, TENS, ORDINALS = listed(w.ONES), listed(w.TENS), listed(w.ORDINALS)
DAYS, MONTHS = listed(w.DAYS), listed(w.MONTHS)
MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def number(n: int) -> str:
    """0 to 199 in words, without a hyphen."""
    if n >= 100:
        return "one hundred" + (f" and {number(n - 100)}" if n > 100 else "")
    if n < 20:
        return ONES[n]
    return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")


def ordinal(n: int) -> str:
    """1 to 31 as the day of a month."""
    if n <= 20:
        return ORDINALS[n - 1]
    return "thirtieth" if n == 30 else f"{TENS[n // 10 - 2]} {ORDINALS[n % 10 - 1]}"


HOURS = [number(n) for n in range(1, 13)]
MINUTES = [number(n) for n in (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 12, 18, 23, 37, 42, 58)]
TIMES = [
    *(f"{h} o'clock" for h in HOURS),
    *(f"half past {h}" for h in HOURS),
    *(f"a quarter {p} {h}" for p in ("past", "to") for h in HOURS),
    *(f"{m} {p} {h}" for m in ("five", "ten", "twenty") for p in ("past", "to") for h in HOURS),
]
DIGITAL = [f"{h} {m}" for h in HOURS for m in MINUTES if m != "five"]
NAMES = listed(w.NAMES)
SLOTS: dict[str, list[str]] = {
    "name": NAMES,
    "other": NAMES[::-1],
    "city": listed(w.CITIES),
    "room": listed(w.ROOMS),
    "food": listed(w.FOODS),
    "food2": listed(w.FOODS)[::-1][1:],
    "task": listed(w.TASKS),
    "genre": listed(w.GENRES),
    "music": listed(w.MUSIC),
    "weather": listed(w.WEATHER),
    "wear": listed(w.WEARS),
    "place": listed(w.PLACES),
    "street": listed(w.STREETS),
    "message": listed(w.MESSAGES),
    "time": TIMES,
    "digital": DIGITAL,
    "hour": HOURS,
    "day": DAYS,
    "month": MONTHS,
    "part": ["this morning", "this afternoon", "this evening", "tonight", "tomorrow", "tomorrow morning"],
    "count": [number(n) for n in range(2, 61)],
    "few": [number(n) for n in range(2, 11)],
    "unit": ["seconds", "minutes", "hours"],
    "percent": [number(n) for n in range(10, 100, 5)],
    "light": ["blue", "red", "green", "yellow", "warm white", "purple", "orange"],
    "side": ["left", "right"],
    "date": [f"the {ordinal(d)} of {m}" for m, n in zip(MONTHS, MONTH_DAYS, strict=True) for d in range(1, n + 1)],
    "hi": ["hello", "hi", "good morning", "good afternoon", "good evening", "welcome", "welcome back", "hey there"],
    "bye": ["goodbye", "bye", "good night", "see you later", "see you soon", "take care", "until next time"],
    "ok": ["okay", "sure", "of course", "all right", "done", "no problem", "certainly"],
}

# Frames of requests and of what is answered to them; their slots are filled above.
ASKED = {
    "greeting": "Say {hi}.; Say {hi} to {name}.; {hi}, how are you?; {hi}, I am {name}.; {hi}, my name is {name}.; "
    "Say {bye}.; {bye}, {name}.; Say {bye} to {name}.",
    "time": "Is it {time} yet?; Is it already {digital}?; What will you say at {time}?; How do you say {digital}?",
    "date": "Is today {day}?; Is today {date}?; Is it {month} now?; Is {day} a good day to rest?",
    "alarm": "Can you set an alarm for {time}?; Wake me up at {time}, please.; Set an alarm for {digital} {part}.; "
    "Cancel my alarm for {time}.; Please wake me at {digital} on {day}.",
    "timer": "Set a timer for {count} {unit}.; Can you start a timer for {count} {unit}?; "
    "Stop the {count} minute timer.; How do I time {count} minutes?",
    "reminder": "Remind me to {task} at {time}.; Can you remind me to {task} {part}?; Remind {name} about the {food}.; "
    "Please remind me to {task} on {day}.",
    "weather": "Is it {weather} in {city} today?; Will it be {weather} in {city} on {day}?; Is it {weather} outside?; "
    "What is the weather like in {city}?; Should I {wear} when it is {weather}?",
    "shopping": "Add {food} to my shopping list.; Put {food} and {food2} on the list.; Do we need {food}?; "
    "Can you remind me to buy {food}?; Take {food} off my list.; Where can I buy {food}?",
    "music": "Play some {genre} {music}.; Can you play {genre} {music} in the {room}?; Do you like {genre} music?; "
    "Stop the {genre} {music}.; What is {genre} music?",
    "lights": "Turn on the light in the {room}.; Turn off the {room} lights.; Make the {room} light {light}.; "
    "Dim the {room} lights to {percent} percent.; Is the light on in the {room}?",
    "message": "Tell {name} that {message}.; Send a message to {name}, {message}.; Call {name}, please.; "
    "Text {name} and {other} that {message}.",
    "directions": "How do I get to the {place}?; Where is the nearest {place}?; Is the {place} on {street}?; "
    "Is there a {place} in {city}?; What is a good way to {city}?",
}
TOLD = {
    "greeting": "{hi}, {name}, how can I help you?; {hi}, {name}, it is nice to hear you.; {hi}, how are you today?; "
    "{bye}, {name}.; {bye}, {name}, and have a nice day.; {hi}, {name}, what can I do for you {part}?; "
    "Nice to meet you, {name}.; Sleep well, {name}, and {bye}.; I am fine, {name}, thank you.",
    "time": "It's {time}.; It's {digital}.; The time is {time}.; It is {digital} now.; It's almost {time}.; "
    "In {city}, it's {time}.; The time in {city} is {digital}.; The clock says {digital}.; It's just after {time}.",
    "date": "Today is {day}, {date}.; Tomorrow is {day}, {date}.; Today is {date}.; It's {day} today.; "
    "Yesterday was {day}.; Your birthday is on {date}.; The party is on {day}, {date}.; {name}'s birthday is {date}.; "
    "Your meeting is on {day} at {time}.",
    "alarm": "Your alarm is set for {time}.; {ok}, I will wake you at {time}.; I set an alarm for {digital} {part}.; "
    "Your alarm for {time} is off.; {ok}, your alarm rings at {digital} on {day}.; You have an alarm at {digital}.",
    "timer": "{ok}, a timer for {count} {unit} starts now.; Your timer has {count} {unit} left.; "
    "{count} {unit}, starting now.; The {food} timer is set for {count} minutes.; "
    "{ok}, I stopped the {count} minute timer.; Time is up after {count} {unit}.; "
    "{ok}, I will tell you in {count} {unit}.",
    "reminder": "{ok}, I will remind you to {task} at {time}.; Don't forget to {task} {part}.; "
    "It's {time}, time to {task}.; I will remind {name} about the {food} on {day}.; {name} asked you to {task}.; "
    "Remember to {task} before {digital}.",
    "weather": "It looks {weather} in {city} today, so {wear}.; It will be {weather} in {city} on {day}.; "
    "Expect a {weather} day in {city}.; It's {weather} outside, so {wear}.; {part} it may be {weather} in {city}.; "
    "In {city}, {day} should be {weather} until the evening.; The temperature in {city} is {count} degrees.",
    "shopping": "{ok}, I added {food} to your list.; Your list has {food}, {food2}, and {few} other things.; "
    "You need {food} and {food2}.; I took {food} off the list.; We still need {food}, {name}.; "
    "You can buy {food} near the {place}.; {name} wants {food} and {food2} for {day}.",
    "music": "{ok}, enjoy some {genre} {music}.; Now playing {genre} {music} in the {room}.; "
    "I stopped the {genre} {music}.; Here is a {genre} song for {name}.; I found {count} {genre} songs for you.; "
    "I like {genre} music too, {name}.; The {genre} concert in {city} starts at {time}.",
    "lights": "The light in the {room} is on.; The {room} lights are off now.; {ok}, the {room} light is {light} now.; "
    "I dimmed the {room} lights to {percent} percent.; {ok}, the {room} will be dark at {time}.; "
    "The {room} is now {count} degrees warm.; I turned on {few} lights in the {room}.",
    "message": "{ok}, I told {name} that {message}.; {name} says, {message}.; I sent your message to {name}.; "
    "You have {few} new messages from {name} and {other}.; Calling {name} now.; {name} called you at {time}.; "
    "{name} wrote to {other}, {message}.; {name} will call you back {part}.",
    "directions": "The {place} is on {street}.; Turn {side} at the {place}, then walk along {street}.; "
    "Walk {count} minutes to the {place}.; The nearest {place} is on your {side}.; "
    "The bus to the {place} leaves at {time}.; The train to {city} leaves at {digital}.; "
    "Go past the {place} and turn {side} on {street}.; It takes {few} hours to drive to {city}.",
    "smalltalk": "{name} lives in {city} with {few} friends.; {name} and {other} are in the {room}.; "
    "{name} bought {food} and {food2} at the market.; My friend {name} likes {genre} music.; "
    "{name} is waiting for you at the {place}.; {name} left the {food} in the {room}.; "
    "On {day}, {name} will go to the {place} in {city}.; There are {count} people at the {place}.; "
    "{name} would like you to {task} {part}.; Let us have {food} with {food2} on {day}.",
}
ABOUT = {
    "who": "Who are you?;What is your name?;Are you a robot?;Are you a person?;Who made you?;How old are you?;"
    "Where do you live?;Can you hear me?;Do you speak English?;What can you do?;Can you help me?;How do you work?;"
    "Are you happy?;Do you sleep?;Can you sing?;Can you see me?;Can you tell the time?;Are you there?;"
    "What do you like?",
    "me": "I am a voice assistant.;I am your assistant, and I like to help.;I am a computer program that can talk.;"
    "I can answer short questions.;I can tell you the time and the date.;I can set alarms and timers.;"
    "I can play music and turn on the lights.;I can hear you very well.;I am here to help you.;"
    "I am not a person, but I can listen.;I don't sleep, so ask me at any time.;I live in your computer.;"
    "I can spell words and add numbers.;Please say that again.;I'm sorry, I don't know that.;You're welcome.;"
    "That is a good question.;Let me think about it.;I speak English.;Ask me anything you like.",
}


def ask(kind: str, frames: str, expected: str | None = None, **slots: str) -> list[Item]:
    """One fact's questions or answers: each frame filled once."""
    return [Item(kind, sentence(frame.format(**slots)), expected) for frame in entries(frames)]


Pair = tuple[list[Item], list[Item]]


def both(kind: str, asked: str, told: str, expected: str | None, **slots: str) -> Pair:
    """A fact's questions and answers."""
    return ask(kind, asked, expected, **slots), ask(kind, told, **slots)


def pairs() -> list[Pair]:
    """Questions and answers of everything that has a right answer."""
    return [*_lexical(), *_world(), *_order(), *_numbers()]


def _lexical() -> list[Pair]:
    found: list[Pair] = []
    for x, y in table(w.OPPOSITES):
        told = "The opposite of {x} is {y}.;{y} is the opposite of {x}.;The words {x} and {y} are opposites."
        asked = "What is the opposite of {x}?;What word means the opposite of {x}?;Tell me the opposite of {x}."
        found.append(both("opposite", asked, told, y, x=x, y=y))
    for x, y in table(w.SYNONYMS):
        told = "Another word for {x} is {y}.;{x} means about the same as {y}.;You can say {y} instead of {x}."
        asked = "What is another word for {x}?;Which word means the same as {x}?;Tell me another word for {x}."
        found.append(both("synonym", asked, told, y, x=x, y=y))
    for x, y in table(w.PLURALS):
        told = "The plural of {x} is {y}.;One {x}, two {y}.;We say one {x}, but many {y}."
        asked = "What is the plural of {x}?;How do you say more than one {x}?;One {x}, two what?"
        found.append(both("plural", asked, told, y, x=x, y=y))
    for x in listed(w.WORDS):
        y = ", ".join(x.upper())
        told = "{x} is spelled {y}.;You spell {x} like this, {y}.;The word {x} is {y}."
        asked = "How do you spell {x}?;Spell the word {x}.;Can you spell {x}?"
        found.append(both("spelling", asked, told, None, x=x, y=y))
        told = "{x} begins with the letter {f}.;{x} ends with the letter {l}.;The word {x} has {n} letters."
        asked = "Which letter does {x} begin with?;What is the first letter of {x}?"
        found.append(both("letter", asked, told, y[0], x=x, f=y[0], l=y[-1], n=number(len(x))))
    for group in entries(w.RHYMES):
        for x, y in itertools.permutations(listed(group), 2):
            asked, told = "What rhymes with {x}?;Does {x} rhyme with {y}?", "{x} rhymes with {y}."
            found.append(both("rhyme", asked, told, None, x=x, y=y))
    for x, y in table(w.DEFINITIONS):
        told = "{ax} is {y}.;We call {y} {ax}.;The word {x} means {y}."
        asked = "What is {ax}?;What does the word {x} mean?;Can you explain what {ax} is?;Tell me what {ax} is."
        found.append(both("definition", asked, told, None, x=x, ax=a(x), y=y))
    return found


def _world() -> list[Pair]:
    found: list[Pair] = []
    for entry in entries(w.FACTS):
        one, two, told, right = (part.strip() for part in entry.split("|"))
        low = one[0].lower() + one[1:-1]
        extra = [Item("fact", f"I have a question, {low}?", right)] if len(low.split()) <= 11 else []
        found.append(([Item("fact", one, right), Item("fact", two, right), *extra], [Item("fact", told)]))
    for group in entries(w.CAPITALS):
        land, countries = group.split(":")
        for x, y in (country.split("=") for country in listed(countries)):
            told = "The capital of {x} is {y}.;{y} is the capital of {x}.;{x} is in {land}, and its capital is {y}."
            asked = "What is the capital of {x}?;Which city is the capital of {x}?;Tell me the capital of {x}."
            found.append(both("capital", asked, told, y, x=x, y=y, land=land))
            found.append(both("capital", "{y} is the capital of which country?", "{y} is a city in {x}.", x, x=x, y=y))
            told = "{x} is a country in {land}."
            found.append(both("continent", "Which continent is {x} in?", told, land, x=x, land=land))
            found.append(both("continent", "Is {x} in {land}?", "Yes, {x} is in {land}.", "yes", x=x, land=land))
            asked, told = "Is {y} the capital of {x}?", "Yes, {y} is the capital of {x}."
            found.append(both("capital", asked, told, "yes", x=x, y=y))
    for x, y in table(w.COLORS):
        told = "{ax} is {y}.;The color of {ax} is {y}.;Yes, {ax} is {y}."
        found.append(both("color", "What color is {ax}?;Which color is {ax}?", told, y, ax=a(x), y=y))
        found.append(both("color", "Is {ax} {y}?", "I think of {y} when I see {ax}.", "yes", ax=a(x), y=y))
    for y, things in table(w.TAXA):
        for x in listed(things):
            told = "{ax} is {ay}.;{ax} is a kind of {y}.;Yes, {ax} is {ay}."
            slots = {"ax": x if y in ("metal", "drink", "sport", "color") else a(x), "ay": a(y), "y": y}
            found.append(both("category", "Is {ax} {ay}?", told, "yes", **slots))
            found.append(both("category", "What kind of thing is {ax}?", "I know that {ax} is {ay}.", y, **slots))
    for x, y in table(w.SOUNDS):
        told = "{ax} says {y}.;The {x} goes {y}.;{y} is what {ax} says."
        asked = "What does {ax} say?;What sound does {ax} make?;How does the {x} go?;Which animal says {y}?"
        found.append(both("sound", asked, told, None, ax=a(x), x=x, y=y))
    for x, y, z in table(w.PROPS):
        asked, told = "Is {x} {y}?;Is it true that {x} is {y}?", "Yes, {x} is {y}.;{x} is {y}."
        found.append(both("yesno", asked, told, "yes", x=x, y=y))
        told = "No, {x} is not {z}.;No, {x} is {y}, not {z}."
        found.append(both("yesno", "Is {x} {z}?", told, "no", x=x, y=y, z=z))
        found.append(both("yesno", "Is {x} {y} or {z}?;Is {x} {z} or {y}?", told, y, x=x, y=y, z=z))
    for x, y, z in table(w.CAN):
        found.append(both("yesno", "Can {ax} {y}?", "Yes, {ax} can {y}.", "yes", ax=a(x), y=y))
        found.append(both("yesno", "Can {ax} {z}?", "No, {ax} can't {z}.", "no", ax=a(x), z=z))
    for block, more, less in ((w.SIZES, "bigger", "smaller"), (w.SPEEDS, "faster", "slower")):
        for group in entries(block):
            for x, y in itertools.combinations(listed(group), 2):
                slots = {"x": a(x), "y": a(y), "more": more, "less": less}
                told = "{y} is {more} than {x}.;{x} is {less} than {y}.;Of the two, {y} is {more}, and {x} is {less}."
                asked = "Which is {more}, {x} or {y}?;Which is {more}, {y} or {x}?"
                found.append(both("compare", asked, told, y, **slots))
                found.append(both("compare", "Is {y} {more} than {x}?", "Yes, {y} is {more} than {x}.", "yes", **slots))
                told = "No, {x} is not {more} than {y}."
                found.append(both("compare", "Is {x} {more} than {y}?", told, "no", **slots))
    return found


def _order() -> list[Pair]:
    found: list[Pair] = []
    for kind, names in (("day", DAYS), ("month", MONTHS)):
        for place, x in enumerate(names):
            y = names[(place + 1) % len(names)]
            told = "{y} comes after {x}.;{x} comes before {y}.;The {k} after {x} is {y}.;The {k} before {y} is {x}."
            asked = "What {k} comes after {x}?;Which {k} is after {x}?;What is the {k} after {x}?"
            found.append(both("order", asked, told, y, x=x, y=y, k=kind))
            asked = "What {k} comes before {y}?;Which {k} is before {y}?;What is the {k} before {y}?"
            found.append(both("order", asked, "Just before {y} comes {x}.", x, x=x, y=y, k=kind))
    for place, month in enumerate(MONTHS):
        told = "{x} is the {n} month of the year." + (";{x} has {d} days." if month != "February" else "")
        slots = {"x": month, "n": ordinal(place + 1), "d": number(MONTH_DAYS[place])}
        asked = "What is the {n} month of the year?;Which month is the {n}?"
        found.append(both("order", asked, told, month, **slots))
    return found


def _numbers() -> list[Pair]:
    found: list[Pair] = []
    for n in range(98):
        x, y, z = number(n), number(n + 1), number(n + 2)
        told = "After {x} comes {y}.;{x}, {y}, {z}.;{y} is one more than {x}.;Count with me, {x}, {y}, {z}."
        found.append(both("counting", "What number comes after {x}?;Count up from {x}.", told, y, x=x, y=y, z=z))
        found.append(both("counting", "Which is more, {x} or {z}?", "{z} is more than {x}.", z, x=x, z=z))
    sums = [("plus", p, q, p + q) for p in range(21) for q in range(21)]
    sums += [("minus", p, q, p - q) for p in range(21) for q in range(p + 1)]
    sums += [("times", p, q, p * q) for p in range(11) for q in range(11)]
    for op, p, q, r in sums:
        slots = {"x": number(p), "y": number(q), "z": number(r), "op": op}
        told = "{x} {op} {y} is {z}.;{x} {op} {y} makes {z}.;The answer to {x} {op} {y} is {z}."
        found.append(both("arithmetic", "What is {x} {op} {y}?;How much is {x} {op} {y}?", told, number(r), **slots))
    return found


def _collected(items: list[Item], cap: int) -> list[Item]:
    """At most `cap` of each kind, repeats left out."""
    kinds: dict[str, dict[str, Item]] = {}
    for item in items:
        kinds.setdefault(item.kind, {}).setdefault(item.text, item)
    return [item for found in kinds.values() for item in sampled(list(found.values()), cap)]


def questions() -> list[Item]:
    """Every question and request."""
    items = [item for asked, _ in pairs() for item in asked]
    for kind, frames in ASKED.items():
        items += fill(kind, frames, SLOTS, cap=400)
    items += ask("about", ABOUT["who"])
    return _collected(items, 1000)


def answers() -> list[Item]:
    """Every template answer."""
    items = [item for _, told in pairs() for item in told]
    for kind, frames in TOLD.items():
        items += fill(kind, frames, SLOTS)
    items += ask("about", ABOUT["me"])
    items += [Item("advice", text) for text in entries(w.ADVICE)]
    return _collected(items, 2000)
