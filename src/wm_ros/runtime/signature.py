"""Ed25519 signatures of controllers: `controller.onnx.sig` beside the file, made by who holds the key, asked for by robots that trust it.

The signature is detached, not in the file's metadata: it covers every byte, and it is checked before any parser sees the file.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_ros.contract.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUFFIX = ".sig"
PUBLIC_SUFFIX = ".pub"
HEADER = "wm_ros controller signature 1"
"""First line of a signature file, and first bytes of what is signed: a signature made for something else never fits."""
MAX_BYTES = 1 << 14
"""Of a key file or a signature file."""


class SigningKey:
    """The private half. It belongs to the machine that trains, never to the robot."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: str | Path) -> SigningKey:
        """Reads a PEM file, as `wm-ros key new` or `openssl genpkey -algorithm ed25519` writes it.

        Raises:
            UserError: the file cannot be read, or holds no unencrypted Ed25519 private key.
        """
        path, data = _file(path, "signing key")
        serialization, private, _ = _library()
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except Exception as error:  # ValueError, TypeError for an encrypted key, UnsupportedAlgorithm
            raise UserError(f"{path}: no private key: {_first_line(error)}: make one with `wm-ros key new {path}`") from None
        if not isinstance(key, private):
            raise UserError(f"{path}: no Ed25519 key: make one with `wm-ros key new`")
        return cls(key)

    def sign(self, sha256: str) -> bytes:
        """The content of the signature file of a controller with this hash (hexadecimal)."""
        return f"{HEADER}\n{base64.b64encode(self._key.sign(_message(sha256))).decode()}\n".encode()


class TrustedKey:
    """The public half, which a robot is given."""

    def __init__(self, key: Ed25519PublicKey, path: Path) -> None:
        self._key = key
        self.path = path

    @classmethod
    def load(cls, path: str | Path) -> TrustedKey:
        """Reads the PEM file `KEY.pub`.

        Raises:
            UserError: the file cannot be read, or holds no Ed25519 public key.
        """
        path, data = _file(path, "trusted key")
        serialization, _, public = _library()
        if b"PRIVATE KEY" in data:
            raise UserError(f"{path}: this is a private key, which must not lie on a robot: give the file {path}{PUBLIC_SUFFIX}")
        try:
            key = serialization.load_pem_public_key(data)
        except Exception as error:
            raise UserError(f"{path}: no public key: {_first_line(error)}: give the .pub file of `wm-ros key new`") from None
        if not isinstance(key, public):
            raise UserError(f"{path}: no Ed25519 key: give the .pub file of `wm-ros key new`")
        return cls(key, path)

    def check(self, controller: Path, sha256: str) -> None:
        """Checks the signature beside a controller.

        Args:
            controller: the file.
            sha256: of the bytes that were read, in hexadecimal.

        Raises:
            UserError: there is no signature, or it is another key's or another file's.
        """
        path = signature_path(controller)
        remedy = f"sign it with `wm-ros sign --key KEY {controller}`"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path}: no signature ({error.strerror}), and this robot takes signed controllers only: {remedy}") from None
        lines = data.decode("ascii", errors="replace").split("\n")
        try:
            if lines[0] != HEADER or len(data) > MAX_BYTES:
                raise ValueError
            signature = base64.b64decode(lines[1], validate=True)
        except (ValueError, IndexError):
            raise UserError(f"{path}: no signature of a controller: {remedy}") from None
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, _message(sha256))
        except InvalidSignature:
            raise UserError(f"{path}: not signed by the key {self.path} for this file: {remedy}") from None


def signature_path(controller: Path) -> Path:
    """Where the signature of a controller lies."""
    return controller.with_name(controller.name + SUFFIX)


def new_key(path: Path) -> Path:
    """Writes a new key, for its owner's eyes only, and its public half beside it.

    Returns:
        The public half, `PATH.pub`.

    Raises:
        UserError: one of the files exists already, or cannot be written.
    """
    serialization, private, _ = _library()
    key = private.generate()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    open_half = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    try:
        if public.exists():
            raise FileExistsError(None, "File exists", str(public))
        for target, data, mode in ((path, secret, 0o600), (public, open_half, 0o644)):
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}: an old key is never overwritten; give another path") from None
    return public


def _message(sha256: str) -> bytes:
    return HEADER.encode() + b"\0" + bytes.fromhex(sha256)


def _file(path: str | Path, what: str) -> tuple[Path, bytes]:
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{what}: {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{what}: {path}: larger than {MAX_BYTES} bytes: this is no key")
    return path, data


def _library() -> tuple[Any, type[Ed25519PrivateKey], type[Ed25519PublicKey]]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    except ImportError:
        raise UserError("signatures need the package cryptography: pip install 'wm_ros[signing]'") from None
    return serialization, Ed25519PrivateKey, Ed25519PublicKey


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:120] if lines else type(error).__name__
