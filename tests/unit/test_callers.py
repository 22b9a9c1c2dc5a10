"""The callers file, keys, and what the server refuses to start with."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vlm2vec_cli.keys import keys
from vlm2vec_service.errors import InvalidInputError, StartError, UnauthenticatedError
from vlm2vec_service.frontend.auth.authenticator import Authenticator, Credentials
from vlm2vec_service.frontend.auth.callers import digest, new_key, read_callers
from vlm2vec_service.frontend.tls import follow_certificate
from vlm2vec_service.settings import AuthSettings, TlsSettings

LINE = {"name": "a", "sha256": "0" * 64, "scopes": ["embed"]}


def test_keys_are_long_different_and_only_in_digest(tmp_path: Path) -> None:
    pairs = [new_key(f"caller{i}", ["embed", "adapters:read"], models=["m"]) for i in range(9)]
    assert len({key for key, _ in pairs}) == 9
    file = tmp_path / "callers"
    file.write_text("\n".join(line for _, line in pairs))
    callers = read_callers(file)
    for index, (key, line) in enumerate(pairs):
        assert len(key) >= 8 + 43  # 256 bits
        assert key[12:] not in line
        identity = callers.by_key(key)
        assert identity.name == f"key:caller{index}"
        assert identity.scopes == {"embed", "adapters:read"}
        assert identity.models == {"m"}
    for wrong in ("", "vlm2vec_", pairs[0][0][:-1], pairs[0][0] + "a", digest(pairs[0][0])):
        with pytest.raises(UnauthenticatedError):
            callers.by_key(wrong)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": 5}, "sha256"),
        ({"sha256": None}, "sha256"),
        ({"certificate": "x"}, "sha256"),
        ({"sha256": None, "certificate": ""}, "certificate"),
        ({"scopes": None}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["embed", "all"]}, "scopes"),
        ({"scopes": "embed"}, "scopes"),
        ({"models": []}, "models"),
        ({"models": "m"}, "models"),
        ({"requests_per_second": -1}, "requests_per_second"),
        ({"tokens_per_second": True}, "tokens_per_second"),
        ({"tokens_per_second": "5"}, "tokens_per_second"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": 5}, "expires"),
        ({"key": "secret"}, "key"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    values = {key: value for key, value in {**LINE, **change}.items() if value is not None}
    file = tmp_path / "callers"
    file.write_text("# a comment\n" + json.dumps(values))
    with pytest.raises(InvalidInputError) as refused:
        read_callers(file)
    assert refused.value.field == f"{file}:2: {field}"


@pytest.mark.parametrize("line", ["{", "[]", "7", json.dumps(LINE) + "\n" + json.dumps(LINE)])
def test_files_that_are_none(tmp_path: Path, line: str) -> None:
    file = tmp_path / "callers"
    file.write_text(line)
    with pytest.raises(InvalidInputError):
        read_callers(file)


def test_keys_command() -> None:
    flags = ["new", "--name", "x", "--scope", "embed", "--expires", "2999-01-01",
             "--requests-per-second", "0", "--tokens-per-second", "9.5"]  # fmt: skip
    result = CliRunner().invoke(keys, flags)
    line = json.loads(result.stdout)
    assert line["sha256"] == digest(result.stderr.split()[-1])
    assert (line["requests_per_second"], line["tokens_per_second"]) == (0, 9.5)
    wrong = CliRunner().invoke(keys, ["new", "--name", "x", "--scope", "all"])
    assert isinstance(wrong.exception, InvalidInputError)


def test_certificates_by_scope_setting() -> None:
    auth = AuthSettings(certificate_scopes="embed, adapters:read")
    authenticator = Authenticator(auth, TlsSettings("a", "b", "c"))
    identity = authenticator.identify(Credentials("", ("someone.example.com",)))
    assert identity.name == "certificate:someone.example.com"
    assert identity.scopes == {"embed", "adapters:read"}
    with pytest.raises(UnauthenticatedError):
        authenticator.identify(Credentials("Bearer x"))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (AuthSettings(certificate_scopes="embed,all"), "certificate_scopes"),
        (AuthSettings(without_credential="everything"), "without_credential"),
        (AuthSettings(jwt_keys="https://id.example.com/keys"), "jwt_keys"),
        (AuthSettings(jwt_keys="http://a/b", jwt_issuer="i", jwt_audience="a"), "jwt_keys"),
    ],
)
def test_bad_settings_are_named(settings: AuthSettings, field: str) -> None:
    with pytest.raises(StartError) as refused:
        Authenticator(settings, TlsSettings())
    assert refused.value.field == field


def test_files_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="nowhere"):
        Authenticator(AuthSettings(callers=str(tmp_path / "nowhere")), TlsSettings())
    with pytest.raises(StartError, match="nowhere"):
        follow_certificate(TlsSettings(str(tmp_path / "nowhere"), "b"))
    (tmp_path / "pem").write_text("no certificate")
    with pytest.raises(InvalidInputError, match="no use"):
        follow_certificate(TlsSettings(str(tmp_path / "pem"), str(tmp_path / "pem")))
    for tls in (TlsSettings("a"), TlsSettings("", "b"), TlsSettings("", "", "c")):
        with pytest.raises(StartError):
            follow_certificate(tls)
