"""Each rule of ``anytalk data clean`` finds what it is there for, and leaves ordinary text alone."""

from pathlib import Path

import pytest

from anytalk.errors import ConfigError, DataError
from anytalk.text.clean import clean_text
from anytalk.text.rules import RAW_RULES, SPOKEN_RULES, Rules, read_rules, spoken_seconds

FAULTY = {
    "code": [
        "```python\nprint('hi')\n```",
        "Look:\n\n    for x in y:\n        print(x)",
        "def add(a, b):\n    return a + b",
        'print("hello")',
        "import numpy as np",
        "$ ls -la",
        "sudo apt-get update",
        "SELECT name FROM people",
        "Call len() on it.",
        "<script>alert</script>",
        "Type `x == 1`.",
        "int main(void) {",
        "x = foo(1)",
    ],
    "maths": [
        r"\frac{1}{2}",
        "It is $x^2 + 1$.",
        "$$a$$",
        "E = mc^2",
        "Let x = 5.",
        "f(x) = 3",
        "2x + 3",
        "∫ of it",
        "x²",
    ],
    "table": ["| a | b |\n|---|---|\n| 1 | 2 |", "a\tb\tc\nd\te\tf", "a | b | c\nd | e | f"],
    "address": ["See https://example.org/a.", "Write to me@example.org.", "www.example.org", "go to example.com/page"],
    "prompt_leftovers": ["### Response: Yes.", "Human: hello", "<|im_start|>hello", "[INST] hello"],
    "emoji": ["Yes 😀😀😀😀"],
    "list": ["\n".join(f"- item {letter}" for letter in "abcdef")],
    "empty": ["", "   ", "...", "😀", "***"],
    "unspeakable": ["What is {name}?", "a | b", "C:\\temp", "Fill in [name] here."],
    "long_word": ["It is 9f86d081884c7d659a2feaa0c55ad015a3bf.", "a" * 31],
    "language": [
        "Die Katze ist auf der Matte und sie schläft nicht.",
        "Le chat est sur la table avec les enfants.",
        "Привет, как дела?",
        "你好，世界",
    ],
    "length": ["word " * 130],
}

FINE = [
    "Paris.",
    "The capital of France is Paris.",
    "It costs $5 and $6.",
    "What is 2 + 3 = ?",
    "The plane leaves at 10:30 from gate B12.",
    "Use the [guide](https://example.org/a) that I wrote.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "How do you say 'the cat is on the table' in French? It is: le chat est sur la table.",
    "- bread\n- milk\n- eggs",
    "I like cats; they are soft.",
    "Import duties are a tax (on goods).",
    "AT&T is a company; Booking.com is another.",
    'He said: "No way!" - and left 😀.',
    "A café in Zürich.",
]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in FAULTY.items() for text in texts])
def test_a_rule_finds_its_faults(rule: str, text: str) -> None:
    _, fault = clean_text(text, "answer", Rules())
    assert fault is not None
    assert fault.rule == rule
    assert fault.reason


@pytest.mark.parametrize("text", FINE)
def test_ordinary_text_passes(text: str) -> None:
    assert clean_text(text, "answer", Rules())[1] is None


def test_a_text_that_nobody_says_is_dropped_before_its_rules_are_applied() -> None:
    _, fault = clean_text("x" * 300_000, "answer", Rules())
    assert fault is not None
    assert (fault.rule, fault.reason) == ("length", "300,000 characters; at most 20,000 are looked at")


def test_every_rule_has_an_example() -> None:
    assert {*RAW_RULES, *SPOKEN_RULES} == {*FAULTY, "assistant_talk"}


def test_assistant_talk_is_dropped_only_when_asked() -> None:
    text = "As an AI language model, I have no feelings."
    assert clean_text(text, "answer", Rules())[1] is None
    fault = clean_text(text, "answer", Rules(assistant_talk=True))[1]
    assert fault is not None
    assert fault.rule == "assistant_talk"


@pytest.mark.parametrize("rule", ["code", "maths", "table", "address", "prompt_leftovers", "unspeakable"])
def test_a_rule_can_be_switched_off(rule: str) -> None:
    for text in FAULTY[rule]:
        fault = clean_text(text, "answer", Rules.model_validate({rule: False}))[1]
        assert fault is None or fault.rule != rule


def test_a_cleaned_text_passes_all_rules_again() -> None:
    for text in FINE:
        said, _ = clean_text(text, "answer", Rules())
        assert clean_text(said, "answer", Rules()) == (said, None)


def test_limits_differ_by_side() -> None:
    rules = Rules(max_question_s=2, max_answer_s=10)
    text = "The sky looks blue because air scatters blue light more than red light."
    assert clean_text(text, "answer", rules)[1] is None
    fault = clean_text(text, "question", rules)[1]
    assert fault is not None
    assert "at most 2 s" in fault.reason


@pytest.mark.parametrize(
    ("text", "measured_s"),
    [  # Piper's voice joe, speed 1
        ("The capital of France is Paris.", 1.86),
        ("The sky looks blue because air scatters blue light more than red light.", 3.77),
        ("One, two, three, four, five, six, seven, eight, nine, ten.", 5.22),
        (
            "To boil an egg, bring a pot of water to the boil, lower the egg into it with a spoon, and wait for eight "
            "minutes. Then put it under cold water, so that the shell comes off easily.",
            9.97,
        ),
    ],
)
def test_the_estimate_is_near_what_was_measured(text: str, measured_s: float) -> None:
    assert spoken_seconds(text, Rules()) == pytest.approx(measured_s, rel=0.1)


def test_rules_come_from_yaml_with_settings_over_them(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("max_answer_s: 12\nmax_emoji: 0\n")
    rules = read_rules(path, ["max_answer_s=9", "language=null"])
    assert (rules.max_answer_s, rules.max_emoji, rules.language) == (9, 0, None)


def test_all_wrong_rules_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("max_answer: 12\nlanguage: xx\n")
    with pytest.raises(ConfigError, match=r"(?s)language: .*max_answer: ") as caught:
        read_rules(path)
    assert "max_answer_s" in caught.value.hint


@pytest.mark.parametrize("content", ["a: [", "- a"])
def test_rules_that_are_no_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises((DataError, ConfigError), match=r"rules\.yaml"):
        read_rules(path)


def test_missing_rules(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="doesn't exist"):
        read_rules(tmp_path / "none.yaml")
