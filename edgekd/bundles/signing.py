"""Sign a bundle: an Ed25519 signature over its manifest, which holds all other digests."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from edgekd.bundles.folder import SIGNATURE
from edgekd.bundles.integrity import whole
from edgekd.bundles.manifest import MANIFEST
from edgekd.errors import Fault, RecipeError
from edgekd.system.files import write_text
from edgekd.system.packages import need


def sign(bundle: Path, key: Path) -> Path:
    """Sign the manifest of the folder `bundle`; returns the signature's file beside it.

    Args:
        key: a private key in PEM, from `openssl genpkey -algorithm ed25519`.

    Raises:
        RecipeError: the key is of another kind, or the bundle does not match its manifest.
        MissingPackageError: cryptography is not installed.
    """
    loaded = _key(key, "private")
    whole(bundle)
    signature = base64.b64encode(loaded.sign((bundle / MANIFEST).read_bytes())).decode()
    write_text(bundle / SIGNATURE, f"{signature}\n")
    return bundle / SIGNATURE


def verify_signature(bundle: Path, key: Path) -> None:
    """Verify that the folder `bundle` is signed by the private part of `key`, a PEM file.

    Raises:
        RecipeError: it is not signed by this key, it was changed, or the key is not valid.
        MissingPackageError: cryptography is not installed.
    """
    exceptions = need("cryptography.exceptions", extra="sign")
    loaded = _key(key, "public")
    try:
        signature = base64.b64decode((bundle / SIGNATURE).read_bytes().strip(), validate=True)
        loaded.verify(signature, (bundle / MANIFEST).read_bytes())
    except (OSError, ValueError, exceptions.InvalidSignature) as error:
        raise RecipeError(
            Fault(
                what="The bundle is not signed by this key.",
                at=str(bundle / SIGNATURE),
                got=f"{type(error).__name__} {error}".strip(),
                expected=f"the Ed25519 signature of {MANIFEST}, in base64",
                fix="get the bundle from its source again, or check the key",
            )
        ) from error
    whole(bundle)


def _key(path: Path, part: str) -> Any:
    """The `part`, private or public, of the Ed25519 key in the file at `path`."""
    serialization = need("cryptography.hazmat.primitives.serialization", extra="sign")
    ed25519 = need("cryptography.hazmat.primitives.asymmetric.ed25519", extra="sign")
    unsupported = need("cryptography.exceptions", extra="sign").UnsupportedAlgorithm
    try:
        if part == "private":
            loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
        else:
            loaded = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError, unsupported) as error:
        raise RecipeError(_key_fault(path, part, f"{type(error).__name__}: {error}")) from error
    kinds = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}
    if not isinstance(loaded, kinds[part]):
        raise RecipeError(_key_fault(path, part, type(loaded).__name__))
    return loaded


def _key_fault(path: Path, part: str, got: str) -> Fault:
    commands = {
        "private": "openssl genpkey -algorithm ed25519 -out key.pem",
        "public": "openssl pkey -in key.pem -pubout -out pub.pem",
    }
    return Fault(
        what=f"The {part} key cannot be used.",
        at=str(path),
        got=got,
        expected=f"an Ed25519 {part} key in PEM without a password",
        fix=commands[part],
    )
