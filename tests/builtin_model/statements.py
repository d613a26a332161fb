"""Statements for the built-in model: true or false, by family, from a seed."""

# ruff: noqa: SIM905 - a family takes a truth value; random numbers come from a seed; word lists are easier to read

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from string import ascii_lowercase

HELD_OUT_SHARE = 6
"""One statement in this many is held out of training; prompts are drawn from these."""

FRAMES = (
    "{} True or False? Answer:",
    "True or False? {} Answer:",
    "{} True or False:",
    "Is this True or False? {} Answer:",
)
"""Questions about a statement."""

WORDS = (
    "apple arrow basket bird blanket bread bridge candle castle chair clock cloud copper corner cotton desert "
    "dinner doctor dragon engine farmer feather finger flower forest garden glove hammer harvest island jacket "
    "kitchen ladder lemon market mirror mountain needle orange paper pencil planet pocket quilt rabbit ribbon "
    "river rocket school shadow silver spoon stone summer table thunder tiger valley window winter"
).split()

SIZES = (
    "grain ant bee coin thimble acorn walnut egg lemon apple shoe melon bucket chicken cat fox dog goat wolf sheep "
    "pig deer lion bear cow horse rhino elephant bus whale ship tower castle hill island city country planet sun"
).split()
"""Things from the smallest to the largest."""

PROPERTIES = {
    "is an animal": "ant bee chicken cat fox dog goat wolf sheep pig deer lion bear cow horse rhino elephant whale",
    "can be eaten": "grain acorn walnut egg lemon apple melon chicken sheep pig deer cow",
    "was made by people": "coin thimble shoe bucket bus ship tower castle city",
    "has legs": "ant bee chicken cat fox dog goat wolf sheep pig deer lion bear cow horse rhino elephant",
    "grows on a plant": "grain acorn walnut lemon apple melon",
}

MONTHS = "January February March April May June July August September October November December".split()

NAMES = "Ann Ben Cleo Dan Eva Finn Gus Hana Ivo Jane Kurt Lea".split()

ORDERS = ("taller", "older", "faster", "richer")


@dataclass(frozen=True)
class Statement:
    """A sentence of one family and whether it is true."""

    family: str
    text: str
    true: bool

    @property
    def gold(self) -> str:
        """The right answer, `"True"` or `"False"`."""
        return str(self.true)


@dataclass(frozen=True)
class Question:
    """A statement in one of the frames."""

    statement: Statement
    prompt: str


def addition(rng: Random, true: bool) -> str:
    """Compare a sum of two numbers below 100 with a bound."""
    left, right = 1 + _number(rng, 2), _number(rng, 2)
    return f"{left} + {right} is greater than {_bound(rng, left + right, true)}."


def subtraction(rng: Random, true: bool) -> str:
    """Compare a positive difference with a bound."""
    small, large = sorted((_number(rng, 2), _number(rng, 2)))
    return f"{large + 1} - {small} is greater than {_bound(rng, large + 1 - small, true)}."


def comparison(rng: Random, true: bool) -> str:
    """Compare two different numbers of up to three digits, often close ones."""
    left = _number(rng, 3)
    right = _near(rng, left) if rng.random() < 0.3 else (left + rng.randrange(1, 1000)) % 1000
    small, large = sorted((left, right))
    return f"{large} is greater than {small}." if true else f"{small} is greater than {large}."


def divisibility(rng: Random, true: bool) -> str:
    """State whether a number is divisible by 2, 3 or 5."""
    divisor, names = rng.choice(((2, ("even", "divisible by 2")), (5, ("divisible by 5",)), (3, ("divisible by 3",))))
    multiple = divisor * rng.randrange(1, 1000 // divisor)
    return f"{multiple + (0 if true else rng.randrange(1, divisor))} is {rng.choice(names)}."


def alphabet(rng: Random, true: bool) -> str:
    """State the order of two letters."""
    first, second = sorted(rng.sample(ascii_lowercase, 2), reverse=not true)
    return f"{first} {rng.choice(('comes', 'stands'))} before {second} in the alphabet."


def spelling(rng: Random, true: bool) -> str:
    """State which letter a word has.

    The model never sees the word spelled and learns its letters from other statements.
    """
    word = rng.choice(WORDS)
    verbs, inside = rng.choice(
        ((("begins", "starts"), word[0]), (("ends", "finishes"), word[-1]), (("is written", "is spelled"), word))
    )
    letter = rng.choice(inside if true else [letter for letter in ascii_lowercase if letter not in inside])
    return f"The word {word} {rng.choice(verbs)} with {letter}."


def calendar(rng: Random, true: bool) -> str:
    """State the order of two months."""
    first, second = sorted(rng.sample(range(12), 2), reverse=not true)
    verb, end = rng.choice(("comes", "is")), rng.choice(("in the year", "in the calendar"))
    return f"{MONTHS[first]} {verb} before {MONTHS[second]} {end}."


def sizes(rng: Random, true: bool) -> str:
    """State which of two things is larger; training has other pairs."""
    small, large = sorted(rng.sample(range(len(SIZES)), 2), reverse=not true)
    return f"The {SIZES[large]} is {rng.choice(('larger', 'bigger'))} than the {SIZES[small]}."


def properties(rng: Random, true: bool) -> str:
    """State a property of a thing."""
    name = rng.choice(list(PROPERTIES))
    thing = rng.choice([thing for thing in SIZES if (thing in PROPERTIES[name].split()) == true])
    return f"{rng.choice(('The', 'Every', 'Each', 'Any'))} {thing} {name}."


def transitivity(rng: Random, true: bool) -> str:
    """State two comparisons and what follows from them, or its opposite."""
    chain = rng.sample(NAMES, 3)
    order = rng.choice(ORDERS)
    premises = [f"{high} is {order} than {low}." for high, low in pairwise(chain)]
    rng.shuffle(premises)
    first, second = sorted(rng.sample(range(len(chain)), 2), reverse=not true)
    return f"{' '.join(premises)} So {chain[first]} is {order} than {chain[second]}."


def counting(rng: Random, true: bool) -> str:
    """State which of two letters occurs more often in a row."""
    row = rng.choices("abc", k=rng.randrange(3, 10))
    while row.count("a") == row.count("b"):
        row = rng.choices("abc", k=rng.randrange(3, 10))
    more, less = ("a", "b") if (row.count("a") > row.count("b")) == true else ("b", "a")
    return f"The row {' '.join(row)} has more {more} than {less}."


def chance(rng: Random, true: bool) -> str:
    """State a random roll of a die: the best answer is right in 70 % of the cases."""
    bound = rng.randrange(2, 7)
    while (rng.randrange(1, 7) >= bound) != true:
        bound = rng.randrange(2, 7)
    return f"Roll {rng.randrange(1, 10_000)} of the die shows {bound} or more."


@dataclass(frozen=True)
class StatementFamily:
    """How to make a true or a false statement.

    `share`: how often training has one, relative to other families.
    """

    make: Callable[[Random, bool], str]
    share: float = 1.0


FAMILIES = {
    "addition": StatementFamily(addition),
    "subtraction": StatementFamily(subtraction),
    "comparison": StatementFamily(comparison),
    "divisibility": StatementFamily(divisibility),
    "alphabet": StatementFamily(alphabet),
    "calendar": StatementFamily(calendar, share=0.5),
    "spelling": StatementFamily(spelling, share=1.5),
    "sizes": StatementFamily(sizes),
    "properties": StatementFamily(properties),
    "counting": StatementFamily(counting),
    "transitivity": StatementFamily(transitivity),
    "chance": StatementFamily(chance, share=0.5),
}


def is_held_out(text: str) -> bool:
    """Whether a statement is held out for the prompts; its text alone decides."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0


def training_questions(seed: int) -> Iterator[Question]:
    """Yield questions without end, none about a held-out statement."""
    rng = Random(f"training {seed}")
    shares = [family.share for family in FAMILIES.values()]
    while True:
        (name,) = rng.choices(list(FAMILIES), shares)
        yield _ask(rng, _draw(rng, name, rng.random() < 0.5, held_out=False))


def prompt_questions(seed: int, per_family: int = 50) -> list[Question]:
    """Return different questions about held-out statements.

    The families are mixed, and half of the statements of each are true.
    """
    rng = Random(f"prompts {seed}")
    drawn: dict[str, Statement] = {}
    for name in FAMILIES:
        for number in range(per_family):
            statement = _draw(rng, name, number % 2 == 0, held_out=True, known=drawn)
            drawn[statement.text] = statement
    questions = [_ask(rng, statement) for statement in drawn.values()]
    rng.shuffle(questions)
    return questions


def _draw(
    rng: Random, name: str, true: bool, *, held_out: bool, known: dict[str, Statement] | None = None
) -> Statement:
    while True:
        text = FAMILIES[name].make(rng, true)
        if is_held_out(text) == held_out and text not in (known or {}):
            return Statement(name, text, true)


def _ask(rng: Random, statement: Statement) -> Question:
    return Question(statement, rng.choice(FRAMES).format(statement.text))


def _number(rng: Random, digits: int) -> int:
    return rng.randrange(10 ** rng.randint(1, digits))


def _bound(rng: Random, value: int, below: bool) -> int:
    """Return a number below a positive value, or not below it."""
    gap = rng.randrange(rng.choice((10, 100)))
    return max(value - 1 - gap, 0) if below else value + gap


def _near(rng: Random, value: int) -> int:
    step = rng.choice((1, 2, 10))
    return value - step if value >= step and rng.random() < 0.5 else value + step
