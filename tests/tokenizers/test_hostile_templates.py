"""Chat templates made to harm: each ends in a ValueError, soon and without much memory."""

from __future__ import annotations

import time

import pytest

from pyllm import Tokenizer
from tests.fuzz.harness import limited_memory

DOUBLE = "{% set n = namespace(s='ab', l=[1]) %}{% for i in range(99) %}"
BOMBS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops that skip": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops over text": "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "doubled by ~": DOUBLE + "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubled by +": DOUBLE + "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubled by join": DOUBLE + "{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "doubled by a method": DOUBLE + "{% set n.s = n.s.join([n.s, n.s]) %}{% endfor %}",
    "doubled by replace": DOUBLE + "{% set n.s = n.s | replace('a', 'aa') %}{% endfor %}",
    "doubled by the method replace": DOUBLE + "{% set n.s = n.s.replace('a', 'aa') %}{% endfor %}",
    "doubled by format": DOUBLE + "{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
    "doubled by %": DOUBLE + "{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "doubled by the filter format": DOUBLE + "{% set n.s = '%s%s' | format(n.s, n.s) %}{% endfor %}",
    "doubled by a block": DOUBLE + "{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}",
    "doubled list": DOUBLE + "{% set n.l = n.l + n.l %}{% endfor %}",
    "lists that hold lists twice": DOUBLE + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "dicts that hold dicts twice": DOUBLE
    + "{% set n.l = {'a': n.l, 'b': n.l} %}{% endfor %}{{ n.l | tojson }}",
    "one text many times": "{% set s = 'a' * 9999999 %}{{ [s] * 999999 }}",
    "multiplied": "{{ 'a' * 10**10 }}",
    "multiplied from the right": "{{ 10**10 * 'a' }}",
    "multiplied list": "{{ [0] * 10**10 }}",
    "a tower of powers": "{{ 9**(9**9) }}",
    "products of large numbers": DOUBLE
    + "{% set n.s = (n.s if i else 99) * (n.s if i else 99) %}{% endfor %}",
    "center": "{{ 'a' | center(10**10) }}",
    "center, a method": "{{ 'a'.center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**10) }}",
    "translate": "{{ 'aaaa'.translate({97: 'a' * 1000000}) }}",
    "indent": "{{ 'a\\nb' | indent(10**10) }}",
    "indent by text": "{% set s = '\\n' * 99999 %}{{ s | indent(s) }}",
    "indented JSON": "{{ [1] | tojson(indent=10**10) }}",
    "batch": "{{ [1] | batch(10**10, 0) | list }}",
    "slice": "{{ [1] | slice(10**10) | list }}",
    "width of %": "{{ '%9999999999d' % 1 }}",
    "width of % from an argument": "{{ '%*d' % (10**9, 1) }}",
    "width of format": "{{ '{:>9999999999}'.format(1) }}",
    "width of format from an argument": "{{ '{:>{}}'.format(1, 10**9) }}",
    "many widths": "{{ ('{:9999}' * 99999).format(*range(99999)) }}",
    "precision": "{{ '%.9999999999f' % 1.5 }}",
    "sum of lists": "{{ [[1] * 99999] * 99999 | sum(start=[]) }}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "a tree of calls": "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "a tree of recursive loops": "{% for i in [[1, 1]] recursive %}{{ loop([[1, 1], [1, 1]]) }}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10**9) }}",
    "searching": "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{{ 'b' in s }}{{ s.find('b') }}{% endfor %}",
    "parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "blocks": "{% for i in [1] %}" * 50 + "{% endfor %}" * 50,
    "conditions": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "a long template": "x" * ((1 << 20) + 1),
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by attr": "{{ ('' | attr('__class__')).mro() }}",
    "classes by map": "{{ [''] | map(attribute='__class__') | list | first.mro() }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__globals__.os }}",
    "classes by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "the loader": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "changing a message": "{% set _ = messages.append(1) %}",
    "the probes": "{{ messages | shown! }}",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["ab\n" * 9], 300)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_an_error(name: str, tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = BOMBS[name]
    begin = time.process_time()
    with limited_memory(), pytest.raises(ValueError, match="chat_template"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert time.process_time() - begin < 10


def test_long_chats_are_within_the_budget(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' and 'x' not in m.content.split('</think>')[-1] | trim %}"
        "{% set content = '<|' ~ m.role ~ '|>' + m.content | trim + '\\n' %}{{ content | replace('&', '&amp;') }}"
        "{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "ab" * 5000}] * 300
    assert len(tokenizer.render_chat_template(messages)) == 300 * (10_000 + 9)
