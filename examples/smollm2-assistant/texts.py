"""Make the text sets of an English voice assistant: questions, template answers, word lists, ordinary sentences.

    python texts.py OUT_FOLDER

The same bytes each time: the sha256 of a text decides its split and its id, and what is sampled is sampled with a seed.
No text shares five words in a row with the ordinary sentences, which test a talker outside its templates.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from templates import Item, answers, questions

QUESTION_TEST_PER_MILLE = 38
ANSWER_TEST_PER_MILLE = 21
WORD_LISTS = 6_000
_PIECE = 5
_PLAIN = re.compile(r"[A-Za-z,.?!' ]+")

# The IEEE Harvard sentences, lists 1 to 10.
ORDINARY = """\
The birch canoe slid on the smooth planks.
Glue the sheet to the dark blue background.
It's easy to tell the depth of a well.
These days a chicken leg is a rare dish.
Rice is often served in round bowls.
The juice of lemons makes fine punch.
The box was thrown beside the parked truck.
The hogs were fed chopped corn and garbage.
Four hours of steady work faced us.
A large size in stockings is hard to sell.
The boy was there when the sun rose.
A rod is used to catch pink salmon.
The source of the huge river is the clear spring.
Kick the ball straight and follow through.
Help the woman get back to her feet.
A pot of tea helps to pass the evening.
Smoky fires lack flame and heat.
The soft cushion broke the man's fall.
The salt breeze came across from the sea.
The girl at the booth sold fifty bonds.
The small pup gnawed a hole in the sock.
The fish twisted and turned on the bent hook.
Press the pants and sew a button on the vest.
The swan dive was far short of perfect.
The beauty of the view stunned the young boy.
Two blue fish swam in the tank.
Her purse was full of useless trash.
The colt reared and threw the tall rider.
It snowed, rained, and hailed the same morning.
Read verse out loud for pleasure.
Hoist the load to your left shoulder.
Take the winding path to reach the lake.
Note closely the size of the gas tank.
Wipe the grease off his dirty face.
Mend the coat before you go out.
The wrist was badly strained and hung limp.
The stray cat gave birth to kittens.
The young girl gave no clear response.
The meal was cooked before the bell rang.
What joy there is in living.
A king ruled the state in the early days.
The ship was torn apart on the sharp reef.
Sickness kept him home the third week.
The wide road shimmered in the hot sun.
The lazy cow lay in the cool grass.
Lift the square stone over the fence.
The rope will bind the seven books at once.
Hop over the fence and plunge in.
The friendly gang left the drug store.
Mesh wire keeps chicks inside.
The frosty air passed through the coat.
The crooked maze failed to fool the mouse.
Adding fast leads to wrong sums.
The show was a flop from the very start.
A saw is a tool used for making boards.
The wagon moved on well oiled wheels.
March the soldiers past the next hill.
A cup of sugar makes sweet fudge.
Place a rosebush near the porch steps.
Both lost their lives in the raging storm.
We talked of the side show in the circus.
Use a pencil to write the first draft.
He ran half way to the hardware store.
The clock struck to mark the third period.
A small creek cut across the field.
Cars and busses stalled in snow drifts.
The set of china hit the floor with a crash.
This is a grand season for hikes on the road.
The dune rose from the edge of the water.
Those words were the cue for the actor to leave.
A yacht slid around the point into the bay.
The two met while playing on the sand.
The ink stain dried on the finished page.
The walled town was seized without a fight.
The lease ran out in sixteen weeks.
A tame squirrel makes a nice pet.
The horn of the car woke the sleeping cop.
The heart beat strongly and with firm strokes.
The pearl was worn in a thin silver ring.
The fruit peel was cut in thick slices.
The Navy attacked the big task force.
See the cat glaring at the scared mouse.
There are more than two factors here.
The hat brim was wide and too droopy.
The lawyer tried to lose his case.
The grass curled around the fence post.
Cut the pie into large parts.
Men strive but seldom get rich.
Always close the barn door tight.
He lay prone and hardly moved a limb.
The slush lay deep along the street.
A wisp of cloud hung in the blue air.
A pound of sugar costs more than eggs.
The fin was sharp and cut the clear water.
The play seems dull and quite stupid.
Bail the boat to stop it from sinking.
The term ended in late June that year.
A tusk is used to make costly gifts.
Ten pins were set in order.
The bill was paid every third week.
"""


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(words(text)).encode()).hexdigest()


def _pieces(text: str) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[i : i + _PIECE]) for i in range(len(said) - _PIECE + 1)}


def _checked(items: list[Item]) -> list[Item]:
    """Distinct texts, as heard; those that share a piece with the ordinary sentences are left out."""
    forbidden = {piece for line in ORDINARY.splitlines() for piece in _pieces(line)}
    kept: dict[str, Item] = {}
    for item in items:
        if not _PLAIN.fullmatch(item.text) or not 2 <= len(item.text.split()) <= 16:
            raise ValueError(f"not plain spoken English of 2 to 16 words: {item}")
        if not _pieces(item.text) & forbidden:
            kept.setdefault(_digest(item.text), item)
    return [kept[digest] for digest in sorted(kept)]


def _row(item: Item, prefix: str, field: str) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"{prefix}-{_digest(item.text)[:12]}", "kind": item.kind, field: item.text}
    if prefix == "q":
        row["expected"] = item.expected
    return row


def _split(items: list[Item], prefix: str, field: str, test_per_mille: int) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for item in _checked(items):
        in_test = int(_digest(item.text)[-12:], 16) % 1000 < test_per_mille
        rows["test" if in_test else "train"].append(_row(item, prefix, field))
    return rows


def word_lists(texts: list[str]) -> list[dict[str, Any]]:
    """Sentences of words drawn from `texts` in no order, each word about equally often.

    Ears that only know words inside our few hundred templates guess them from what stands around them.
    """
    # As written inside a sentence, so that names keep their capitals.
    forms = Counter(re.sub(r"[^A-Za-z']", "", word) for text in texts for word in text.split()[1:])
    vocabulary: dict[str, str] = {}
    for form, _ in forms.most_common():
        if form:
            vocabulary.setdefault(form.lower(), form)
    chance = random.Random(0)
    rows: dict[str, dict[str, Any]] = {}
    bag: list[str] = []
    while len(rows) < WORD_LISTS:
        size = chance.randint(3, 8)
        if len(bag) < size:
            bag += chance.sample(sorted(vocabulary.values()), len(vocabulary))
        drawn, bag = bag[:size], bag[size:]
        text = " ".join(drawn)
        text = text[0].upper() + text[1:] + "."
        rows[text] = {"id": f"w-{_digest(text)[:12]}", "kind": "words", "question_text": text}
    return list(rows.values())


def text_sets() -> dict[str, list[dict[str, Any]]]:
    """Every set's rows by its file name."""
    parts = {
        "questions": _split(questions(), "q", "question_text", QUESTION_TEST_PER_MILLE),
        "answers": _split(answers(), "a", "text", ANSWER_TEST_PER_MILLE),
    }
    sets = {f"{name}.{split}.jsonl": rows for name, splits in parts.items() for split, rows in splits.items()}
    known = [row["question_text"] for row in parts["questions"]["train"]] + [
        row["text"] for row in parts["answers"]["train"]
    ]
    return sets | {"words.train.jsonl": word_lists(known)}


def write(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write all sets into `folder` and give them back."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = text_sets()
    for name, rows in sets.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "ordinary.test.txt").write_text(ORDINARY, encoding="utf-8")
    return sets


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python texts.py OUT_FOLDER")
    for name, rows in write(Path(sys.argv[1])).items():
        said = [words(row.get("text") or row["question_text"]) for row in rows]
        total = sum(len(one) for one in said)
        distinct = len({" ".join(one) for one in said})
        vocabulary = len({word for one in said for word in one})
        print(f"{name}: {len(rows)} rows, {distinct} distinct, {vocabulary} words, mean {total / len(rows):.1f} words")


if __name__ == "__main__":
    main()
