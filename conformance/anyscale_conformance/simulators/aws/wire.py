"""AWS's query protocol on the way in, and its XML and JSON on the way out."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

import attrs

from anyscale_conformance.simulators.aws.signing import Refusal

REQUEST_ID = "5e0f1e0d-5a3b-4b0e-8a35-000000000001"
EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"


@attrs.frozen(kw_only=True)
class Answer:
    """What goes back: status, headers, body."""

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b""


class Parameters:
    """The parameters of one request of the query protocol, by their dotted names."""

    def __init__(self, form: Mapping[str, str]) -> None:
        self.form = form

    def one(self, name: str, default: str = "") -> str:
        """Return a value."""
        return self.form.get(name, default)

    def many(self, name: str) -> list[str]:
        """Return a list: ``Name.1``, ``Name.2`` (or ``Name.member.1``)."""
        out = []
        for stem in (name, f"{name}.member"):
            number = 1
            while (key := f"{stem}.{number}") in self.form:
                out.append(self.form[key])
                number += 1
        return out

    def parts(self, name: str) -> "list[Parameters]":
        """Return a list of structures: ``Name.1.Key``."""
        out = []
        number = 1
        while found := self.below(f"{name}.{number}").form:
            out.append(Parameters(found))
            number += 1
        return out

    def below(self, name: str) -> "Parameters":
        """Return what begins with ``name.``."""
        stem = f"{name}."
        return Parameters({key[len(stem) :]: value for key, value in self.form.items() if key.startswith(stem)})

    def filters(self) -> dict[str, list[str]]:
        """Return EC2's filters."""
        return {part.one("Name"): part.many("Value") for part in self.parts("Filter")}

    def tags(self) -> dict[str, dict[str, str]]:
        """Return EC2's tag specifications by resource type."""
        return {
            spec.one("ResourceType"): {tag.one("Key"): tag.one("Value") for tag in spec.parts("Tag")}
            for spec in self.parts("TagSpecification")
        }


def refused(service: str, refusal: Refusal) -> Answer:
    """Return an error in the service's own form."""
    code, message = escape(refusal.code), escape(refusal.message)
    xml = f"<Code>{code}</Code><Message>{message}</Message>"
    if service == "ec2":
        body = f"<Response><Errors><Error>{xml}</Error></Errors><RequestID>{REQUEST_ID}</RequestID></Response>"
    elif service == "s3":
        body = f"<Error>{xml}<RequestId>{REQUEST_ID}</RequestId></Error>"
    elif service in ("servicequotas", "tagging", "pricing"):
        text = json.dumps({"__type": refusal.code, "message": refusal.message}).encode()
        return Answer(status=refusal.status, headers={"content-type": "application/x-amz-json-1.1"}, body=text)
    else:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type>{xml}</Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
        )
    return Answer(
        status=refusal.status,
        headers={"content-type": "text/xml", "x-amzn-requestid": REQUEST_ID, "x-amz-request-id": REQUEST_ID},
        body=f'<?xml version="1.0" encoding="UTF-8"?>{body}'.encode(),
    )


def ec2_answer(action: str, *children: str) -> Answer:
    """Return a response of EC2 whose children are XML already."""
    inner = "".join(children)
    body = f'<{action}Response xmlns="{EC2_NAMESPACE}"><requestId>{REQUEST_ID}</requestId>{inner}</{action}Response>'
    return Answer(headers={"content-type": "text/xml;charset=UTF-8"}, body=body.encode())


def query_answer(action: str, namespace: str, inner: str) -> Answer:
    """Return a response of the query protocol."""
    body = (
        f'<{action}Response xmlns="{namespace}"><{action}Result>{inner}</{action}Result>'
        f"<ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Answer(headers={"content-type": "text/xml", "x-amzn-requestid": REQUEST_ID}, body=body.encode())


def json_answer(value: Any) -> Answer:
    """Return a response of the JSON protocol."""
    return Answer(
        headers={"content-type": "application/x-amz-json-1.1", "x-amzn-requestid": REQUEST_ID},
        body=json.dumps(value).encode(),
    )


def fields(*children: str | None, **values: object) -> str:
    """Return elements of text, and then children that are XML already; None and empty ones are left out."""
    inner = "".join(f"<{key}>{escape(text(value))}</{key}>" for key, value in values.items() if value not in (None, ""))
    return inner + "".join(child for child in children if child)


def node(tag: str, /, *children: str | None, **values: object) -> str:
    """Return an element of these fields."""
    return f"<{tag}>{fields(*children, **values)}</{tag}>"


def items(name: str, children: Iterable[str]) -> str:
    """Return a list of EC2."""
    return node(name, *(f"<item>{child}</item>" for child in children))


def members(name: str, values: Iterable[object]) -> str:
    """Return a list of texts as the query protocol writes it."""
    return node(name, *(f"<member>{escape(text(value))}</member>" for value in values))


def text(value: object) -> str:
    """Return a value as AWS writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return str(value)
