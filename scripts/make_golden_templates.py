#!/usr/bin/env python3
"""Renders chat templates with Hugging Face's own Jinja environment and stores the results.

    python scripts/make_golden_templates.py MODEL.gguf      # writes tests/golden/templates.json

MODEL.gguf is the default model; its chat template is stored with the small templates of
tests/golden/templates/. Every template is rendered for every conversation below; where Jinja
refuses (raise_exception, missing fields), only the fact is stored. Needs transformers and gguf.
"""
import json
import pathlib
import sys

import gguf
from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place, \"now\" <or> later",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Köln"},
                "days": {"type": "integer", "description": "Days ahead", "default": 0},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function",
         "function": {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, call_id="call00001"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    """name -> variables of the template; also used to compare other templates by hand."""
    system, user = message("system", "Be brief."), message("user", "Hello, who are you?")
    answer = message("assistant", "A program.\nNothing more.")
    tool_turn = [
        message("user", "Weather in Köln?"),
        message("assistant", "", tool_calls=[call("get_weather", {"place": "Köln", "days": 2, "strict": True})]),
        message("tool", "{\"sky\": \"clear\", \"t\": 21.5}", name="get_weather", tool_call_id="call00001"),
        message("assistant", "Clear, 21.5 degrees."),
        message("user", "Thanks <b>& bye</b>"),
    ]
    parts = message("user", [{"type": "text", "text": "One part"}, {"type": "text", "text": "and two"}])
    thought = message("assistant", "<think>\nhm\n</think>\n\nFour.", reasoning_content="hm")
    cases = {
        "turns": dict(messages=[system, user, answer, message("user", "  Why?  ")]),
        "no_system": dict(messages=[user, answer, message("user", "Why?")]),
        "no_generation": dict(messages=[system, user, answer], add_generation_prompt=False),
        "empty": dict(messages=[message("system", ""), message("user", ""), message("assistant", ""), user]),
        "unicode": dict(messages=[message("system", "\u00a0Grüße \u3000"), message("user", "naïve 日本語 🙂 Ωß 'quote' \"x\"")]),
        "tools": dict(messages=[system, *tool_turn], tools=[WEATHER, CLOCK]),
        "tools_no_system": dict(messages=tool_turn[:3], tools=[WEATHER]),
        "tool_args_text": dict(messages=[user, message("assistant", None, tool_calls=[
            call("clock", "{}"), call("get_weather", "{\"place\": \"Rome\"}", "call00002")])],
            tools=[CLOCK], add_generation_prompt=False),
        "parts": dict(messages=[system, parts]),
        "thinking": dict(messages=[user, thought, message("user", "And 3+3?")], enable_thinking=False),
        "thinking_on": dict(messages=[system, user, thought, user], enable_thinking=True),
    }
    for case in cases.values():
        case.setdefault("add_generation_prompt", True)
        case.setdefault("tools", None)
        case["documents"] = None
        case["bos_token"], case["eos_token"] = "<s>", "</s>"
        case["date_string"] = "26 Jul 2024"
    return cases


# Small pieces, each rendered with {"s": ..., "n": ..., "items": ..., "d": ..., "none": null}.
SNIPPET_CONTEXT = {"s": "Hello, Wörld", "n": 7, "none": None, "x": 2.5, "yes": True,
                   "items": [{"a": 3, "t": "b"}, {"a": 1, "t": "B"}, {"a": 2, "t": "a", "z": [1, 2]}],
                   "d": {"one": 1, "two": [1, None, "x'y"], "Three": {"k": 0.1}}}
SNIPPETS = [
    # printing as Python does
    "{{ [1, 2.0, none, true, 'a', \"it's\", (1,), {'k': 1e-7}, 1e16, 12345678.9, '\\n\\u00e9'] }}",
    "{{ d }}|{{ d.items() }}|{{ d.keys() }}|{{ d|length }}|{{ 1, 2 }}|{{ () }}|{{ undefined_name }}|{{ none }}",
    "{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ -2 ** 2 }}",
    "{{ 1_000 + 0x1F + 0b11 + 0o7 }} {{ 1.5e3 }} {{ 1e3 }} {{ true + true }} {{ 3 * 'ab' }} {{ [1] * 2 + [0] }} {{ 1 ~ 2 ~ none }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ not 1 == 2 }} {{ 1 in [1.0] }} {{ 'x' not in 'abc' }}",
    "{{ none or '' or 'last' }} {{ 1 and 0 and 2 }} {{ 'a' if n > 5 else 'b' if n > 3 else 'c' }}|{{ 'gone' if false }}|",
    "{{ 'a' 'b' }} {{ \"tab\\tq\\x41\\101\\q\" }} {{ '\\\\n' }} {{ '🙂'|length }} {{ '\\U0001F642' }}",
    # looking things up
    "{{ s[0] }}{{ s[-1] }}{{ s[7:] }}{{ s[::-1] }}{{ s[-3:-1] }}{{ s[::2] }}|{{ s[99] }}|{{ [1,2,3][5:] }}{{ [1,2,3,4][3:0:-2] }}{{ (1,2,3)[:-1] }}",
    "{{ d.one }}{{ d['two'][2] }}{{ d.Three.k }}{{ d.nope }}{{ d.get('nope') }}{{ d.get('nope', 4) }}{{ items.0.a }}{{ items[1].t }}{{ none.foo }}",
    "{{ {'items': 5}.items is callable }} {{ {'items': 5}['items'] }} {{ {1: 'a', 1.0: 'b', true: 'c'} }} {{ d.keys()|list }} {{ d.values()|list|length }}",
    # tests
    "{{ s is string }}{{ n is number }}{{ yes is integer }}{{ yes is boolean }}{{ x is float }}{{ d is mapping }}{{ s is sequence }}{{ n is iterable }}{{ none is none }}{{ zip is defined }}{{ zip is undefined }}",
    "{{ n is odd }}{{ n is even }}{{ n is divisibleby 7 }}{{ n is divisibleby(2) }}{{ n is eq 7 }}{{ n is ne 7 }}{{ n is in [7] }}{{ n is not in [7] }}{{ n is gt 3 }}{{ n is sameas n }}{{ 'A' is upper }}{{ 'a' is lower }}{{ true is true }}{{ 1 is true }}{{ false is false }}",
    "{{ d.items() is sequence }}{{ d.items() is iterable }}{{ range(3) is sequence }}{{ zip is iterable }}{{ zip is sequence }}{{ not n is string }}{{ n is not string and n is defined or false }}",
    # filters
    "{{ '  x '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 'hello world-wide (web)'|title }}|{{ 'hELLO'|capitalize }}|{{ s|upper }}|{{ s|lower }}|{{ 'aXbX'|replace('X', '--', 1) }}|{{ 12|string + 'a' }}",
    "{{ items|map(attribute='a')|list }}{{ items|map(attribute='q', default=0)|list }}{{ ['a', 'b']|map('upper')|join('+') }}{{ items|selectattr('z', 'defined')|list|length }}{{ items|rejectattr('a', 'gt', 1)|map(attribute='t')|first }}",
    "{{ [0, 1, '', 'a']|select|list }}{{ [0, 1, 2]|reject('odd')|list }}{{ items|sort(attribute='a')|map(attribute='a')|list }}{{ items|sort(attribute='t,a', reverse=true)|map(attribute='a')|list }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A']|sort(case_sensitive=true) }}",
    "{{ ['a', 'A', 'b', 'a']|unique|list }}{{ ['a', 'A']|unique(true)|list }}{{ [3, 1, 2]|reverse|list }}{{ 'añb'|reverse }}{{ [3, 1]|min }}{{ [3, 1]|max }}{{ items|max(attribute='a') }}{{ [1, 2.5]|sum }}{{ items|sum(attribute='a', start=10) }}{{ [1, 2, 3]|batch(2, 'f')|list }}",
    "{{ d|dictsort }}{{ d|dictsort(true) }}{{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}{{ d|items|list }}{{ {'a': 1}.items()|list }}{{ [[1, 2], [3]]|sum(start=[]) }}{{ items|groupby('t') | length }}",
    "{{ 42.55|round }} {{ 42.55|round(1, 'floor') }} {{ 42.51|round(1, 'ceil') }} {{ 2.5|round }} {{ 3.5|round }} {{ 5|round }} {{ 0.125|round(2) }} {{ -3|abs }} {{ -3.5|abs }} {{ '42.7'|int }} {{ 'x'|int(9) }} {{ '0x1f'|int(0, 16) }} {{ ' 12 '|int }} {{ '1.5'|float }} {{ 'q'|float }} {{ 3.99|int }} {{ 3|float }}",
    "{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(width='> ', blank=true) }}|{{ ''|indent(3, first=true) }}|{{ 'a b  c'|wordcount }}|{{ 'ab'|center(7) }}|{{ '%s-%05.2f-%d' | format('x', 3.14159, 7) }}|{{ '%r %x %%' % ('q', 255) }}",
    "{{ zip|default('D') }}{{ ''|default('E') }}{{ ''|default('F', true) }}{{ none|d('G', boolean=true) }}{{ []|first }}{{ [1]|last }}{{ 'abc'|first }}{{ 'abc'|list }}{{ 'ab'|join(',') }}{{ [1, none]|join }}{{ items|join(', ', attribute='a') }}{{ none|list if none }}",
    "{{ d|tojson }}|{{ d|tojson(indent=2) }}|{{ [] | tojson(indent=2) }}{{ {} | tojson(2) }}|{{ '<é\u2028\x7f\x01\"/>'|tojson }}|{{ 'é🙂'|tojson(ensure_ascii=true) }}|{{ d|tojson(sort_keys=true, separators=(',', ':')) }}|{{ 1.0|tojson }}{{ (1, 2)|tojson }}{{ {1: 2, none: 3, true: 4}|tojson }}",
    "{{ '<a>'|e }}{{ '<a>'|safe + '<b>' }}{{ ('<' + '&')|escape ~ '<c>' }}{{ '<a>'|safe|upper + '\"' }}{{ 'a b/c?é'|urlencode }}",
    # methods
    "{{ ' a '.strip() }}|{{ 'xay'.strip('xy') }}|{{ 'aab'.lstrip('a') }}|{{ 'a\n'.rstrip() }}|{{ 'a,b,c'.split(',', 1) }}|{{ ' a b '.split() }}|{{ 'a b c '.split(none, 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a-b'.partition('-') }}|{{ 'a'.partition('-') }}|{{ 'a\r\nb\n'.splitlines() }}",
    "{{ s.startswith('He') }}{{ s.endswith(('x', 'ld')) }}{{ s.find('W') }}{{ s.find('r') }}{{ s.rfind('zz') }}{{ s.count('l') }}{{ 'héé'.index('é') }}{{ s.replace('l', 'L', 2) }}{{ '-'.join(['a', 'b']) }}{{ \"they're bill's\".title() }}{{ 'ß'.upper() }}{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ 'aB'.islower() }}",
    "{{ '{} {1}'.format(1, 2) if false else '{0}-{k}-{{}}'.format(1, k='v') }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'a'.ljust(3, '.') }}|{{ 'a'.rjust(3) }}|{{ 'ab'.center(5) }}|{{ 'abc'.removeprefix('a').removesuffix('c') }}|{{ [1, 2, 1].count(1) }}{{ [1, 2].index(2) }}",
    # statements
    "{% for i in items %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.a if loop.previtem is defined }}{{ loop.nextitem.a if not loop.last else loop.nextitem }}{{ loop.cycle('o', 'e') }}{{ loop.changed(i.t) }};{% endfor %}",
    "{% for k, (a, b) in [(1, (2, 3)), [4, 'xy']] %}{{ k }}{{ a }}{{ b }} {% endfor %}{% for x in [] %}{% else %}none{% endfor %}{% for c in 'añ' %}{{ c }}.{% endfor %}{% for k in d %}{{ k }},{% endfor %}{% for q in zip %}{% else %}E{% endfor %}",
    "{% for i in range(10) if i is odd %}{% if i == 7 %}{% break %}{% endif %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}/{{ loop.length }} {% endfor %}{{ range(5, 0, -2)|list }}{{ i is defined }}",
    "{% set a = 1 %}{% for i in [1, 2] %}{{ a }}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}{% if true %}{% set a = 9 %}{% endif %}{{ a }}{% set b, c = 1, 2 %}{{ b }}{{ c }}{% set t %}in {{ a }}{% set a = 5 %}{% endset %}{{ t }}{{ a }}{% set u | upper | trim %} x{% endset %}{{ u }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}{% set ns.c, z = 5, 6 %}{{ ns.c }}{{ z }}{{ ns.nope is defined }}",
    "{% macro m(a, b='B', c=a) %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, 4, z=5) }}{{ m(b=1, a=2) }}{{ m() }}{% macro r(n) %}{{ n }}{% if n %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(4) }}{{ m.name }}{{ r(2)|length }}",
    "{% macro list(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, i) list([5, 6]) %}<{{ i }}={{ x }}>{% endcall %}{% filter upper|replace('A', 'b') %}a{{ s }}{% endfilter %}{% with q = 3, w = n %}{{ q + w }}{% endwith %}{{ q }}",
    "{% macro outer() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ outer() }}{% generation %}{% set g = 1 %}G{% endgeneration %}{{ g is defined }}{{ dict(a=1, b=2) }}{{ dict([('x', 1)], y=2) }}{{ dict(d, one=0).one }}",
    "{% set gen = items|map(attribute='a') %}{{ gen|list }}{{ gen|list }}{{ 'y' if [] | select else 'n' }}{% set g2 = [1, 2]|select %}{{ g2|first }}{{ g2|first }}{{ g2|first }}",
    # white space
    "a\n  {% if true %}  \n b\n  {% endif %}\nc\n",
    "a\n  {%- if true -%}  \n b\n  {%+ endif +%}\nc  {{- 'x' -}}  d {#- c -#} e\n{# own line #}\n  {# and #} f\n\n",
    "  {% raw %} {{ no }} {% if %}{% endraw %} x {%- raw -%}  y  {%- endraw -%}  z{% raw %}\nq{% endraw %}\nw",
    "{% if false %}{% else %}\n1{% endif %}\n\n{{ '{{' }}{{ '}}' }}{{ {'a': {'b': 1}} }}{{ '%}' }} {% set x = '{# no #}' %}\n{{ x }}\r\nq",
    "\t {% for i in [1, 2] %}\n\t {{ i }}\n\t {% endfor %}\n {{ 1 -}} \n {{- 2 }}\n{%- set x = 1 %} \n{{ x }}",
    # refused by Jinja as well
    "{{ zip.foo }}", "{{ zip + 1 }}", "{{ 'a' + 1 }}", "{{ none|length }}", "{{ 1 / 0 }}", "{{ n() }}", "{{ s.nope() }}",
    "{{ [1].append(2) }}", "{{ d.update({}) }}", "{{ raise_exception('no') }}", "{{ 'a' < 1 }}", "{{ 1 in 'abc' }}",
    "{% for a, b in [[1]] %}{% endfor %}", "{{ range(200000)|length }}", "{{ zip|tojson }}", "{% set s.x = 1 %}", "{{ d|first|nofilter }}",
    "{% if %}x{% endif %}", "{{ (1 }}", "{% endfor %}", "{% for x in s %}", "{{ 'abc }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{{ {[1]: 2} }}",
]


def render(source, context):
    """The text, or None where Jinja reports an error."""
    try:
        return _compile_jinja_template(source).render(**context)
    except Exception:  # raise_exception, undefined values, type errors: all of them count as "no"
        return None


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    templates = {"default_model": bytes(reader.fields["tokenizer.chat_template"].parts[-1]).decode()}
    for path in sorted((ROOT / "tests/golden/templates").glob("*.jinja")):
        templates[path.stem] = path.read_text(encoding="utf-8")
    cases = conversations()
    rows = [{"template": name, "case": case, "text": render(source, cases[case])}
            for name, source in templates.items() for case in cases]
    snippets = [{"source": source, "text": render(source, SNIPPET_CONTEXT)} for source in SNIPPETS]
    golden = {"templates": templates, "cases": cases, "rendered": rows,
              "snippet_context": SNIPPET_CONTEXT, "snippets": snippets}
    out = ROOT / "tests/golden/templates.json"
    out.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    good = sum(row["text"] is not None for row in rows)
    print(f"{out.relative_to(ROOT)}: {len(templates)} templates, {len(rows)} renderings, "
          f"{len(rows) - good} refusals, {len(snippets)} snippets, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
