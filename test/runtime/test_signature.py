"""A robot with a trusted key takes what this key has signed, byte for byte, and nothing else."""

from __future__ import annotations

import hashlib
import stat
import subprocess
from pathlib import Path

import pytest
import tiny_controller as tiny

from wm_ros.contract.errors import UserError
from wm_ros.runtime.controller import ControllerSession
from wm_ros.runtime.signature import MAX_BYTES, SigningKey, TrustedKey, new_key, signature_path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[SigningKey, TrustedKey]:
    new_key(tmp_path / "key")
    return SigningKey.load(tmp_path / "key"), TrustedKey.load(tmp_path / "key.pub")


def sign(path: Path, key: SigningKey) -> None:
    signature_path(path).write_bytes(key.sign(hashlib.sha256(path.read_bytes()).hexdigest()))


def load(path: Path, trusted: TrustedKey) -> ControllerSession:
    return ControllerSession.load(path, tiny.contract(), trusted=trusted)


def test_a_signed_controller_is_served(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    path = tiny.constant(tmp_path / "c.onnx", 1.5)
    sign(path, keys[0])
    assert load(path, keys[1]).name.startswith("tiny:1:")


def test_an_unsigned_controller_is_refused_with_what_to_do(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    path = tiny.constant(tmp_path / "c.onnx", 1.5)
    with pytest.raises(UserError, match=r"c\.onnx\.sig: no signature .*takes signed controllers only: sign it with `wm-ros sign"):
        load(path, keys[1])


def test_a_controller_changed_in_one_bit_after_signing_is_refused(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    path = tiny.constant(tmp_path / "c.onnx", 1.5)
    sign(path, keys[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="not signed by the key"):
        load(path, keys[1])


def test_another_keys_signature_is_refused(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    path = tiny.constant(tmp_path / "c.onnx", 1.5)
    new_key(tmp_path / "stranger")
    sign(path, SigningKey.load(tmp_path / "stranger"))
    with pytest.raises(UserError, match="not signed by the key"):
        load(path, keys[1])


HEADER = b"wm_ros controller signature 1\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", HEADER, HEADER + b"!!!\n", HEADER + b"YWJj\n", b"x" * 10**6])
def test_a_signature_file_that_is_none_is_refused(tmp_path: Path, keys: tuple[SigningKey, TrustedKey], content: bytes) -> None:
    path = tiny.constant(tmp_path / "c.onnx", 1.5)
    signature_path(path).write_bytes(content)
    with pytest.raises(UserError, match=r"c\.onnx\.sig: (no signature of a controller|not signed by the key)"):
        load(path, keys[1])


def test_the_signature_is_checked_before_the_file_is_parsed(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    path = tmp_path / "c.onnx"
    path.write_bytes(b"no ONNX at all")
    with pytest.raises(UserError, match="no signature"):
        load(path, keys[1])


def test_the_private_key_is_for_its_owners_eyes_only_and_no_key_is_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        new_key(tmp_path / "key")
    (tmp_path / "key").unlink()
    with pytest.raises(UserError, match=r"key\.pub: File exists"):
        new_key(tmp_path / "key")
    assert not (tmp_path / "key").exists() and b"PRIVATE KEY" in before


def test_a_private_key_is_no_trusted_key_and_the_other_way_round(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    with pytest.raises(UserError, match="private key, which must not lie on a robot"):
        TrustedKey.load(tmp_path / "key")
    with pytest.raises(UserError, match="no private key"):
        SigningKey.load(tmp_path / "key.pub")


def test_key_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "text").write_text("hello")
    for name, fault in (("absent", "No such file"), ("big", "this is no key"), ("text", "no public key")):
        with pytest.raises(UserError, match=fault):
            TrustedKey.load(tmp_path / name)


def test_openssl_makes_the_same_signature(tmp_path: Path, keys: tuple[SigningKey, TrustedKey]) -> None:
    """Ed25519 is deterministic: an independent implementation gives the same bytes (RFC 8032)."""
    import base64

    sha256 = "ab" * 32
    (tmp_path / "message").write_bytes(b"wm_ros controller signature 1\0" + bytes.fromhex(sha256))
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(tmp_path / "key"), "-in", str(tmp_path / "message")]
    try:
        made = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl with Ed25519")
    assert base64.b64decode(keys[0].sign(sha256).split(b"\n")[1]) == made
