"""The one spelling of each kind of text.

Each function gives it for a text that is valid, and raises ValueError, saying what is wrong, for another.
"""

from __future__ import annotations

import base64
import ipaddress
import re

from basalt import publickeys, reference

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


def hostname(text: str) -> str:
    lower = text.lower()
    if len(lower) > 63:  # HOST_NAME_MAX is 64; one DNS label holds 63
        raise ValueError(f"it has {len(lower)} characters")
    if re.fullmatch(LABEL, lower) is None:
        raise ValueError("a dot belongs to a domain" if "." in lower else "other characters, or '-' at an end")
    return lower


def domain(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > 253 or any(re.fullmatch(LABEL, label) is None for label in name.split(".")):
        raise ValueError("it is no domain name")
    return name


def interface_name(text: str) -> str:
    """The kernel takes more (dev_valid_name() in net/core/dev.c), but names also stand in firewall rules and paths."""
    if not 1 <= len(text) <= 15:  # IFNAMSIZ is 16 with its terminating NUL
        raise ValueError(f"it has {len(text)} characters")
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) is None:
        raise ValueError("it has others")
    if text in ("all", "default", "bonding_masters"):
        raise ValueError("below /proc/sys/net and /sys/class/net it means something else")
    return text


def mac(text: str) -> str:
    lower = text.lower().replace("-", ":")
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", lower) is None:
        raise ValueError("it is no MAC address")
    if int(lower[:2], 16) & 1:
        raise ValueError("it is a group address; no card has one")
    return lower


def prefixed(text: str) -> str:
    address, slash, length = text.partition("/")
    if not slash:
        example = f"{address}/64" if ":" in address else f"{address}/24"
        raise ValueError(f"its prefix length is missing (for example {example})")
    if not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError("its prefix length is no number")
    return address


def interface_address(text: str) -> str:
    ip_address(prefixed(text))
    interface = ipaddress.ip_interface(text)
    network = interface.network
    if network.version == 4 and network.prefixlen < 31:
        if interface.ip == network.network_address:
            raise ValueError(f"it is the address of the network {network} itself")
        if interface.ip == network.broadcast_address:
            raise ValueError(f"it is the broadcast address of {network}")
    return interface.with_prefixlen


def ip_address(text: str) -> str:
    if "%" in text:
        raise ValueError("a zone (%) has no place here")
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError("it is the address of no single machine")
    return str(address)


def destination(text: str) -> str:
    if text == "default":
        return text
    prefixed(text)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        network = ipaddress.ip_network(text, strict=False)
        raise ValueError(f"it has bits set after its prefix; the network is {network}") from None


def host(text: str) -> str:
    try:
        return ip_address(text)
    except ValueError:
        if re.fullmatch(r"[0-9.]+|.*:.*", text):
            raise
        return domain(text)


def pem(text: str) -> str:
    """One certificate, its base64 in lines of 64. Only its frame is read: what it certifies is judged where it is used."""
    match = re.fullmatch(r"\s*-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)\s+-----END CERTIFICATE-----\s*", text)
    if match is None:
        raise ValueError("it is not one PEM certificate")
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True)
    except ValueError as error:
        raise ValueError(f"its base64 is broken: {error}") from error
    body = base64.b64encode(der).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def serial(text: str) -> str:
    digits = text.lower().replace(":", "").removeprefix("0x").lstrip("0")
    if re.fullmatch(r"[0-9a-f]{1,40}", digits) is None:  # at most 20 octets, RFC 5280, section 4.1.2.2
        raise ValueError("it is no serial number")
    return digits


def prefix(text: str) -> str:
    return str(ipaddress.ip_network(text)) if "/" not in text else destination(text)


def sysctl_name(text: str) -> str:
    """In the spelling with dots. The first separator says which it is (sysctl.d(5)); with slashes the name is the path itself."""
    match = re.fullmatch(r"[a-z][a-z0-9_-]*([./])[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*", text)
    if match is None:
        raise ValueError("it is no name of a kernel setting")
    return text if match[1] == "." else text.translate(str.maketrans("./", "/."))


def wireguard_key(text: str) -> str:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("it is no key of 32 bytes in base64")
    return base64.b64encode(key).decode()


def port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 1 <= int(text) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def port_range(text: str) -> str:
    first, dash, last = text.partition("-")
    if not dash:
        return str(port(first))
    if port(first) > port(last):
        raise ValueError("it ends before it begins")
    return str(port(first)) if port(first) == port(last) else f"{port(first)}-{port(last)}"


def socket_address(text: str) -> str:
    match = re.fullmatch(r"(?:\[([^][]+)\]|([^][:\s]+)):([0-9]+)", text)
    if match is None:
        raise ValueError("its port is missing")
    name = host(match[1] or match[2])
    return f"[{name}]:{port(match[3])}" if ":" in name else f"{name}:{port(match[3])}"


def log_endpoint(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("udp", "tcp"):
        raise ValueError("it begins with neither udp:// nor tcp://")
    return f"{scheme}://{socket_address(rest.rstrip('/'))}"


def http_url(text: str) -> str:
    match = re.fullmatch(r"(https?)://([^/\s?#@]+)(/[^\s?#]*)?", text)
    if match is None:
        raise ValueError("it is no http:// or https:// address without user, query and fragment")
    return f"{match[1]}://{registry_host(match[2])}{(match[3] or '').rstrip('/')}"


def registry_host(text: str) -> str:
    if re.fullmatch(r"[^][:\s]+|\[[^][]+\]", text):
        name = host(text.strip("[]"))
        return f"[{name}]" if ":" in name else name
    return socket_address(text)


def registry(text: str) -> str:
    return text if text == "*" else registry_host(text)


def secret(text: str) -> str:
    if not 1 <= len(text) <= 4096:
        raise ValueError(f"it has {len(text)} characters")
    return secret_value(text)


def secret_value(text: str) -> str:
    if len(text) > 4096 or not text.isprintable():
        raise ValueError("it is no line of printable text")
    return text


def secret_text(text: str) -> str:
    if not 1 <= len(text) <= 65536:
        raise ValueError(f"it has {len(text)} characters")
    if re.fullmatch(r"\[redacted[^\]]*\]", text.strip()):  # a placeholder that got a line of its own
        raise ValueError("it stands for a secret and is none")
    return _any_text(text)


def line(text: str) -> str:
    """An argument or the value of a variable. Linux takes 128 KiB of each (MAX_ARG_STRLEN), in UTF-8."""
    if len(text) > 32768:
        raise ValueError(f"it has {len(text)} characters")
    return _any_text(text)


def toml(text: str) -> str:
    """A document as it stands, but for space around it. The parser's words name line and column in the text."""
    import tomllib  # late: few configurations have any

    if not 1 <= len(text) <= 65536:
        raise ValueError(f"it has {len(text)} characters")
    try:
        tomllib.loads(text)
    except ValueError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return text.strip() + "\n"


def _any_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL, which would end it")
    if re.search(r"[\ud800-\udfff]", text):
        raise ValueError("half a character: a surrogate alone")
    return text


_UNITS = {
    "": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def size_bytes(text: str) -> int:
    """A valid :data:`Size` in bytes."""
    match = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError("it is no size")
    return int(match[1]) * _UNITS[match[2]]


def size(text: str) -> str:
    if size_bytes(text) == 0:
        raise ValueError("it is nothing")
    return text.replace(" ", "").lstrip("0")


def words(text: str) -> str:
    if not 1 <= len(text) <= 255:
        raise ValueError(f"it has {len(text)} characters")
    if not text.isprintable():
        raise ValueError("a character that is not printable")
    if text != text.strip():
        raise ValueError("a space at an end")
    return text


def sysctl_value(text: str) -> str:
    words = " ".join(text.split())  # the kernel shows tabs where spaces were written
    if re.fullmatch(r"[ -~]{1,1024}", words) is None:
        raise ValueError("it is no line of text")
    return words


# linux/capability.h, from 0 on, without CAP_.
_CAPABILITIES = re.compile(
    "CHOWN|DAC_OVERRIDE|DAC_READ_SEARCH|FOWNER|FSETID|KILL|SETGID|SETUID|SETPCAP|LINUX_IMMUTABLE|NET_BIND_SERVICE|"
    "NET_BROADCAST|NET_ADMIN|NET_RAW|IPC_LOCK|IPC_OWNER|SYS_MODULE|SYS_RAWIO|SYS_CHROOT|SYS_PTRACE|SYS_PACCT|SYS_ADMIN|"
    "SYS_BOOT|SYS_NICE|SYS_RESOURCE|SYS_TIME|SYS_TTY_CONFIG|MKNOD|LEASE|AUDIT_WRITE|AUDIT_CONTROL|SETFCAP|MAC_OVERRIDE|"
    "MAC_ADMIN|SYSLOG|WAKE_ALARM|BLOCK_SUSPEND|AUDIT_READ|PERFMON|BPF|CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = "ALL"


def capability(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != ALL_CAPABILITIES and _CAPABILITIES.fullmatch(name) is None:
        raise ValueError("the kernel has no such capability")
    return name


def container_path(text: str) -> str:
    path = container_directory(text)
    if path == "/":
        raise ValueError("it is the whole file system of the container")
    return path


def container_directory(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it does not begin with '/'")
    if len(text.encode(errors="replace")) >= 4096 or not text.isprintable():  # PATH_MAX, with its terminating NUL
        raise ValueError("it is longer than 4095 bytes, or not printable")
    path = text.removesuffix("/")
    for part in path.split("/")[1:]:
        if part in ("", ".", ".."):
            raise ValueError(f"a part that is {part!r}" if part else "two '/' together")
    return path or "/"


def cpu_millis(text: str) -> int:
    """A valid :data:`CpuAmount` in thousandths of a processor."""
    match = re.fullmatch(r"([0-9]{1,4})(?:\.([0-9]{1,3}))?", text)
    if match is None:
        raise ValueError("it is no number with up to three decimals")
    return int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0"))


def cpu_amount(text: str) -> str:
    millis = cpu_millis(text)
    if not 10 <= millis <= 1024_000:  # the kernel gives no less than 1 ms in a period of 100 (kernel/sched/core.c)
        raise ValueError("it is less than 0.01" if millis < 10 else "it is more than 1024")
    return f"{millis // 1000}.{millis % 1000:03}".rstrip("0").rstrip(".")


def file_mode(text: str) -> str:
    """As it was written: nothing here makes a number of 0400 first, as YAML's own readers would."""
    if re.fullmatch("[0-7]{4}", text) and text[0] != "0":
        raise ValueError("setuid, setgid and sticky bits have no place here")
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise ValueError("it is no mode")
    return text.rjust(4, "0")


def hugepage_size(text: str) -> str:
    size = {2 << 20: "2MiB", 1 << 30: "1GiB"}.get(size_bytes(text))
    if size is None:
        raise ValueError("pages have another size")
    return size


def image_reference(text: str) -> str:
    return str(reference.parse(text))


def image_pattern(text: str) -> str:
    return reference.pattern(text)


def public_key(text: str) -> str:
    return publickeys.canonical(text)


def user_and_group(text: str) -> str:
    parts = text.split(":")
    if len(parts) > 2:
        raise ValueError("more than one ':'")
    return ":".join(_user_or_group(part) for part in parts)


def owner(text: str) -> str:
    """By number: the node has no users, and an image's names are its own."""
    if re.fullmatch("[0-9]+(:[0-9]+)?", text) is None:
        raise ValueError("it is no number, or two with ':' between")
    return user_and_group(text)


def _user_or_group(text: str) -> str:
    if re.fullmatch("[0-9]+", text):
        if len(text) > 20 or int(text) > 2**32 - 2:  # the number after it means "leave as it is"; chown(2)
            raise ValueError(f"the last number is {2**32 - 2}")
        return str(int(text))
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", text) is None:
        raise ValueError("it is no name of a user or group")
    return text
