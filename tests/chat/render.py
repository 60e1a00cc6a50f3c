#!/usr/bin/env python3
"""Renders every template of a folder with every conversation through Python's jinja2, set up as transformers does it.

Usage: render.py TEMPLATES CASES > rendered.json     (needs python3-jinja2)

The output is committed; render_test.cpp compares it with what gsd's interpreter makes of the same. null = jinja2 failed.
"""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 6, 15, 15, 6, 40)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return body


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


def main():
    folder, cases = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
    out = {}
    for path in sorted(folder.glob("*.jinja")):
        out[path.stem] = {}
        template = environment().from_string(path.read_text())
        for name, variables in cases.items():
            try:
                out[path.stem][name] = template.render(**variables)
            except Exception as e:  # what a template raises, and what Python does not allow
                print(f"{path.stem} {name}: {type(e).__name__} {e}", file=sys.stderr)
                out[path.stem][name] = None
    json.dump(out, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
