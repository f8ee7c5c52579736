"""ROS domains: free ones are found, used ones are announced."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from wm_ros.bringup import domain
from wm_ros.contract.errors import UserError

UNUSED = 93


@pytest.fixture
def taken() -> int:
    """A domain with a participant's discovery port, bound as DDS binds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        participant.bind(("", domain.ports(UNUSED)[0]))
        yield UNUSED


def test_ports_are_those_of_the_rtps_specification() -> None:
    assert domain.ports(0)[:3] == [7400, 7410, 7412] and domain.ports(1)[0] == 7650


def test_a_domain_with_a_participant_is_in_use(taken: int) -> None:
    assert domain.in_use(taken)


def test_a_wanted_domain_in_use_is_refused_with_the_remedy(taken: int) -> None:
    with pytest.raises(UserError, match=f"ROS_DOMAIN_ID {taken}.*unset"), domain.own_domain(taken, "run"):
        pass


def test_two_systems_that_want_to_be_alone_get_two_domains() -> None:
    with domain.own_domain(None, "run") as one, domain.own_domain(None, "run") as other:
        assert one != other


def test_a_domain_in_use_is_passed_over(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "DOMAINS", range(taken, taken + 2))
    with domain.own_domain(None, "run") as found:
        assert found == taken + 1


def test_no_free_domain_is_said(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "DOMAINS", range(taken, taken + 1))
    with pytest.raises(UserError, match="no free ROS domain"), domain.own_domain(None, "run"):
        pass


def test_a_second_system_in_the_same_place_is_refused_and_in_another_namespace_it_is_not() -> None:
    with domain.reserve(UNUSED, "cell"):
        with pytest.raises(UserError, match="another wm_ros system"), domain.reserve(UNUSED, "/cell/"):
            pass
        with domain.reserve(UNUSED, "other"):
            pass
    with domain.reserve(UNUSED, "cell"):
        pass


def test_a_system_that_was_killed_leaves_its_place_free() -> None:
    code = f"from wm_ros.bringup.domain import reserve\nwith reserve({UNUSED}, 'killed'):\n    print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=str(holder.pid)), domain.reserve(UNUSED, "killed"):
        pass
    holder.kill()
    holder.communicate()
    with domain.reserve(UNUSED, "killed"):
        pass


@pytest.mark.parametrize("text", ["here", "-1", "233"])
def test_a_faulty_domain_in_the_environment_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(UserError, match="ROS_DOMAIN_ID"):
        domain.present_domain()
