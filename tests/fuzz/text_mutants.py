"""Mutants of JSON documents and of recipes: values changed for others, moved, doubled, renamed, gone."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from typing import Any

from chances import FLOATS, NUMBERS, WORDS

_VALUES = (*NUMBERS, *FLOATS, *WORDS, None, True, [], {}, [[]], "\ud800", 10**400, ["x"], {"x": 1}, [1, "a", None])
_LITERALS = (
    *map(repr, NUMBERS),
    *("nan", "-inf", '""', "[]", "{}", "true", '"../x"', "[[1]]", "1979-05-27", '"\\u001b[2J"', "[1, 2]", '"x"'),
    *("{ seed = 1 }", "1e400", '"' + "a" * 300 + '"', "[-1]", "0.5", '["onnx", "onnx"]', '["int8"]', '"package:os/x"'),
)


def json_of(plain: Any, rng: random.Random) -> str:
    """A document with one to three changes somewhere; seldom one that JSON itself does not allow."""
    for _ in range(rng.randint(1, 3)):
        _change(plain, rng)
    text = json.dumps(plain)
    if rng.random() < 0.06:
        at = rng.randrange(len(text))
        insert = rng.choice(("\0", "[" * 20_000, "{" * 5, ",", "NaN", '"', "\\u00", "1" * 5000, "\ufeff"))
        text = text[:at] + insert + text[at + rng.randrange(3) :]
    return text


def _change(plain: Any, rng: random.Random) -> None:
    place, key = _somewhere(plain, rng)
    if place is None:
        return
    kind = rng.randrange(7)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), copy.deepcopy(place[key]))
    elif kind == 1:
        place[rng.choice(WORDS)] = place.pop(key)
    elif kind == 2:
        source, name = _somewhere(plain, rng)
        if source is not None:
            place[key] = copy.deepcopy(source[name])
    elif kind == 3 and isinstance(place[key], int | float) and not isinstance(place[key], bool):
        number = place[key]
        place[key] = rng.choice(
            (-number, number * 2, number + 1, str(number), number * 1.0 if abs(number) < 1e9 else 0)
        )
    elif kind == 4 and isinstance(place[key], str):
        place[key] = rng.choice((place[key] + "x", place[key].upper(), place[key][:-1], [place[key]]))
    else:
        place[key] = copy.deepcopy(rng.choice(_VALUES))  # what is put in may be changed in its turn


def _somewhere(plain: Any, rng: random.Random) -> tuple[Any, Any]:
    place, key = None, None
    here = plain
    while isinstance(here, dict | list) and here and (place is None or rng.random() < 0.8):
        place, key = here, rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        here = here[key]
    return place, key


def toml_of(text: str, rng: random.Random) -> str:
    """A recipe with lines changed, doubled or gone, or one whose values were changed as those of JSON are."""
    if rng.random() < 0.4:
        plain = tomllib.loads(text)
        for _ in range(rng.randint(1, 3)):
            _change(plain, rng)
        return "\n".join(_written(plain))
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines.insert(
                at, rng.choice(("[model]", "[quantize]", "[x]", "[[inputs]]", 'plan = "x"', "= 1", "\x00", "é = 1"))
            )
        elif "=" in lines[at]:
            lines[at] = lines[at].split("=")[0] + "= " + rng.choice(_LITERALS)
        lines = lines or [""]
    return "\n".join(lines)


def _written(plain: dict[str, Any]) -> list[str]:
    """TOML with inline tables only; what TOML has no word for is left out."""
    return [f"{json.dumps(key)} = {_inline(value)}" for key, value in plain.items() if value is not None]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value if item is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
