"""Checks of the contract servers by the vendors' own clients. Started by `vendor-clients`."""

import json
import pathlib
import socket
import sys
import time
import urllib.request

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys._generated.models import KeyOperationsParameters
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from google.api_core import exceptions as google
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport
import google_crc32c

work = pathlib.Path(sys.argv[1])
VAULT = "https://acme.vault.azure.net"
HSM = "https://acme.managedhsm.azure.net"
SECRET = bytes(range(64))


def addresses(name):
    return json.loads((work / name).read_text())


def control(server, path, body, method="POST"):
    request = urllib.request.Request(
        f"http://{server['control']}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    urllib.request.urlopen(request, timeout=10).read()


def fails(kind, call, check=lambda error: True):
    try:
        call()
    except kind as error:
        assert check(error), f"unexpected details: {error!r}"
        return
    raise AssertionError(f"expected {kind.__name__}")


class Token:
    """A token that the server takes for this identity."""

    def get_token(self, *scopes, **_):
        assert scopes and scopes[0].endswith(".azure.net/.default"), scopes
        return AccessToken("test-token directory/application", int(time.time()) + 3600)


def resolve_vaults_to(address):
    """Vault names lead to the server, so that the client's checks of name and challenge stay on."""
    host, port = address.rsplit(":", 1)
    original = socket.getaddrinfo

    def lookup(name, *args, **kwargs):
        if isinstance(name, str) and name.endswith(".azure.net"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
        return original(name, *args, **kwargs)

    socket.getaddrinfo = lookup


def azure():
    server = addresses("azure.json")
    resolve_vaults_to(server["address"])
    ca = str(work / "ca.pem")
    options = {"connection_verify": ca, "retry_total": 0}
    for vault, kind, algorithm in [(VAULT, "rsa", KeyWrapAlgorithm.rsa_oaep_256), (HSM, "aes", KeyWrapAlgorithm.aes_256)]:
        reference = f"{vault}/keys/kek"
        control(server, "/keys", {"key": reference, "type": kind})
        keys = KeyClient(vault, Token(), **options)
        key = keys.get_key("kek")
        assert key.properties.enabled and key.id.startswith(reference + "/"), key.id
        assert key.key_type == ("RSA" if kind == "rsa" else "oct-HSM"), key.key_type

        crypto = CryptographyClient(key.id, Token(), **options)
        # The client wraps with a public key itself, so the server's own wrap is asked for below the public surface.
        wrapped = crypto._client.wrap_key(
            key.name, key.properties.version, KeyOperationsParameters(algorithm=algorithm.value, value=SECRET)
        )
        assert wrapped.kid == key.id, wrapped.kid
        assert crypto.unwrap_key(algorithm, wrapped.result).key == SECRET
        if kind == "rsa":
            locally = crypto.wrap_key(algorithm, SECRET)
            assert crypto.unwrap_key(algorithm, locally.encrypted_key).key == SECRET, "public key and private key differ"

        tampered = bytes([wrapped.result[0] ^ 1]) + wrapped.result[1:]
        fails(HttpResponseError, lambda: crypto.unwrap_key(algorithm, tampered), lambda e: e.status_code == 400)
        fails(ResourceNotFoundError, lambda: keys.get_key("none"), lambda e: e.error.code == "KeyNotFound")
        fails(ResourceNotFoundError, lambda: keys.get_key("kek", "0" * 32))

        control(server, "/state", {"key": reference, "state": "disabled"})
        assert keys.get_key("kek").properties.enabled is False
        fails(HttpResponseError, lambda: CryptographyClient(key.id, Token(), **options).unwrap_key(algorithm, wrapped.result),
              lambda e: e.status_code == 403 and e.error.innererror["code"] == "KeyDisabled")
        control(server, "/state", {"key": reference, "state": "pending-deletion"})
        fails(ResourceNotFoundError, lambda: keys.get_key("kek"))
        assert keys.get_deleted_key("kek").name == "kek"
        control(server, "/state", {"key": reference, "state": "enabled"})

        old = key.properties.version
        control(server, "/rotate", {"key": reference})
        assert keys.get_key("kek").properties.version != old
        assert crypto.unwrap_key(algorithm, wrapped.result).key == SECRET, "an old version still unwraps"

        control(server, "/fault", {"fault": "denied"})
        fails(HttpResponseError, lambda: keys.get_key("kek"),
              lambda e: e.status_code == 403 and e.error.innererror["code"] == "ForbiddenByRbac")
        control(server, "/fault", {"fault": "throttled"})
        fails(HttpResponseError, lambda: keys.get_key("kek"),
              lambda e: e.status_code == 429 and e.response.headers["Retry-After"] == "1")
        control(server, "/fault", {"fault": "none"})
        assert keys.get_key("kek").name == "kek"
        print(f"azure-keyvault-keys: {vault}: get, wrap, unwrap, 404, 403, disabled, deleted, rotated, tampered, throttled")


def gcp():
    server = addresses("gcp.json")
    transport = KeyManagementServiceRestTransport(
        host=server["address"], url_scheme="http", credentials=AnonymousCredentials()
    )
    client = kms.KeyManagementServiceClient(transport=transport)
    ring = "projects/acme/locations/europe-west3/keyRings/openkcm"
    name = f"{ring}/cryptoKeys/kek"
    control(server, "/keys", {"key": name})
    once = {"retry": None, "timeout": 10}
    key = client.get_crypto_key(name=name, **once)
    assert key.purpose == kms.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
    assert key.primary.state == kms.CryptoKeyVersion.CryptoKeyVersionState.ENABLED
    assert key.primary.name == f"{name}/cryptoKeyVersions/1", key.primary.name

    aad = b"workspace"
    crc = google_crc32c.value

    def encrypt(plaintext_crc=crc(SECRET), at=name):
        return client.encrypt(
            request={"name": at, "plaintext": SECRET, "plaintext_crc32c": plaintext_crc,
                     "additional_authenticated_data": aad, "additional_authenticated_data_crc32c": crc(aad)}, **once)

    def decrypt(ciphertext, aad=aad):
        return client.decrypt(
            request={"name": name, "ciphertext": ciphertext, "ciphertext_crc32c": crc(ciphertext),
                     "additional_authenticated_data": aad, "additional_authenticated_data_crc32c": crc(aad)}, **once)

    sealed = encrypt()
    assert sealed.verified_plaintext_crc32c and sealed.verified_additional_authenticated_data_crc32c
    assert sealed.ciphertext_crc32c == crc(sealed.ciphertext) and sealed.name == key.primary.name
    opened = decrypt(sealed.ciphertext)
    assert opened.plaintext == SECRET and opened.plaintext_crc32c == crc(SECRET) and opened.used_primary

    fails(google.BadRequest, lambda: encrypt(plaintext_crc=crc(SECRET) ^ 1))
    fails(google.BadRequest, lambda: decrypt(sealed.ciphertext, b"another workspace"))
    fails(google.BadRequest, lambda: decrypt(sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])))
    fails(google.NotFound, lambda: client.get_crypto_key(name=f"{ring}/cryptoKeys/none", **once))

    control(server, "/rotate", {"key": name})
    assert encrypt().name.endswith("/2")
    old = decrypt(sealed.ciphertext)
    assert old.plaintext == SECRET and not old.used_primary

    for state in ["disabled", "pending-deletion"]:
        control(server, "/state", {"key": name, "state": state})
        fails(google.BadRequest, encrypt,
              lambda e: e.details and e.details[0]["violations"][0]["type"].startswith("KEY_D"))
        fails(google.BadRequest, lambda: decrypt(sealed.ciphertext))
    control(server, "/state", {"key": name, "state": "enabled"})
    assert decrypt(sealed.ciphertext).plaintext == SECRET

    rsa = f"{ring}/cryptoKeys/rsa"
    control(server, "/keys", {"key": rsa, "type": "rsa"})
    version = client.get_crypto_key_version(name=f"{rsa}/cryptoKeyVersions/1", **once)
    assert version.algorithm == kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm.RSA_DECRYPT_OAEP_2048_SHA256
    public = client.get_public_key(name=version.name, **once)
    assert public.pem_crc32c == crc(public.pem.encode())
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    loaded = serialization.load_pem_public_key(public.pem.encode())
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    ciphertext = loaded.encrypt(SECRET, oaep)
    answer = client.asymmetric_decrypt(
        request={"name": version.name, "ciphertext": ciphertext, "ciphertext_crc32c": crc(ciphertext)}, **once)
    assert answer.plaintext == SECRET and answer.verified_ciphertext_crc32c

    control(server, "/fault", {"fault": "denied"})
    fails(google.Forbidden, lambda: client.get_crypto_key(name=name, **once),
          lambda e: e.reason == "IAM_PERMISSION_DENIED")
    control(server, "/fault", {"fault": "throttled"})
    fails(google.TooManyRequests, lambda: client.get_crypto_key(name=name, **once))
    print("google-cloud-kms: get, encrypt, decrypt, checksums, 404, 403, 429, disabled, destroyed, rotated, tampered, RSA")


azure()
gcp()
