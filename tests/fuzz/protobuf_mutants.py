"""Changes to any field of any message of a protobuf, set or not: what its schema has, mutants have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from chances import FLOATS, NUMBERS, WORDS
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message

_INT32 = tuple(number for number in (*NUMBERS, 23, 999) if -(2**31) <= number < 2**31)
_WORDS = (*WORDS, "f", "then_branch", "location", "../x", "ai.onnx", "Relu", "If", "Identity", "N")


def message_changed(message: Message, rng: random.Random) -> None:
    """One change somewhere inside: a field set, cleared, doubled, moved, or taken from another message of its type."""
    inside = list(_messages(message))
    target = rng.choice(inside)
    field = rng.choice(target.DESCRIPTOR.fields)
    twins = [other for other in inside if other.DESCRIPTOR is field.message_type] if field.message_type else []
    if field.is_repeated:
        _repeated(getattr(target, field.name), field, twins, rng)
    elif field.message_type is None:
        setattr(target, field.name, _scalar(field, rng))
    elif twins and rng.random() < 0.7:
        taken = _copy(rng.choice(twins))
        getattr(target, field.name).CopyFrom(taken)
    elif rng.random() < 0.5:
        target.ClearField(field.name)
    else:
        getattr(target, field.name).SetInParent()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                yield from _messages(item)


def _repeated(items: Any, field: Any, twins: list[Message], rng: random.Random) -> None:
    kind = rng.randrange(5)
    if kind == 0 and len(items):
        del items[rng.randrange(len(items))]
    elif kind == 1 and len(items) > 1:
        del items[rng.randrange(len(items)) :]
    elif field.message_type is None:
        if kind == 2 and len(items):
            items[rng.randrange(len(items))] = _scalar(field, rng)
        else:
            items.extend([_scalar(field, rng)] * rng.choice((1, 1, 2, 100)))
    elif kind == 2 and len(items):
        items.append(_copy(rng.choice(items)))
    elif twins:
        items.append(_copy(rng.choice(twins)))
    else:
        items.add()


def _copy(message: Message) -> Message:
    """A copy, as a message cannot hold itself."""
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def _scalar(field: Any, rng: random.Random) -> Any:
    if field.type in (Kind.TYPE_FLOAT, Kind.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == Kind.TYPE_BYTES:
        return rng.choice((b"", b"\xff\xfe", b"x", bytes(4), bytes(37), b"constant", b"../x"))
    if field.type == Kind.TYPE_STRING:
        return rng.choice(_WORDS)
    if field.type == Kind.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Kind.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.type == Kind.TYPE_UINT64:
        return rng.choice([number for number in NUMBERS if number >= 0])
    return rng.choice(_INT32 if field.type == Kind.TYPE_INT32 else NUMBERS)
