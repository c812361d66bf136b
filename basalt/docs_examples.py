"""An example of every kind of document, for the reference page. A test reads them all."""

from __future__ import annotations

EXAMPLES = {
    "MachineConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: MachineConfig
hostname: node-1
labels:
  example.org/role: worker
topology: {rack: r12, zone: a, region: north}
sysctls:
  net.core.somaxconn: 4096
modules:
- name: br_netfilter
- name: nvme_core
  parameters: {io_timeout: 60}
watchdog:
  timeoutS: 120
logging:
  destinations:
  - endpoint: tcp://logs.example.org:5140
  - endpoint: udp://192.0.2.14:514
    format: syslog
    services: [machined, containerd]
    kernel: false
""",
    "NetworkConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: NetworkConfig
links:
- match:
    mac: '52:54:00:12:34:56'
  dhcp4: true
- name: bond0
  bond:
    links: [eth1, eth2]
    mode: 802.3ad
    lacpRate: fast
    transmitHash: layer3+4
  mtu: 9000
  addresses:
  - 192.0.2.10/24
  - 2001:db8::10/64
  routes:
  - to: 198.51.100.0/24
    via: 192.0.2.1
- name: storage
  vlan:
    link: bond0
    id: 30
  mtu: 9000
  slaac: false
  addresses: [10.30.0.10/24]
- name: br0
  bridge:
    links: [eth3]
    stp: true
  dhcp4: true
  dhcp6: true
- name: wg0
  wireguard:
    listenPort: 51820
    peers:
    - publicKey: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
      endpoint: vpn.example.org:51820
      allowedIps: [10.99.0.0/16]
      keepaliveS: 25
  addresses: [10.99.0.10/24]
dns:
  servers: [192.0.2.53, '2001:db8::53']
  search: [example.org]
""",
    "TimeConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: TimeConfig
servers:
- address: time.example.org
  nts: true
- address: pool.example.org
  pool: true
""",
    "AccessConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: AccessConfig
clientAuthorities:
- |
  -----BEGIN CERTIFICATE-----
  MIIBdzCCAR2gAwIBAgIUeL50rCSZ9cz3pF9eShXqXBOfqyIwCgYIKoZIzj0EAwIw
  EzERMA8GA1UEAwwIb3BlcmF0b3IwHhcNMjYxMTI0MDAwMDAwWhcNMzYxMTI0
  -----END CERTIFICATE-----
revokedSerials:
- 4a:1f:09:c2
serverLifetimeH: 24
""",
    "RegistryConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: RegistryConfig
mirrors:
- registry: docker.io
  endpoints: ['https://mirror.example.org:5000', 'https://mirror2.example.org/v2/hub']
  fallback: false
auth:
- host: mirror.example.org:5000
  username: puller
  password: correct horse battery staple
authorities:
- host: mirror.example.org:5000
  certificate: |
    -----BEGIN CERTIFICATE-----
    MIIBdzCCAR2gAwIBAgIUeL50rCSZ9cz3pF9eShXqXBOfqyIwCgYIKoZIzj0EAwIw
    EzERMA8GA1UEAwwIbWlycm9yczAeFw0yNjExMjQwMDAwMDBaFw0zNjExMjQw
    -----END CERTIFICATE-----
signatures:
- images: registry.example.org/shop
  keys:
  - |
    -----BEGIN PUBLIC KEY-----
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2Ku02Wi/HG4p4XiWvCrASmC2a8jB
    ykvDQkIZYJqzX5LRe1dJJFjK0bYFry0I1t9iV5HLxPmh/3D+EthcQH3Ulw==
    -----END PUBLIC KEY-----
""",
    "VolumeConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: VolumeConfig
name: scratch
disk:
  model: Example NVMe 4 TB
  sizeMin: 3TB
existingData: refuse
""",
    "FirewallConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: FirewallConfig
apiSources: [192.0.2.0/24, '2001:db8::/48']
rules:
- name: https
  ports: [443]
- name: node-ports
  ports: [30000-32767]
  sources: [10.0.0.0/8]
  links: [bond0]
- name: dns
  protocol: udp
  ports: [53]
logDropped: true
""",
    "ServiceConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: ServiceConfig
name: containerd
memoryMax: 2GiB
cpuWeight: 200
environment:
  HTTPS_PROXY: http://proxy.example.org:3128
""",
    "WorkloadConfig": """\
apiVersion: basalt.dev/v1alpha1
kind: WorkloadConfig
name: shop
containers:
- name: web
  image: registry.example.org/shop/web:2.4
  args: [--listen, ':8080', --listen-tls, ':8443']
  env:
    TLS_KEY_FILE: /run/secrets/tls.key
    WORKERS: 4
  mounts:
  - volume: uploads
    path: /srv/uploads
  - volume: scratch
    path: /tmp
  secrets:
  - secret: tls-key
    path: /run/secrets/tls.key
  resources:
    cpu: 1.5
    memory: 512MiB
  security:
    user: 1000:1000
    dropCapabilities: [ALL]
    readOnlyRoot: true
  health:
    http: {port: 8080, path: /healthz}
    intervalS: 15
network:
  ports:
  - {container: 8080, host: 80}
  - {container: 8443, host: 443}
volumes:
- name: uploads
  size: 20GiB
  owner: 1000:1000
- name: scratch
  medium: memory
  size: 64MiB
secrets:
- name: tls-key
  value: |
    -----BEGIN PRIVATE KEY-----
    MC4CAQAwBQYDK2VwBCIEIExampleExampleExampleExampleExampleExample
    -----END PRIVATE KEY-----
""",
}
