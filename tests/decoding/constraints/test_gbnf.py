"""Grammars in llama.cpp's notation: a constraint accepts the same texts as a simple interpreter of the rules.

Not tested: recursive rules in which one terminal is the beginning of another; there the longer one wins (see
constraints/llguidance.py).
"""

import itertools
import json
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.decoding.constraints import gbnf
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.gbnf import Choice, Class, Literal, Node, Ref, Repeat, Sequence
from eftlocal.decoding.constraints.matcher import Grammars, Matcher
from eftlocal.errors import SettingError

GRAMMARS = Grammars([*(bytes([byte]) for byte in range(256)), b""], [256], lambda text: list(text.encode()))


def matcher(text: str) -> Matcher:
    return GRAMMARS.matcher(Constraint.grammar(text))


def takes(rules: Mapping[str, Node], text: str) -> bool:
    """Whether `root` derives `text`. It tries everything, so texts must be short, and left recursion must not occur."""

    @cache
    def ends(node: Node, start: int) -> frozenset[int]:
        match node:
            case Literal(literal):
                return frozenset({start + len(literal)} if text.startswith(literal, start) else ())
            case Class(ranges, inverted):
                inside = start < len(text) and any(a <= text[start] <= b for a, b in ranges) != inverted
                return frozenset({start + 1} if inside else ())
            case Ref(name):
                return ends(rules[name], start)
            case Choice(nodes):
                return frozenset().union(*(ends(inner, start) for inner in nodes))
            case Sequence(nodes):
                at = frozenset({start})
                for inner in nodes:
                    at = frozenset().union(*(ends(inner, i) for i in at))
                return at
            case Repeat(inner, least, most):
                reached, at = set[int](), frozenset({start})
                for n in range(len(text) + least + 1):
                    if n >= least:
                        reached |= at
                    if n == most:
                        break
                    at = frozenset().union(*(ends(inner, i) for i in at))
                return frozenset(reached)

    return len(text) in ends(rules["root"], 0)


def same_language(grammar: str, alphabet: str, length: int) -> None:
    """Checks that constraint and interpreter agree on all texts of an alphabet up to a length."""
    rules, constraint, taken = gbnf.read(grammar), matcher(grammar), 0
    for n in range(length + 1):
        for letters in itertools.product(alphabet, repeat=n):
            text = "".join(letters)
            assert constraint.complete(text) == takes(rules, text), text
            taken += takes(rules, text)
    assert taken > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grammar", "alphabet", "length"),
    [
        ('root ::= [a-b]+ "ab"', "abc", 6),  # the first part could take the whole text
        ('root ::= "a"? "ab" | ([^a] "b"?){2,3} | ""', "abc", 5),
        ('root ::= x{2} y{0,2} x{1,}\nx ::= "a" | "b"\ny ::= "a"', "ab", 7),
        ("root ::= . [^\\x62] ()", "abc\n", 3),
        ('root ::= "(" root? ")" root?', "()", 8),
        ('root ::= "a" root "a" | "b" root "b" | "c"', "abc", 6),
        ('root ::= ident ("+" root)?\nident ::= [a-b] [ab]* ws\nws ::= " "*', "ab +", 5),
        ('root ::= (expr "=" ws term "\\n")+\nexpr ::= term ("+" term)*\n'  # llama.cpp's arithmetic.gbnf, shortened
         'term ::= ident | "(" ws expr ")" ws\nident ::= "a" ws\nws ::= [ \\n]*', "a=+(\n", 6),
        ('root ::= ("a" | root "b"){0} "c" root? | "a"{0,0} | y "c"\ny ::= "b" y', "abc", 5),
        ('root ::= item | "[" root ("," root)* "]"\nitem ::= "a"+ (";" "a")?', "a[,;]", 5),
    ],
)  # fmt: skip
def test_a_grammar_takes_the_texts_that_its_rules_derive(grammar: str, alphabet: str, length: int) -> None:
    same_language(grammar, alphabet, length)


@st.composite
def nodes(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.sampled_from(["text", "class", "repeat", "sequence", "choice"] if depth else ["text", "class"]))
    if kind == "text":
        return json.dumps(draw(st.text("ab", min_size=1, max_size=3)))
    if kind == "class":
        return draw(st.sampled_from(["[a]", "[ab]", "[^a]", "."]))
    if kind == "repeat":
        return f"({draw(nodes(depth - 1))}){draw(st.sampled_from(['*', '+', '?', '{2}', '{1,2}', '{2,}']))}"
    inner = draw(st.lists(nodes(depth - 1), min_size=2, max_size=3))
    return f"({(' ' if kind == 'sequence' else ' | ').join(inner)})"


@given(nodes(), nodes())
@settings(max_examples=60, deadline=None)
def test_a_grammar_without_recursion_takes_exactly_the_texts_that_its_rules_derive(root: str, other: str) -> None:
    grammar = f"root ::= {root} other?\nother ::= {other}"
    rules, constraint = gbnf.read(grammar), matcher(grammar)
    for n in range(5):
        for letters in itertools.product("abc", repeat=n):
            text = "".join(letters)
            assert constraint.complete(text) == takes(rules, text), text


@pytest.mark.slow
@given(nodes(), nodes(), nodes())
@settings(max_examples=60, deadline=None)
def test_a_grammar_with_recursion_takes_no_other_text(first: str, second: str, third: str) -> None:
    grammar = f'root ::= {first} | "a" {second} root {third}'
    rules, constraint = gbnf.read(grammar), matcher(grammar)
    for n in range(5):
        for letters in itertools.product("abc", repeat=n):
            text = "".join(letters)
            assert takes(rules, text) or not constraint.complete(text), text


JSON = r"""
# llama.cpp's json.gbnf
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def test_llama_cpps_own_json_grammar_takes_json() -> None:
    constraint = matcher(JSON)
    value = {"a": [1, -2.5e3, {"b": True, "c": None}, 'x\u00e9"\n\u0001日'], "": {}, "d": []}
    for text in (json.dumps(value), json.dumps(value, indent=2), json.dumps(value, ensure_ascii=False)):
        assert constraint.complete(text)
        assert not constraint.complete(text[:-1])
    for text in ("[]", '{"a" 1}', "{'a': 1}", '{"a": 01}', '{"a":  1}'):
        assert not constraint.complete(text)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("", "no rule named root"),
        ('rot ::= "a"', "no rule named root"),
        ("root ::= foo", "rule root refers to foo, which is not defined"),
        ('root := "a"', "expected ::=: line 1: root <here>:= "),
        ('root ::= "a"\nx ::= "un', "ends inside a literal or a class: line 2"),
        ('root ::= "a" )', "expected a rule's name"),
        ('root ::= ("a"', r"expected \)"),
        ("root ::= [z-a]", "range 'z' to 'a' is empty"),
        ("root ::= []", "class of characters is empty"),
        ('root ::= "a"{3,2}', "is not a valid number of repetitions"),
        ('root ::= "a"{x}', "expected {m}"),
        ('root ::= "\\q"', r"unknown escape \\q"),
        ('root ::= "\\uD800"', "is not a character"),
        ('root ::= "a"\nroot ::= "b"', "root is defined a second time"),
        ("root ::= <think> .*", "tokens .* are not supported"),
    ],
)
def test_what_cannot_be_read_is_shown_with_its_place(grammar: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Constraint.grammar(grammar)


@pytest.mark.parametrize(
    "grammar",
    ['root ::= root "a"', 'root ::= "a" root', "root ::= x\nx ::= x | x x", r'root ::= "a" [^\x00-\U0010FFFF] "b"'],
)
def test_a_grammar_that_no_text_completes_is_refused(grammar: str) -> None:
    with pytest.raises(SettingError, match="nothing can satisfy it: no text of the rule root is complete"):
        Constraint.grammar(grammar)


def test_an_answer_does_not_enter_a_rule_that_never_ends() -> None:
    allowed = matcher('root ::= "a" | "b" x | "c"? x*\nx ::= x "d"').allowed([])
    assert [byte for byte in b"abcd" if allowed[byte]] == [*b"ac"]


def test_what_is_repeated_zero_times_is_the_empty_text() -> None:
    for grammar, text in (('root ::= "a"{0}', ""), ('root ::= "a"{0,0} "b"', "b"), ('root ::= ("a" root){0}', "")):
        constraint = matcher(grammar)
        assert [each for each in ("", "a", "b", "ab") if constraint.complete(each)] == [text]


def test_escapes_line_ends_and_comments_are_read_as_llama_cpp_does() -> None:
    rules = gbnf.read(
        '# a\r\nroot ::= "\\x41\\u00e9\\U0001F600\\t\\"" | # b\r\n  [\\]\\[^-] b-1\r\n\r\nb-1 ::= (\n"b"\n)'
    )
    assert rules["root"] == Choice(
        (
            Literal('Aé😀\t"'),
            Sequence((Class((("]", "]"), ("[", "["), ("^", "^"), ("-", "-"))), Ref("b-1"))),
        )
    )
    assert rules["b-1"] == Literal("b")
