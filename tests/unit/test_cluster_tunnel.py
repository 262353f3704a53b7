"""Taking port-forward messages apart: v4.channel.k8s.io, one port, one connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.backends.cluster.tunnel import Channels

PORT = (8479).to_bytes(2, "little")


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_data_arrives_whole_and_in_order(payloads: list[bytes]) -> None:
    channels = Channels()
    messages = [b"\x00" + PORT, b"\x01" + PORT, *(b"\x00" + payload for payload in payloads)]
    assert b"".join(channels.feed(message) for message in messages) == b"".join(payloads)
    assert channels.error == ""


@given(st.binary(max_size=40), st.integers(0, 2))
def test_the_port_may_come_in_pieces_or_with_data(payload: bytes, cut: int) -> None:
    channels = Channels()
    assert channels.feed(b"\x00" + PORT[:cut]) == b""
    assert channels.feed(b"\x00" + PORT[cut:] + payload) == payload


@given(st.text(min_size=1))
def test_errors_are_kept_apart(text: str) -> None:
    channels = Channels()
    assert channels.feed(b"\x01" + PORT) == b""
    assert channels.feed(b"\x01" + text.encode()) == b""
    assert channels.error == text


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_any_message_is_data_or_refused(messages: list[bytes]) -> None:
    channels = Channels()
    for message in messages:
        if message[:1] in (b"\x00", b"\x01"):
            channels.feed(message)
        else:
            with pytest.raises(ValueError, match="of a port-forward"):
                channels.feed(message)
