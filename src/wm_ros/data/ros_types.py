"""ROS 2 message definitions without ROS: schema texts, type hashes, CDR decoding."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from wm_ros.contract.errors import UserError

__all__ = [
    "TRAILING_BYTES",
    "Nodetype",
    "SerdeError",
    "Typestore",
    "bag_store",
    "deserialize",
    "schema_text",
    "standard_store",
    "type_hash",
]


@lru_cache(maxsize=1)
def standard_store() -> Typestore:
    """The messages that ship with the newest ROS 2."""
    return get_typestore(Stores.LATEST)


@lru_cache(maxsize=256)
def schema_text(message_type: str) -> str:
    """The `ros2msg` text of a type with all the types in it, as rosbag2 puts it into a bag.

    Raises:
        UserError: the type is not known.
    """
    _known(message_type)
    text, _ = standard_store().generate_msgdef(message_type, ros_version=2)
    return str(text)


@lru_cache(maxsize=256)
def type_hash(message_type: str) -> str:
    """The type's REP 2016 hash, `RIHS01_…`.

    Raises:
        UserError: the type is not known.
    """
    _known(message_type)
    return str(standard_store().hash_rihs01(message_type))


def _known(message_type: str) -> None:
    if message_type not in standard_store().fielddefs:
        raise UserError(f"{message_type}: not a message type of a standard ROS 2 installation: remove its topic from the recording")


def bag_store(definitions: dict[str, tuple[str, str]]) -> Typestore:
    """A store in which a bag's own definitions come first.

    Args:
        definitions: message type → (`ros2msg` or `ros2idl`, text), from the bag.

    Raises:
        UserError: a definition cannot be read and the standard messages have no such type.
    """
    own: dict[str, Any] = {}
    for message_type, (encoding, text) in definitions.items():
        if text:
            own.update(_different(message_type, encoding, text))
    if not own:
        return standard_store()  # shared, with the decoders that it has compiled
    store = get_typestore(Stores.LATEST)
    for name in own:
        store.fielddefs.pop(name, None)
        store.types.pop(name, None)
    try:
        store.register(own)
    except (TypesysError, SyntaxError, ValueError, KeyError) as error:
        raise UserError(f"the bag's definitions of {', '.join(sorted(own))} cannot be used: {error}: record it again") from None
    sizes: dict[str, int] = {}
    for name in own:
        _count_fields(store, name, sizes, ())
    return store


def _count_fields(store: Typestore, message_type: str, sizes: dict[str, int], within: tuple[str, ...]) -> int:
    """Fields of a type with those of the types in it. What contains itself, or unfolds without end, cannot be decoded by any program.

    Raises:
        UserError: it is such a type; only a damaged or hostile file has one.
    """
    if message_type not in store.fielddefs:  # named but defined nowhere: noticed where it is decoded
        return 1
    if message_type not in sizes:
        if message_type in within or len(within) >= _MAX_DEPTH:
            raise UserError(f"{message_type}: its definition in the bag contains itself: the file is damaged; leave it out")
        count = 0
        for _, (kind, detail) in store.fielddefs[message_type][1]:
            count += 1
            element, inner = (kind, detail) if kind in (Nodetype.BASE, Nodetype.NAME) else detail[0]
            if element == Nodetype.NAME:
                count += _count_fields(store, inner, sizes, (*within, message_type))
        if count > _MAX_FIELDS:
            raise UserError(f"{message_type}: its definition has more than {_MAX_FIELDS} fields: the file is damaged; leave it out")
        sizes[message_type] = count
    return sizes[message_type]


@lru_cache(maxsize=1024)
def _different(message_type: str, encoding: str, text: str) -> dict[str, Any]:
    """The types in a definition that are not those of a standard ROS 2."""
    known = standard_store().fielddefs
    try:
        types = get_types_from_idl(text) if encoding == "ros2idl" else get_types_from_msg(text, message_type)
    except (TypesysError, ValueError, KeyError, IndexError, RecursionError) as error:
        if message_type in known:
            return {}
        raise UserError(f"{message_type}: its definition in the bag cannot be read: {error}: record it again") from None
    return {name: made for name, made in types.items() if name not in known or _fields(known[name]) != _fields(made)}


def _fields(definition: Any) -> Any:
    """Names and types; constants and defaults do not change the bytes."""
    return definition[1]


_MAX_DEPTH = 32
_MAX_FIELDS = 10_000
"""Of a definition; the largest of ROS 2 has 118, and a few lines can ask for any number."""
TRAILING_BYTES = 8
"""Bytes after a message that belong to nobody: the ROS middlewares round the size up when they serialize for a bag."""


def deserialize(store: Typestore, raw: bytes, message_type: str) -> Any:
    """One message object from its CDR bytes.

    Raises:
        SerdeError: the bytes are no such message.
    """
    fault: Exception | None = None
    # rosbags itself lets up to three bytes follow.
    for surplus in range(0, TRAILING_BYTES, 4):
        try:
            return store.deserialize_cdr(raw[: len(raw) - surplus], message_type)
        except SerdeError as error:
            fault = fault or error
            if "size mismatch" not in str(error):
                break
        except (IndexError, OverflowError, MemoryError, KeyError, AssertionError) as error:
            raise SerdeError(f"not a {message_type}: {error}") from None
    raise fault or SerdeError(f"not a {message_type}")
