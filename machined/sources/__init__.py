"""Where a node's first configuration and its client authority come from, and why those and no others.

The sources are asked in this order, and the first that has something ends the search:

====================  =============================================================  ============================================
source                configuration                                                  client authority
====================  =============================================================  ============================================
STATE                 the generation in force                                        pinned with the first generation
image                 ``osbuild image --config``                                     ``osbuild image --client-ca``
kernel command line   ``basalt.config=URL`` (``.sha256=``, ``.ca=``)                 ``basalt.client-ca=`` base64 of the DER
fw_cfg                ``opt/basalt/config``                                          ``opt/basalt/client-ca`` (PEM)
SMBIOS                OEM strings ``basalt.config=`` or ``basalt.config.1=`` ...     ``basalt.client-ca=`` base64 of the DER
cidata                ``user-data``, ``meta-data``                                   ``client-ca.pem``
config-2              ``openstack/latest/user_data``, ``network_data.json`` ...      ``client-ca.pem``
API                   ``osctl apply-config``                                         (an AccessConfig in the configuration)
====================  =============================================================  ============================================

A source that is there but unusable does not hand over to the next: a node must not come up with another configuration than its owner
meant. It waits in first contact instead, says why, and takes a configuration through its API. For the authority it is the other way
round (see :mod:`machined.sources.authority`): being passed over costs nothing, and having none locks everybody out.

What a source gives becomes generation 1 on STATE; from then on STATE is asked alone. :mod:`readers` read what lies on the machine,
:mod:`drives` what lies on drives, :mod:`fetch` what lies behind a URL; :mod:`finder` decides, :mod:`first` does.
"""
