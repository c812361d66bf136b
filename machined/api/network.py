"""NetworkService: what the network looks like from the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from basalt.machine.v1 import machine_pb2 as pb
from basalt.machine.v1 import machine_pb2_grpc as stubs
from machined.api.callers import caller_of, refuse
from machined.network.view import LinkView, bond_mode, vlan_id
from machined.network.wireguard import Endpoint, Peer

if TYPE_CHECKING:
    from machined.node import Node


class NetworkApi(stubs.NetworkServiceServicer):
    """See the contract."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def ListLinks(  # noqa: N802 - the contract's name
        self, request: pb.ListLinksRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListLinksResponse:
        """Each link with its addresses and routes."""
        await caller_of(context)
        try:
            links = await self._node.network.links() if self._node.network else ()
        except OSError as error:
            await refuse(context, error)
        return pb.ListLinksResponse(links=[_link(view) for view in links])


def _link(view: LinkView) -> pb.Link:
    link, tunnel = view.link, view.tunnel
    return pb.Link(
        name=link.name,
        index=link.index,
        kind=view.kind,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        carrier=link.carrier,
        master=view.master,
        parent=view.parent,
        addresses=[
            pb.NodeAddress(link=address.link, address=address.address, source=address.source)
            for address in view.addresses
        ],
        routes=[
            pb.LinkRoute(to=route.to, via=route.via, metric=route.metric, source=route.source) for route in view.routes
        ],
        vlan_id=vlan_id(link),
        bond_mode=bond_mode(link),
        bond_active=view.active_member,
        wireguard_public_key=tunnel.public_key if tunnel else "",
        wireguard_peers=[_peer(peer) for peer in tunnel.peers] if tunnel else [],
    )


def _peer(peer: Peer) -> pb.WireguardPeer:
    return pb.WireguardPeer(
        public_key=peer.public_key,
        endpoint=_endpoint(peer.endpoint),
        allowed_ips=sorted(peer.allowed_ips),
        last_handshake_unix=peer.last_handshake_unix,
        received_bytes=peer.received_bytes,
        sent_bytes=peer.sent_bytes,
    )


def _endpoint(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return ""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
