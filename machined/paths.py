"""Every path, port, uid, label and limit of the node, each with its reason.

The constants at module level are fixed by the image (osbuild lays the files out) and are all that ``/init`` needs; this module
therefore imports nothing at run time. :class:`Paths` holds what the daemon works on, so that a test can run it below any directory.
"""

from __future__ import annotations

# --- fixed by the image -------------------------------------------------------------------------------------------------------
PYTHON = "/usr/bin/python3.13"
S6_SVSCAN = "/usr/bin/s6-svscan"
S6_SVSCANCTL = "/usr/bin/s6-svscanctl"
S6_SVC = "/usr/bin/s6-svc"
S6_SVSTAT = "/usr/bin/s6-svstat"
S6_LOG = "/usr/bin/s6-log"
KMOD = "/usr/bin/kmod"
BLKID = "/usr/sbin/blkid"
SFDISK = "/usr/sbin/sfdisk"
MKE2FS = "/usr/sbin/mke2fs"
E2FSCK = "/usr/sbin/e2fsck"
NFT = "/usr/sbin/nft"
CHRONYD = "/usr/sbin/chronyd"
CONTAINERD = "/usr/bin/containerd"
PUBLIC_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # a profile's [authorities]

IMAGE_INFO = "/usr/lib/basalt/image.json"
IMAGE_SERVICES = "/usr/lib/basalt/services"
RUN_SERVICES = "/run/service"
RUN_BASALT = "/run/basalt"
SERVICE_INPUTS = "/run/basalt/services"  # machined writes a service's environment here, and its launcher reads it
INIT_TIMES = "/run/basalt/init-times"  # two CLOCK_BOOTTIME microsecond stamps: /init began, /init handed over
SHUTDOWN_REQUEST = "/run/basalt/shutdown"  # what PID 1 does at the end: "reboot" or "poweroff"
CGROUP_ROOT = "/sys/fs/cgroup"
CGROUP_SYSTEM = "/sys/fs/cgroup/system"  # the node's own programs; workloads live beside it, never in it
CGROUP_WORKLOADS = "/sys/fs/cgroup/workloads"  # a kubelet's own is /sys/fs/cgroup/kubepods

# --- users (the image's /etc/passwd) ------------------------------------------------------------------------------------------
UID_GATEWAY = 900
UID_CHRONY = 901
UID_LOG = 902
USER_CHRONY = "_chrony"

# --- API ------------------------------------------------------------------------------------------------------------------------
API_PORT = 50000
MESSAGE_BYTES_MAX = (
    4 * 1024 * 1024
)  # one request or response; configurations are far smaller, bulk data travels in streams
DOCUMENTS_BYTES_MAX = 1024 * 1024  # of configuration in one ApplyConfig: a thousand times what a node needs
STREAMS_PER_CONNECTION_MAX = 64
METADATA_BYTES_MAX = 16 * 1024
CONNECTION_IDLE_MS = 5 * 60 * 1000  # a connection without a call is closed: 1,000 idle ones must not add up
HANDSHAKE_TIMEOUT_MS = (
    15 * 1000
)  # slow enough for emulation, short enough that a stalled handshake does not hold a socket
KEEPALIVE_MS = 30 * 1000  # a peer that went without a word is noticed within a minute
PING_INTERVAL_MIN_MS = 10 * 1000  # clients that ping more often than this are disconnected after PING_STRIKES
PING_STRIKES = 3
STOP_GRACE_S = 2.0  # for calls in flight when a server stops

# --- disks ----------------------------------------------------------------------------------------------------------------------
LABEL_STATE = "STATE"
LABEL_DATA = "DATA"
LABEL_ESP = "ESP"
LABEL_VOLUME = "basalt-"  # and the volume's name: a partition that belongs to a VolumeConfig
LABELS_OF_IMAGE = (LABEL_ESP, "root-A", "verity-A", "root-B", "verity-B")  # what every image written by osbuild has
MAKING_SUFFIX = ".new"  # a partition with this suffix is one that we began to make: the only kind that may be formatted
STATE_BYTES = 256 * 1024 * 1024  # generations, identity, boot history: kilobytes; the rest keeps ext4's journal healthy
DATA_BYTES_MIN = 64 * 1024 * 1024  # below this a container cannot even be unpacked: say so instead of making it
GROW_BYTES_MIN = 16 * 1024 * 1024  # a tail smaller than this is not worth touching the partition table for
ALIGN_BYTES = 1024 * 1024

# --- limits ---------------------------------------------------------------------------------------------------------------------
GENERATIONS_KEPT = 10  # a few kilobytes each; enough to go back past an afternoon of attempts
LOG_FILE_BYTES = 1024 * 1024
LOG_FILES = 4  # rotated files per service, beside the current one
AUDIT_FILE_BYTES = 1024 * 1024
AUDIT_FILES = 4  # full ones, beside the current one
AUDIT_MEMORY_RECORDS = 1000  # kept while STATE cannot be written
WATCHDOG_TIMEOUT_S = 60  # a machined that s6 restarts is back in seconds, even under emulation
WATCHDOG_FEED_S = 10
SYSTEM_CPU_WEIGHT = 1000  # of 10,000; workloads have 100 together: the API answers while they take every processor
SYSTEM_MEMORY_MIN_BYTES = 160 * 1024 * 1024  # protection for the whole of CGROUP_SYSTEM; the children share it
CLOCK_SAVE_S = 600  # how often the last known time goes to STATE; bounds how far back a node without RTC starts

RTPROT_STATIC = 98  # marks routes and addresses as ours; 98 is free in iproute2's rt_protos
RTPROT_DHCP = 16  # the kernel's RTPROT_DHCP
LINK_GROUP = 98  # marks links as ours: unlike an alias it is there from the moment a link is made, so that no crash leaves one unmarked


class Paths:
    """Where the daemon finds and keeps things; *root* is ``/`` on a node and a scratch directory in a test."""

    def __init__(self, root: str = "/") -> None:
        from pathlib import Path  # late: /init imports this module and has no use for pathlib (17 ms of imports)

        base = Path(root)
        self.root = base
        self.image_info = base / "usr/lib/basalt/image.json"
        self.image_config = base / "usr/lib/basalt/config.yaml"
        self.image_client_ca = base / "usr/lib/basalt/client-ca.pem"
        self.fw_cfg_client_ca = base / "sys/firmware/qemu_fw_cfg/by_name/opt/basalt/client-ca/raw"
        self.fw_cfg_config = base / "sys/firmware/qemu_fw_cfg/by_name/opt/basalt/config/raw"
        self.dmi_entries = base / "sys/firmware/dmi/entries"
        # STATE
        self.state = base / "state"
        self.identity = self.state / "identity"
        self.trust = self.state / "trust"
        self.configurations = self.state / "config"
        self.redaction_key = self.configurations / "redaction-key"
        self.wireguard = self.state / "wireguard"
        self.audit = self.state / "audit"
        self.clock = self.state / "clock"  # its mtime is the last known time
        # DATA
        self.data = base / "var"
        # run time
        self.run = base / "run/basalt"
        self.socket = self.run / "machined.sock"
        self.gateway = self.run / "gateway"
        self.gateway_trust = self.gateway / "trust.json"
        self.leases = self.run / "dhcp"
        self.chrony_conf = self.run / "chrony.conf"
        self.containerd_conf = self.run / "containerd.toml"
        self.registries = self.run / "registries"  # containerd's config_path
        self.containerd_socket = base / "run/containerd/containerd.sock"
        self.pause_archive = base / "usr/lib/basalt/pause.tar"
        self.cni_bridge = self.run / "cni/bridge"
        self.sysctls = self.run / "sysctls.json"  # what was changed below /proc/sys, and what it was before
        self.service_inputs = self.run / "services"  # per service: environment, and what it was started with
        self.forwarding = self.run / "forwarding"  # per collector: how far its copy of the logs has got
        self.volumes = self.data / "mnt"
        self.shutdown_request = self.run / "shutdown"
        self.init_times = self.run / "init-times"
        self.node_times = self.run / "boot-stages.json"
        self.etc = base / "run/etc"
        self.logs = base / "run/log"
        self.services = base / "run/service"
        self.config_drive = self.run / "config-drive"  # mounted for as long as it takes to read it
        self.esp_mount = base / "efi"
        # the kernel
        self.console = base / "dev/console"
        self.kmsg = base / "dev/kmsg"
        self.watchdog = base / "dev/watchdog0"
        self.dev = base / "dev"
        self.sys = base / "sys"
        self.proc = base / "proc"
        self.cgroup_system = base / CGROUP_SYSTEM.lstrip("/")
        self.cgroup_workloads = base / CGROUP_WORKLOADS.lstrip("/")
        self.efivars = base / "sys/firmware/efi/efivars"
