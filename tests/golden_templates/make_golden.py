"""Expected renders of ATOM's own chat templates and feature lines, made by jinja2 and transformers.

    pip install jinja2 transformers && python make_golden.py

Writes golden.jsonl beside it: {"id", "template", "messages" …, "out" | "error"} or {"id", "template", "context", …}.
The C++ test that reads it is atom/chat_template/golden_templates_test.cpp. All texts here are ours.
"""
import datetime
import json
import os

import jinja2
import transformers.utils.chat_template_utils as hf


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 22, 12, 34, 56, tzinfo=tz)


hf.datetime = Frozen

PLAIN = """{%- for turn in messages %}
<|start|>{{ turn.role }}
{{ turn.content | trim }}<|end|>
{%- endfor %}
{%- if add_generation_prompt %}

<|start|>assistant
{% endif -%}"""

HEADERS = """{{- bos_token }}
{%- set ns = namespace(system='', seen=false) %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{{- '[system]\\n' + 'Today: ' + strftime_now('%d %B %Y') + '\\n' + ns.system + '[stop]' }}
{%- for m in rest %}
    {%- if m.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('unknown role ' ~ m.role) }}
    {%- endif %}
    {%- if m.role == 'user' and loop.previtem is defined and loop.previtem.role == 'user' %}
        {{- raise_exception('two user turns in a row') }}
    {%- endif %}
    {{- '[' + m.role + ']\\n' }}
    {%- if m.content is string %}{{- m.content }}{%- elif m.content is iterable %}
        {%- for part in m.content if part.type == 'text' %}{{- part.text }}{%- if not loop.last %}{{- ' ' }}{% endif %}{%- endfor %}
    {%- endif %}
    {{- '[stop]' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]\\n' }}{%- endif %}"""

TOOLS = """{%- macro kind(schema) -%}
{%- if schema.type is string -%}{{ schema.type }}{%- elif schema.type is sequence -%}{{ schema.type | join(' or ') }}{%- else -%}any{%- endif -%}
{%- if schema['items'] -%}<{{ kind(schema['items']) }}>{%- endif -%}
{%- endmacro -%}
{%- macro signature(f, indent='  ') -%}
{{ f.name }}({% for name, p in f.parameters.properties.items() %}{{ name }}{{ '' if name in f.parameters.required else '?' }}: {{ kind(p) }}{{ ', ' if not loop.last }}{% endfor %})
{%- if f.description %}

{{ indent }}# {{ f.description | replace('\\n', ' ') }}
{%- endif -%}
{%- endmacro -%}
{%- if tools %}
TOOLS
{% for t in tools %}
{{ signature(t.function) }}
{{ t | tojson(indent=2) }}
{% endfor %}
{% endif %}
{%- for m in messages %}
{%- generation %}
{{ m.role | upper }}: {{ m.content or '' }}
{%- for c in m.tool_calls or [] %}
CALL {{ c.function.name }} {{ c.function.arguments | tojson if c.function.arguments is mapping else c.function.arguments }}
{%- for k, v in (c.function.arguments | dictsort if c.function.arguments is mapping else []) %}
 - {{ k }} = {{ v }}
{%- endfor %}
{%- endfor %}
{%- endgeneration %}
{%- endfor %}
"""

TOOL = {"type": "function", "function": {"name": "find", "description": "Finds\nthings — «fast».", "parameters": {
    "type": "object", "required": ["what"], "properties": {
        "what": {"type": "string"}, "where": {"type": ["string", "null"]}, "tags": {"type": "array", "items": {"type": "integer"}}}}}}
CHATS = {
    "one": [{"role": "user", "content": " Hello there \n"}],
    "system": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "你好 🌍"}, {"role": "assistant", "content": "Hi"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}],
    "twice": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "role": [{"role": "judge", "content": "a"}],
    "calls": [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "find", "arguments": {"what": "it's", "tags": [1, 2.0, None, True]}}},
        {"function": {"name": "find", "arguments": "{\"what\": 1}"}}]}, {"role": "tool", "content": "ok"}],
}

CONTEXT = {"s": " Ab\tc\n", "l": [3, 1, 2], "d": {"b": 1, "a": [1, {"z": None}], "é": True}, "e": [], "n": None, "f": 2.5,
           "m": [{"k": "x", "v": 2}, {"k": "y", "v": 1}, {"k": "x"}], "u": "naïve 🌍 'q'"}

FEATURES = [
    # literals and printing
    "{{ [1, 1.0, 1e16, 1e-5, 0.1 + 0.2, true, none, 'a', (1,), {}] }} {{ 0x1f }} {{ 0b11 }} {{ 1_000 }} {{ 'a' 'b' }}",
    "{{ ['it\\'s', \"q\\\"\", '\\\\', '\\n\\t', '\\x00', '\\u200b', u] }} {{ '\\u00e9\\101' }}",
    "{{ undefined }}|{{ n }}|{{ d }}|{{ range(3) }}|{{ d.keys() }}|{{ d.items() }}|{{ undefined is defined }}",
    # operators
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7.5 % 2 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 1 - 2 + 3 }}",
    "{{ 'a' + 'b' * 2 }} {{ [1] + [2] * 2 }} {{ (1, 2) + (3,) }} {{ 1 ~ 2 ~ none }} {{ 'x%sy%03d' % ('a', 7) }}",
    "{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ true == 1 }} {{ 'a' == 1 }} {{ (1,) == [1] }}",
    "{{ 1 in l }} {{ 'b' in d }} {{ 'a' in 'abc' }} {{ 9 not in l }} {{ not 1 in l }} {{ 1 in undefined }}",
    "{{ 1 and 0 }} {{ 0 or 'x' }} {{ not [] }} {{ 'a' if l else 'b' }} {{ 'a' if e }}|{{ 1 if e else 2 if n else 3 }}",
    # subscripts
    "{{ l[0] }} {{ l[-1] }} {{ l[1:] }} {{ l[::-1] }} {{ l[:-1] }} {{ 'héllo'[1:4] }} {{ u[6] }} {{ u[::-1] }} {{ l[5] }}|{{ range(9)[2:8:3] | list }}",
    "{{ d.b }} {{ d['a'][1].z }} {{ d.get('x', 4) }} {{ d['nope'] is defined }} {{ l.0 }} {{ d.items is callable }}",
    # statements
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}none{% endfor %}{% for x in e %}{% else %}empty{% endfor %}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l %}{% if loop.index == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is number %}{{ x }}@{{ loop.depth }}{% else %}({{ loop(x) }}){% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% set a = 1 %}{% for x in l %}{% set a = x %}{% endfor %}{{ a }}{% set ns = namespace(a=1) %}{% for x in l %}{% set ns.a = x %}{% endfor %}{{ ns.a }}",
    "{% set a, (b, c) = 1, [2, 3] %}{{ a }}{{ b }}{{ c }}{% set t | upper %}x{{ a }}{% endset %}{{ t }}",
    "{% if n %}1{% elif e %}2{% elif l %}3{% else %}4{% endif %}{% with a = 5, b = 6 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% macro f(a, b=a, *c) %}{% endmacro %}",
    "{% macro f(a, b='d') %}[{{ a }},{{ b }},{{ varargs }},{{ kwargs }}]{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, z=4) }}{{ f(b=1, a=2) }}{{ f(*[1, 2], **{'q': 3}) }}",
    "{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f(3) %}{{ y * 2 }}{% endcall %}",
    "{% macro f() %}{{ later }}{% endmacro %}{% set later = 'yes' %}{{ f() }}",
    "{% filter upper | trim %} abc {{ 1 }} {% endfilter %}{% generation %}g{% endgeneration %}{% raw %}{{ x }}{% endraw %}{# no #}",
    # white space
    "a\n  {% if true %}\n    b\n  {% endif %}\nc\n", "a {%- if true -%} b {%- endif -%} c", "  {%+ if true %}x{% endif +%}\n y",
    "{{ 1 }}\n{{- 2 -}}\n {{ 3 }}\r\n{% set x = 1 %}\r\nend", "  {# c #}\n  x {#- d -#} y", "{% raw -%}\n x \n{%- endraw %}\n\nz",
    # filters
    "{{ s | trim }}|{{ 'xax' | trim('x') }}|{{ 'a b' | title }}|{{ 'aB' | upper }}{{ 'aB' | lower }}{{ 'aB c' | capitalize }}|{{ 'ß' | upper }}",
    "{{ l | sort }}{{ l | sort(reverse=true) }}{{ m | sort(attribute='k') | map(attribute='v') | list }}{{ ['b', 'A'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}",
    "{{ l | first }}{{ l | last }}{{ l | length }}{{ l | sum }}{{ l | min }}{{ l | max }}{{ l | join('-') }}{{ m | join(',', attribute='k') }}{{ 'abc' | reverse }}{{ l | reverse | list }}",
    "{{ m | map(attribute='v', default=0) | list }}{{ l | map('string') | list }}{{ l | select('odd') | list }}{{ l | reject('gt', 1) | list }}{{ m | selectattr('v') | list }}{{ m | rejectattr('k', 'eq', 'x') | list }}",
    "{{ m | groupby('k') }}{{ l | batch(2, 0) | list }}{{ l | slice(2) | list }}{{ [1, 1, 2] | unique | list }}{{ d | items | list }}{{ d | dictsort(by='key', reverse=true) }}",
    "{{ d | tojson }} {{ d | tojson(indent=2) }} {{ d | tojson(sort_keys=true, ensure_ascii=true) }} {{ [1.0, 'é</\"'] | tojson(separators=(',', ':')) }}",
    "{{ '3' | int }}{{ 'x' | int(7) }}{{ '2.7' | float }}{{ 'ff' | int(0, 16) }}{{ 2.5 | round }}{{ 2.567 | round(2) }}{{ 2.1 | round(0, 'ceil') }}{{ -3 | abs }}{{ 3.9 | int }}",
    "{{ undefined | default('d') }}{{ '' | d('e', true) }}{{ n | default('f') }}{{ 'a\\nb\\n\\nc' | indent(2) }}|{{ 'a\\nb' | indent(1, true) }}|{{ 'abab' | replace('a', 'c', 1) }}",
    "{{ '<&>' | e }}{{ ('<' | e) + '<' }}{{ '<b>x</b>' | striptags }}{{ 'a b/é' | urlencode }}{{ 'a b c' | wordcount }}{{ 'one two three' | truncate(8, leeway=0) }}{{ 'aa bb cc' | wordwrap(5) }}",
    "{{ 1234567 | filesizeformat }}{{ '%s-%s' | format(1, 'x') }}{{ 'x' | center(5) }}|{{ d | string }}{{ 'abc' | list }}{{ m[0] | attr('k') is defined }}",
    # tests
    "{{ 1 is number }}{{ 1.0 is float }}{{ 1 is integer }}{{ true is boolean }}{{ 'a' is string }}{{ d is mapping }}{{ l is sequence }}{{ 'a' is iterable }}{{ n is none }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 'a' is in 'abc' }}{{ 1 is not eq 2 }}{{ l is sameas l }}{{ 'A' is upper }}",
    # methods
    "{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}",
    "{{ 'abcb'.find('b') }}{{ 'abcb'.rfind('b') }}{{ 'é🌍x'.index('x') }}{{ 'abab'.count('ab') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('c') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.strip('ac') }}",
    "{{ '7'.zfill(3) }}{{ 'x'.center(5, '*') }}{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3) }}{{ '-'.join(['a', 'b']) }}{{ 'aB'.swapcase() }}{{ \"it's\".title() }}{{ '12'.isdigit() }}{{ 'a b'.isalpha() }}{{ ' '.isspace() }}",
    "{{ '{} {1}'.format(1) if false else '{0}-{a:>4}-{0:03d}-{b:.2f}-{c!r}'.format(5, a='x', b=2, c='q') }}{{ '%5.1f|%-4s|%x|%%' % (2.25, 'a', 255) }}",
    "{{ d.keys() | list }}{{ d.values() | list }}{{ l.index(1) }}{{ l.count(3) }}{{ d.copy() == d }}",
    "{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ dict(a=1, **{'b': 2}) }}",
    "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %b %j %U %w %y %I %p %-d %e %%') }}",
    # failures
    "{{ 'a' + 1 }}", "{{ undefined.x }}", "{{ undefined + 1 }}", "{{ none.x.y }}", "{{ 1 / 0 }}", "{{ l | nope }}", "{% if %}", "{{ l | map('upper') | length }}",
    "{{ raise_exception('own: ' ~ u) }}", "{{ l.append(1) }}", "{{ d.__class__.x }}", "{% for x in 5 %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ f(1) }}", "{{ {'a': undefined} | tojson }}",
]


def attempt(render):
    try:
        return {"out": render()}
    except jinja2.TemplateSyntaxError as e:
        return {"error": {"kind": "syntax", "message": str(e)}}
    except jinja2.TemplateError as e:
        return {"error": {"kind": "raise" if type(e) is jinja2.TemplateError else "runtime", "message": str(e)}}
    except Exception as e:
        return {"error": {"kind": "runtime", "message": f"{type(e).__name__}: {e}"}}


def main():
    lines = []
    for name, template in (("plain", PLAIN), ("headers", HEADERS), ("tools", TOOLS)):
        for chat, messages in CHATS.items():
            for tools in (None, [TOOL]) if name == "tools" else (None,):
                case = {"template": template, "messages": messages, "tools": tools, "add_generation_prompt": chat != "system", "bos_token": "<s>"}
                kept = [{k: v for k, v in m.items() if v is not None} for m in messages]
                result = attempt(lambda: hf.render_jinja_template(
                    conversations=[kept], tools=tools, chat_template=template, bos_token="<s>",
                    add_generation_prompt=case["add_generation_prompt"])[0][0])
                lines.append({"id": f"{name}/{chat}{'/tools' if tools else ''}", **case, **result})
    for i, template in enumerate(FEATURES):
        result = attempt(lambda: hf._compile_jinja_template(template).render(**json.loads(json.dumps(CONTEXT))))
        lines.append({"id": f"feature/{i}", "template": template, "context": CONTEXT, **result})
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.jsonl"), "w", encoding="utf-8") as f:
        for line in lines:
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(len(lines), "cases,", sum("error" in x for x in lines), "errors")


if __name__ == "__main__":
    main()
