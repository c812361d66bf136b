"""The sockets of a DHCP client: a packet socket below IP, and a UDP socket for when the link has its address.

Replies arrive before the link has an address, so they are read below the IP layer, through a filter that lets only UDP to port 68
pass: everything else on the link must not wake the daemon. UDP checksums are not verified: between virtual machines on one host
they are left for hardware that is not there to fill in (packet(7), TP_STATUS_CSUMNOTREADY), and what a forged packet could say it
could say with a right checksum as well.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct

SERVER_PORT = 67
CLIENT_PORT = 68
SERVER_PORT_6 = 547
CLIENT_PORT_6 = 546
_ALL_SERVERS_6 = "ff02::1:2"
_ETH_P_IP = 0x0800
_SO_ATTACH_FILTER = 26
_BROADCAST_MAC = b"\xff" * 6

# Classic BPF on what a SOCK_DGRAM packet socket shows, which begins at the IP header: UDP, not a later fragment, to port 68.
_FILTER = (
    (0x30, 0, 0, 9),  # ldb [9]           protocol
    (0x15, 0, 6, 17),  # jeq UDP, else drop
    (0x28, 0, 0, 6),  # ldh [6]           fragment offset
    (0x45, 4, 0, 0x1FFF),  # jset: drop
    (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf)  header length
    (0x48, 0, 0, 2),  # ldh [x+2]         destination port
    (0x15, 0, 1, CLIENT_PORT),
    (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
    (0x06, 0, 0, 0),  # drop
)


def _attach_filter(sock: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer)))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def wrap(payload: bytes) -> bytes:
    """An IP and a UDP header around *payload*, from nobody to everybody. A UDP checksum of 0 means "none" (RFC 768)."""
    length = 20 + 8 + len(payload)
    everybody = ipaddress.IPv4Address("255.255.255.255").packed
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_UDP, 0, bytes(4), everybody)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return header + struct.pack("!HHHH", CLIENT_PORT, SERVER_PORT, 8 + len(payload), 0) + payload


def unwrap(packet: bytes) -> bytes:
    """The payload of a packet that passed the filter; empty when it is cut off."""
    header = (packet[0] & 0xF) * 4 if packet else 0
    return packet[header + 8 :]


class LinkSockets:
    """Both sockets, bound to one link."""

    def __init__(self, link: str) -> None:
        self._link = link
        self.packets = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
        try:
            _attach_filter(self.packets)
            self.packets.bind((link, _ETH_P_IP))
            # Held open though replies are read below IP: without it the kernel would answer them with "port unreachable".
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except BaseException:
            self.packets.close()
            raise
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode() + b"\0")
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        self._udp.bind(("0.0.0.0", CLIENT_PORT))

    def send(self, payload: bytes, server: ipaddress.IPv4Address | None) -> None:
        """Send to *server* through IP, or to everybody below it.

        :raises OSError: the link is down or has gone; the client tries again at its next deadline.
        """
        if server is None:
            self.packets.sendto(wrap(payload), (self._link, _ETH_P_IP, 0, 0, _BROADCAST_MAC))
        else:
            self._udp.sendto(payload, (str(server), SERVER_PORT))

    def close(self) -> None:
        """Close both."""
        self.packets.close()
        self._udp.close()


class LinkSocket6:
    """The socket of a DHCPv6 client, bound to one link: IPv6 has a link-local address to talk from before anything else."""

    def __init__(self, link: str) -> None:
        self._link = link
        self.packets = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.packets.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode() + b"\0")
            self.packets.bind(("::", CLIENT_PORT_6))
        except BaseException:
            self.packets.close()
            raise

    def send(self, payload: bytes) -> None:
        """Send to all servers and relays of the link.

        :raises OSError: the link is down, or its link-local address is still being checked.
        """
        self.packets.sendto(payload, (_ALL_SERVERS_6, SERVER_PORT_6, 0, socket.if_nametoindex(self._link)))

    def close(self) -> None:
        """Close it."""
        self.packets.close()
