"""Writes pydantic.jsonl: what pydantic emits, also made strict as OpenAI's Python client does, with values that satisfy it
and values that do not.    pip install "pydantic>=2" && python3 make_pydantic.py > pydantic.jsonl"""
import datetime
import decimal
import enum
import ipaddress
import json
import typing
import uuid

import annotated_types
import pydantic
from pydantic import BaseModel, Field


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Kinds(BaseModel):
    """All sorts of fields."""

    n: int = Field(ge=1, le=10)
    x: float = Field(gt=0, lt=1)
    step: typing.Annotated[int, annotated_types.MultipleOf(5)]
    name: str = Field(min_length=2, max_length=5, pattern="^[a-z]+$")
    colour: Colour
    one_of: typing.Literal["a", 1]
    maybe: typing.Optional[int] = None


class Times(BaseModel):
    day: datetime.date
    at: datetime.datetime
    clock: datetime.time
    long: datetime.timedelta
    key: uuid.UUID
    v4: ipaddress.IPv4Address
    v6: ipaddress.IPv6Address
    link: pydantic.AnyHttpUrl


class Lists(BaseModel):
    pair: tuple[int, str]
    many: tuple[int, ...]
    some: list[bool] = Field(min_length=1, max_length=2)
    table: dict[str, float]
    keyed: dict[typing.Annotated[str, Field(pattern="^k[0-9]$")], int]


class Cat(BaseModel):
    kind: typing.Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: typing.Literal["dog"]
    name: str


class Owner(BaseModel):
    pet: typing.Union[Cat, Dog] = Field(discriminator="kind")


class Node(BaseModel):
    value: int
    next: typing.Optional["Node"] = None


class Closed(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int


class Open(BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int


class Money(BaseModel):
    amount: decimal.Decimal


def strict(schema):
    """What OpenAI's structured outputs ask for: every property required, no others."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: strict(v) for k, v in schema.items() if k != "default"}
    if "properties" in out:
        out["required"] = list(out["properties"])
        out["additionalProperties"] = False
    return out


kinds = {"n": 1, "x": 0.5, "step": 10, "name": "abc", "colour": "red", "one_of": 1, "maybe": None}
times = {"day": "2024-02-29", "at": "2024-01-31T01:02:03Z", "clock": "23:59:59Z", "long": "P1DT2H",
         "key": "123e4567-e89b-12d3-a456-426614174000", "v4": "127.0.0.1", "v6": "2001:db8::1", "link": "http://example.com/"}
lists = {"pair": [1, "a"], "many": [1, 2, 3], "some": [True], "table": {"a": 1.5, "b": 2}, "keyed": {"k1": 1}}


def changed(value, **fields):
    return {**value, **fields}


CASES = [
    ("kinds", Kinds, [kinds, changed(kinds, one_of="a", maybe=3)],
     [changed(kinds, n=0), changed(kinds, n=11), changed(kinds, x=0), changed(kinds, x=1), changed(kinds, step=7),
      changed(kinds, name="abcdef"), changed(kinds, name="ABC"), changed(kinds, colour="green"), changed(kinds, one_of=2)]),
    ("times", Times, [times, changed(times, v6="::")],
     [changed(times, day="2023-02-29"), changed(times, day="2023-13-01"), changed(times, key="x"), changed(times, v4="256.0.0.1"),
      changed(times, v6="1::2::3"), changed(times, long="P"), changed(times, link="nothing"), changed(times, clock="24:00:00Z")]),
    ("lists", Lists, [lists, changed(lists, many=[], table={}, keyed={})],
     [changed(lists, pair=[1]), changed(lists, pair=[1, "a", 2]), changed(lists, some=[]), changed(lists, some=[True] * 3),
      changed(lists, keyed={"x1": 1}), changed(lists, table={"a": "b"})]),
    ("union", Owner, [{"pet": {"kind": "cat", "lives": 9}}, {"pet": {"kind": "dog", "name": "x"}}],
     [{"pet": {"kind": "cat", "name": "x"}}, {"pet": {"kind": "cow"}}]),
    ("recursive", Node, [{"value": 1}, {"value": 1, "next": {"value": 2, "next": None}}], [{"next": None}, {"value": 1, "next": 5}]),
    ("closed", Closed, [{"a": 1}], [{"a": 1, "b": 2}, {}]),
    ("open", Open, [{"a": 1}, {"a": 1, "b": [2]}], [{}, {"b": 1}]),
    ("decimal", Money, [{"amount": 12.5}, {"amount": "-12.50"}], [{"amount": "x"}, {"amount": True}]),
    ("list", pydantic.TypeAdapter(list[Closed]), [[], [{"a": 1}]], [{"a": 1}, [{}]]),
]
for name, model, valid, invalid in CASES:
    schema = model.json_schema() if isinstance(model, pydantic.TypeAdapter) else model.model_json_schema()
    print(json.dumps({"name": name, "schema": schema, "valid": valid, "invalid": invalid}))
for name, model, valid, invalid in CASES[:1] + CASES[3:4]:
    print(json.dumps({"name": name + ", strict", "schema": strict(model.model_json_schema()), "valid": valid, "invalid": invalid}))
