"""The committed stubs say what the contract says."""

from basalt import stubs
from basalt.machine.v1 import containers_pb2, machine_pb2, options_pb2


def test_committed_stubs_are_fresh() -> None:
    assert stubs.stale() == []


def test_every_method_names_a_role() -> None:
    for file in (machine_pb2.DESCRIPTOR, containers_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                role = method.GetOptions().Extensions[options_pb2.role]
                assert role != options_pb2.ROLE_UNSPECIFIED, f"{method.full_name} would be refused to everybody"
