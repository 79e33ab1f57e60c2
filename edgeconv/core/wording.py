"""What a schema refuses, in the words of whoever wrote the file; pydantic's own messages speak of Python types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WORDS: Mapping[str, str] = {
    "missing": "is required",
    "string_type": "should be a string",
    "int_type": "should be an integer",
    "int_from_float": "should be an integer",
    "int_parsing": "should be an integer",
    "int_parsing_size": "should be an integer of 64 bits",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "finite_number": "should be a finite number",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be {table}",
    "model_type": "should be {table}",
    "model_attributes_type": "should be {table}",
    "is_instance_of": "should be a {class}",
    "literal_error": "should be {expected}",
    "enum": "should be {expected}",
    "greater_than": "should be greater than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "too_short": "has {actual_length} items and needs at least {min_length}",
    "too_long": "has more than {max_length} items",
    "string_unicode": "should be text",
    "invalid_key": "has a key that is no text",
    "json_invalid": "is no JSON",
    "json_type": "is no JSON",
}


def complaint(detail: ErrorDetails, *, table: str) -> str:
    """What is wrong with a value, as a clause that follows its name; ``table``: what a mapping is called there."""
    words = _WORDS.get(detail["type"])
    if words is not None:
        return words.format_map({**detail.get("ctx", {}), "table": table})
    message = detail["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}" if message[1:2].islower() else message
