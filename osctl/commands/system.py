"""version, status, get links, services, reboot, shutdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import time
from typing import Any

from basalt import output
from basalt.client import Target, connect
from basalt.commandline import Arguments
from basalt.machine.v1 import machine_pb2 as api
from basalt.pki import clock
from osctl import answers
from osctl.fleet import on_all
from osctl.messages import plain
from osctl.selection import targets_of, timeout_of


def client_version() -> str:
    """This client's version; "unknown" in a checkout that is not installed."""
    try:
        return importlib.metadata.version("basalt")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def version(arguments: Arguments) -> int:
    if arguments.client:
        own = {"client": client_version()}
        if arguments.form == "table":
            print(output.pairs(own))
        else:
            output.emit(own, arguments.form)
        return 0

    def ask(target: Target) -> api.VersionResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.version()

    def text(answer: api.VersionResponse) -> str:
        stages = ", ".join(f"{stage.name} {stage.duration_usec / 1e6:.2f} s" for stage in answer.boot_stages)
        return output.pairs(
            {
                "version": f"{answer.version} ({answer.profile}, {answer.arch})",
                "kernel": answer.kernel_release,
                "slot": answer.slot or "none",
                "root hash": answer.root_hash,
                "node": answer.node_id,
                "fingerprint": answer.fingerprint,
                "boot": answer.boot_id,
                **({"boot took": stages} if stages else {}),
                "osctl": client_version(),
            }
        )

    outcomes = on_all(targets_of(arguments), ask)
    return answers.show(outcomes, arguments.form, lambda answer: {**plain(answer), "client": client_version()}, text)


def status(arguments: Arguments) -> int:
    def ask(target: Target) -> api.StatusResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.status()

    def text(answer: api.StatusResponse) -> str:
        used = answer.memory_total_bytes - answer.memory_available_bytes
        facts = output.pairs(
            {
                "mode": answer.mode,
                "hostname": answer.hostname,
                "generation": answer.generation or "none",
                "addresses": ", ".join(f"{one.link} {one.address} ({one.source})" for one in answer.addresses)
                or "none",
                "memory": f"{output.size(used)} of {output.size(answer.memory_total_bytes)} used",
                "up": output.duration(answer.uptime_s),
            }
        )
        banner = ""
        if answer.trial_left_s:
            banner = (
                f"ON TRIAL: generation {answer.generation} is taken back in {output.duration(answer.trial_left_s)}; "
                "`osctl config confirm` keeps it\n\n"
            )
        header = ("concern", "state", "since", "reason", "what next")
        rows = [
            (one["name"], one["state"], _since(one, answer), one["reason"], _what_next(one))
            for one in plain(answer)["concerns"]
        ]
        return banner + (f"{facts}\n\n{output.table(header, rows)}" if rows else facts)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text)


def _since(concern: dict[str, Any], answer: api.StatusResponse) -> str:
    """How long the concern has been in its state, by the node's own clock."""
    if not concern["since_unix"]:
        return "-"
    return output.duration(max((answer.clock_unix or int(time.time())) - concern["since_unix"], 0))


def _what_next(concern: dict[str, Any]) -> str:
    """What to do, or what the node does by itself; how often it has failed so far."""
    parts = [concern["remedy"]]
    if concern["failures"]:
        parts.append(f"failed {concern['failures']} times" if concern["failures"] > 1 else "failed once")
    if concern["next_look_s"] and concern["state"] != "converged":
        parts.append(f"looks again in {output.duration(max(concern['next_look_s'], 1))}")
    return "; ".join(part for part in parts if part)


def links(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListLinksResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.links()

    def text(answer: api.ListLinksResponse) -> str:
        rows = [
            (
                one.name,
                one.kind,
                ("up" if one.carrier else "no carrier") if one.up else "off",
                one.mac or "-",
                one.mtu,
                ", ".join(_address(address) for address in one.addresses) or "-",
                ", ".join(_route(route) for route in one.routes) or "-",
                _particulars(one),
            )
            for one in answer.links
        ]
        return output.table(("link", "kind", "state", "mac", "mtu", "addresses", "routes", "particulars"), rows)

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text, listing="links")


def _address(address: api.NodeAddress) -> str:
    return f"{address.address} ({address.source})" if address.source else address.address


def _route(route: api.LinkRoute) -> str:
    via = f" via {route.via}" if route.via else ""
    return f"{route.to}{via} ({route.source})"


def _particulars(link: api.Link) -> str:
    """What its kind brings with it."""
    handshakes = ", ".join(
        f"peer {peer.public_key} {_instant(peer.last_handshake_unix) if peer.last_handshake_unix else 'silent'}"
        for peer in link.wireguard_peers
    )
    parts = (
        f"vlan {link.vlan_id} on {link.parent}" if link.vlan_id else "",
        f"part of {link.master}" if link.master else "",
        f"{link.bond_mode}{f', {link.bond_active} active' if link.bond_active else ''}" if link.bond_mode else "",
        f"public key {link.wireguard_public_key}" if link.wireguard_public_key else "",
        handshakes,
    )
    return "; ".join(part for part in parts if part)


def _instant(unix: int) -> str:
    return clock(datetime.datetime.fromtimestamp(unix, datetime.UTC))


def services(arguments: Arguments) -> int:
    def ask(target: Target) -> api.ListServicesResponse:
        with connect(target, timeout_s=timeout_of(arguments)) as client:
            return client.services()

    def text(answer: api.ListServicesResponse) -> str:
        return output.table(
            ("service", "state", "ready", "pid", "since", "restarts"),
            [
                (one.name, one.state, one.ready, one.pid or "-", output.duration(one.state_seconds), one.restarts)
                for one in answer.services
            ],
        )

    return answers.show(on_all(targets_of(arguments), ask), arguments.form, plain, text, listing="services")


def reboot(arguments: Arguments) -> int:
    from osctl import progress
    from osctl.following import reboot_and_wait

    def act(target: Target) -> dict[str, object]:
        if arguments.wait is None:
            with connect(target, timeout_s=timeout_of(arguments)) as client:
                client.reboot()
            return {"rebooted": False, "requested": True}
        back = reboot_and_wait(
            target,
            timeout_s=timeout_of(arguments),
            wait_s=arguments.wait,
            tell=progress.teller(target.name, arguments.form),
        )
        return {
            "rebooted": True,
            "requested": True,
            "version": back.version,
            "slot": back.slot,
            "boot_id": back.boot_id,
        }

    def text(answer: dict[str, object]) -> str:
        if not answer["rebooted"]:
            return "rebooting"
        return output.printable(f"back with version {answer['version']}, slot {answer['slot'] or 'none'}")

    return answers.show(on_all(targets_of(arguments), act), arguments.form, dict, text)


def shutdown(arguments: Arguments) -> int:
    from osctl.following import shut_down_and_wait

    def act(target: Target) -> dict[str, object]:
        if arguments.wait is None:
            with connect(target, timeout_s=timeout_of(arguments)) as client:
                client.shutdown()
            return {"requested": True, "gone": False}
        shut_down_and_wait(target, timeout_s=timeout_of(arguments), wait_s=arguments.wait)
        return {"requested": True, "gone": True}

    def text(answer: dict[str, object]) -> str:
        return "gone" if answer["gone"] else "switching off"

    return answers.show(on_all(targets_of(arguments), act), arguments.form, dict, text)
