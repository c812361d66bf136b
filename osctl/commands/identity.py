"""get identity and enroll: the certificates by which a node is recognised."""

from __future__ import annotations

import datetime

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import machine_pb2 as api
from basalt.pki import NEVER, clock
from osctl import answers
from osctl.enrolment import Enrolment, enrol
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of


def get(arguments: Arguments) -> int:
    def ask(target: Target) -> api.GetIdentityResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.identity()

    def text(answer: api.GetIdentityResponse) -> str:
        enrolled = (
            f"{answer.issuer_authority}, to {_instant(answer.issuer_not_after_unix)}"
            if answer.issuer_certificate
            else "nobody yet; `osctl enroll` does it"
        )
        facts = output.pairs({"node": answer.node_id, "vouched for": enrolled, "clock": _instant(answer.clock_unix)})
        rows = [
            (
                one.server_name,
                _instant(one.not_before_unix),
                _instant(one.not_after_unix),
                _instant(one.renew_unix) if one.renew_unix else "-",
                one.fingerprint,
            )
            for one in answer.certificates
        ]
        return f"{facts}\n\n{output.table(('name', 'valid from', 'to', 'renewed', 'fingerprint'), rows)}"

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text)


def _instant(unix: int) -> str:
    if unix >= int(NEVER.timestamp()):
        return "for ever"
    return clock(datetime.datetime.fromtimestamp(unix, datetime.UTC))


def enroll(arguments: Arguments) -> int:
    def act(target: Target) -> Enrolment:
        return enrol(target, arguments.context, lifetime=arguments.lifetime, timeout_s=timeout_of(arguments))

    return answers.show(on_all(targets_of(arguments), act), arguments.form, Enrolment.as_dict, str)
