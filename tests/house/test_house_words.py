"""Words: names say what they hold, and are spelled as the field's code spells them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import edgeconv

PACKAGE = Path(edgeconv.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
VAGUE = {"made", "found", "one", "each", "known", "given", "mine", "its", "kept", "wanted", "asked"}
"""How a value came about, or that it is there; not what it is."""
BRITISH = re.compile(
    r"(?i)\b\w*(quanti|normali|optimi|equali|seriali|initiali)s(e|ed|es|er|ing|ation|able)\b"
    r"|neighbour|honour|recognis|cancell(ed|ing)|learnt|spelt|judgement|centred|centring|(\b|_)centres?\b"
)


def _local_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.arg


def test_names_say_what_they_hold() -> None:
    names = [name for path in SOURCES for name in _local_names(ast.parse(path.read_text()))]
    assert sum(name in VAGUE for name in names) <= 0.009 * len(names)


def test_quantize_and_its_like_are_spelled_one_way() -> None:
    """In names, comments and docstrings; strings may be names of values in files, which stay."""
    for path in SOURCES:
        text = path.read_text()
        if not BRITISH.search(text):
            continue  # in strings neither: to take a file apart takes longer
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        words = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        words += [token.string for token in tokens if token.type in (tokenize.NAME, tokenize.COMMENT)]
        assert [word for word in words if BRITISH.search(word)] == [], path
