"""Wrong settings: each is refused while the command line is read, by its flag, with its value and
what is allowed."""

import runpy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from vlm2vec_cli.config import unknown_variables
from vlm2vec_cli.main import vlm2vec
from vlm2vec_cli.serve import check_names, serve
from vlm2vec_service.addresses import bind, check_free
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.check import check
from vlm2vec_service.frontend.credentials import Exposure
from vlm2vec_service.settings import (
    AuthSettings,
    EngineSettings,
    HttpSettings,
    Limits,
    LogSettings,
    RegistrySettings,
    ServerSettings,
    TlsSettings,
    VideoSettings,
)
from vlm2vec_service.supervision import devices
from vlm2vec_training.settings import AdapterSettings, TrainSettings

ALL = (
    AuthSettings, EngineSettings, HttpSettings, Limits, LogSettings, RegistrySettings,
    ServerSettings, TlsSettings, VideoSettings,
)  # fmt: skip
FIELDS: dict[str, Any] = {item.name: item for settings in ALL for item in fields(settings)}
TRAINING = {item.name: item for own in (AdapterSettings, TrainSettings) for item in fields(own)}
OPTIONS = {option.name or "": option for option in serve.params}
ADDRESSES = ("host", "127.0.0.1", "host:", "host:http", "host:99999", "host:-1", "::1:80", "h/p:1")
WRONG: dict[str, tuple[str, ...]] = {
    "listen": (*ADDRESSES, "unix:"),
    "http_listen": (*ADDRESSES, "unix:"),
    "metrics_listen": (*ADDRESSES, "unix:/run/a"),
    "device": ("gpu", "cuda:", "cuda:-1", "cuda:x", "cpu cuda", "cpu,", "cuda,cuda:0", "cpu,cpu"),
    "dtype": ("float16", "bf16", "int8"),
    "log_format": ("yaml",),
    "log_level": ("LOUD", "10"),
    "trusted_proxies": ("10.0.0.0/33", "10.0.0.1/8", "proxy", "10.0.0.0/8 unix", "unix:/run/a"),
    "routing_key_header": ("a b", "x:", "key-bin", "-x", "é"),
    **dict.fromkeys(
        ("callers", "tls_certificate", "tls_key", "tls_client_ca", "webhook_secret_file"),
        ("/nowhere/file", "/"),
    ),
}
"""Texts that are no value, by setting."""
FREE = {
    "cache_dir", "certificate_scopes", "fetch_origins", "http_cors_origins", "jwt_audience",
    "jwt_issuer", "jwt_keys", "registry", "webhook_peers", "without_credential",
}  # fmt: skip
"""Settings whose text is looked at later, all before a base is read."""


def parsed(*arguments: str) -> Result:
    """What ``vlm2vec serve`` makes of its command line; it does not start."""
    command = click.Command("serve", params=serve.params, callback=lambda **values: None)
    return CliRunner().invoke(command, ["--model", "m=/", *arguments])


def wrong_values() -> list[tuple[str, str]]:
    """Values that are wrong, for every setting that has some."""
    cases = [(name, value) for name, values in WRONG.items() for value in values]
    for name, item in FIELDS.items():
        if isinstance(item.default, bool):
            continue
        if isinstance(item.default, int | float):
            least, most = item.metadata["least"], item.metadata["most"]
            assert least is not None, f"{name}: nothing is said of the least value"
            cases += [(name, str(least - 1)), (name, "many"), (name, "nan"), (name, "inf")]
            cases += [(name, str(most + 1))] if most is not None else []
    return cases


@pytest.mark.parametrize(("name", "value"), wrong_values())
def test_a_wrong_value_is_named_with_its_flag(name: str, value: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    result = parsed(f"{flag}={value}")
    assert result.exit_code == 2
    last = result.output.splitlines()[-1]
    assert last.startswith(f"Error: Invalid value for '{flag}': ")
    assert value in last
    assert len(last) > len(f"Error: Invalid value for '{flag}': ") + len(value)


def test_every_setting_is_looked_at() -> None:
    unlike = {name for name, item in FIELDS.items() if isinstance(item.default, bool)}
    assert {name for name, _ in wrong_values()} | unlike | FREE == FIELDS.keys()
    assert FIELDS.keys() < OPTIONS.keys()


def test_good_values_are_taken() -> None:
    good = {
        "listen": ("unix:/run/a", "[::1]:0", ":80", "localhost:65535"), "http_listen": ("",),
        "metrics_listen": ("",), "device": ("cuda", "cuda:0,cuda:12", "cpu,cuda:1"),
        "log_level": ("debug", "Warning"), "merged_bytes": ("-1", "0"), "callers": (__file__, ""),
        "poll_seconds": ("0.1", "2e6"), "routing_key_header": ("", "X-User", "x_user-2"),
        "trusted_proxies": ("", "10.0.0.0/8, ::1,unix", "fd00::/8"),
    }  # fmt: skip
    for name, values in good.items():
        for value in values:
            result = parsed(f"--{name.replace('_', '-')}={value}")
            assert (result.exit_code, result.output) == (0, ""), (name, value)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--worker", "host:1", "is not NAME=HOST:PORT"),
        ("--worker", "m=", "is not NAME=HOST:PORT"),
        ("--worker", "m=host", "'host' is not HOST:PORT"),
        ("--worker", "m=host:none", "has no port between 0 and 65535"),
        ("--model", "m2", "is not NAME=DIR"),
        ("--model", "m2=/nowhere/at/all", "'/nowhere/at/all' is no folder here"),
        ("--model", "m=/", "'m' is given twice"),
        ("--adapter", "m/1=/nowhere/at/all", "'/nowhere/at/all' is no folder here"),
        ("--adapter", "m=/", "is not NAME/VERSION=DIR"),
        ("--alias", "m/a=1", "is not NAME@ALIAS=VERSION"),
    ],
)
def test_models_and_workers(flag: str, value: str, said: str) -> None:
    result = parsed(flag, value)
    assert result.exit_code == 2
    last = result.output.splitlines()[-1]
    assert f"'{flag}'" in last
    assert said in last


def test_names_are_those_of_models() -> None:
    good: dict[str, Any] = {"model": {"a": "", "b": ""}, "adapter": {("a", "1"): ""}}
    good |= {"alias": {("a", "x"): "1", ("b", "y"): "base"}, "worker": {"b": ["host:1"]}}
    good |= {"embedding": {}}
    check_names(good)
    for option, value, said in (
        ("adapter", {("c", "1"): ""}, "--adapter: 'c' is none of --model: a, b"),
        ("alias", {("c", "x"): "base"}, "--alias: 'c' is none of --model: a, b"),
        ("worker", {"c": ["host:1"]}, "--worker: 'c' is none of --model: a, b"),
        ("alias", {("a", "x"): "2"}, "--alias: a@x=2: a has no --adapter a/2=DIR"),
    ):
        with pytest.raises(StartError) as refused:
            check_names({**good, option: value})
        assert str(refused.value) == said


def refusal(act: Callable[[], object]) -> str:
    """What is said of settings that are looked at together."""
    with pytest.raises(StartError) as refused:
        act()
    return str(refused.value)


def test_ports_that_are_taken(tmp_path: Path) -> None:
    with bind("127.0.0.1:0") as listener:
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        for name in ("listen", "metrics_listen", "http_listen"):
            said = refusal(lambda: check_free({name: taken}))  # noqa: B023 (it is called at once)
            assert said.startswith(f"--{name.replace('_', '-')}: cannot listen on {taken}: ")
    path = f"unix:{tmp_path / 'a.sock'}"
    for address in (taken, path):
        said = refusal(lambda: check_free({"listen": address, "http_listen": address}))  # noqa: B023
        assert said.startswith(f"--http-listen: cannot listen on {address}: ")
        check_free({"listen": address, "metrics_listen": ""})
        check_free({"listen": address})  # nothing is left there
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_looked_at_together(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    cases: list[tuple[str, Any]] = [
        ("--listen: 0.0.0.0:1 can be reached", ServerSettings(listen="0.0.0.0:1")),
        ("--http-cors-origins: 'x'", HttpSettings(http_cors_origins="x")),
        ("--fetch-origins: 'ftp://x'", HttpSettings(fetch_origins="ftp://x")),
        ("--jwt-keys: needs --jwt-issuer", AuthSettings(jwt_keys="https://a/b")),
        (
            "--jwt-keys: /nowhere",
            AuthSettings(jwt_keys="/nowhere", jwt_issuer="i", jwt_audience="a"),
        ),
        ("--without-credential: unknown x", AuthSettings(without_credential="x,health")),
        ("--certificate-scopes: unknown x", AuthSettings(certificate_scopes="x")),
        ("--tls-key: needed with", TlsSettings(tls_certificate="a")),
        ("--tls-certificate: needed with", TlsSettings(tls_key="a")),
        ("--webhook-secret-file: ", RegistrySettings(webhook_secret_file=str(tmp_path / "empty"))),
    ]
    nowhere = ServerSettings(listen="127.0.0.1:0", metrics_listen="")
    for said, wrong in cases:
        server = wrong if isinstance(wrong, ServerSettings) else nowhere
        http = wrong if isinstance(wrong, HttpSettings) else HttpSettings(http_listen="")
        tls = wrong if isinstance(wrong, TlsSettings) else TlsSettings()
        auth = wrong if isinstance(wrong, AuthSettings) else AuthSettings()
        registry = wrong if isinstance(wrong, RegistrySettings) else RegistrySettings()
        given = Exposure(http, tls, auth)
        assert refusal(lambda: check(server, given, registry)).startswith(said)  # noqa: B023
    check(nowhere, Exposure(HttpSettings(http_listen="")), RegistrySettings())


def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "ask.py").write_text(devices.ASK)
    runpy.run_path(str(tmp_path / "ask.py"))
    assert capsys.readouterr().out.split() == [str(torch.cuda.device_count()), torch.__version__]
    monkeypatch.setattr(devices, "ASK", "print(2, '2.13.0')")
    for there in (["cpu"], ["cuda"], ["cpu", "cuda:0", "cuda:1"], []):
        devices.check_devices(there)
    said = refusal(lambda: devices.check_devices(["cuda:0", "cuda:2"]))
    here = "this machine has cpu, cuda:0, cuda:1 (PyTorch 2.13.0)"
    assert said == f"--device: cuda:2 is not there; {here}"
    monkeypatch.setattr(devices, "ASK", "raise SystemExit(1)")
    devices.check_devices(["cuda:2"])  # which the worker will say


def test_a_worker_by_itself_refuses_the_same() -> None:
    for flag, value in (
        *(("address", address) for address in (*ADDRESSES, "unix:")),
        *((name, value) for name in ("device", "dtype", "log_level") for value in WRONG[name]),
        ("threads", "-1"), ("token_budget", "-1"), ("base", "/nowhere/at/all"),
    ):  # fmt: skip
        option = f"--{flag.replace('_', '-')}"
        result = CliRunner().invoke(vlm2vec, ["worker", "--base", "/", f"{option}={value}"])
        assert result.exit_code == 2
        last = result.output.splitlines()[-1]
        assert last.startswith(f"Error: Invalid value for '{option}': ")
        assert value in last


def test_training_refuses_numbers_that_are_none(tmp_path: Path) -> None:
    wrong = {"adapter": "qlora", "dtype": "float16", "device": "gpu"}
    for name, item in TRAINING.items():
        if isinstance(item.default, int | float) and not isinstance(item.default, bool):
            wrong[name] = str(item.metadata["least"] - 1)
    flags = ["train", "--base", str(tmp_path), "--data", __file__, "--output", str(tmp_path)]
    for name, value in wrong.items():
        option = f"--{name.replace('_', '-')}"
        result = CliRunner().invoke(vlm2vec, [*flags, f"{option}={value}"])
        assert result.exit_code == 2
        last = result.output.splitlines()[-1]
        assert last.startswith(f"Error: Invalid value for '{option}': ")
        assert value in last


def test_variables_that_are_none_of_the_options_are_found() -> None:
    context = click.Context(serve, auto_envvar_prefix="VLM2VEC_SERVE")
    good = ["CONFIG", "MODEL", "MAX_TOKENS", "CUDA_GRAPHS"]
    # Kubernetes sets these for a Service that is called vlm2vec-serve.
    service = [
        "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP",
        "PORT_50051_TCP_ADDR",
    ]  # fmt: skip
    wrong = ["MAX_TOKEN", "PORT_GRPC", "max_tokens"]
    names = [f"VLM2VEC_SERVE_{name}" for name in (*good, *service, *wrong)]
    found = unknown_variables(context, [*names, "PATH", "VLM2VEC_WORKER_DTYPE"])
    assert found == sorted(f"VLM2VEC_SERVE_{name}" for name in wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max-tokens = 0", "max-tokens: 0 is not in the range x>=1."),
        ("max_tokens = 3.5", "max-tokens: 3.5 is not a whole number"),
        ("max-tokens = true", "max-tokens: True is not a whole number"),
        ("max-tokens = '3'", "max-tokens: '3' is not a whole number"),
        ("poll-seconds = inf", "poll-seconds: inf is not in the range"),
        ("cuda-graphs = 1", "cuda-graphs: 1 is not true or false"),
        ("log-level = 'LOUD'", "log-level: 'LOUD' is not one of"),
        ("device = 3", "device: 3 is not a text in quotes"),
        ("alias = 'a@b=c'", "alias: 'a@b=c' is not a list of texts"),
        ("adapter = [1]", "adapter: [1] is not a list of texts"),
        ("max-token = 1", "unknown key max-token"),
        ("[limits]\nmax-tokens = 1", "unknown key limits"),
        ("max-tokens", "Expected '='"),
    ],
)
def test_a_wrong_line_of_the_file(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(line + "\n")
    result = parsed("--config", str(file))
    assert result.exit_code == 2
    assert f"{file}: {said}" in " ".join(result.output.split())


def test_the_file_that_is_written_has_every_option_in_the_order_of_help(tmp_path: Path) -> None:
    written = CliRunner().invoke(vlm2vec, ["serve", "--print-config"])
    assert written.exit_code == 0
    lines = [line.removeprefix("# ") for line in written.output.splitlines()]
    keys = [line.partition(" = ")[0] for line in lines if " = " in line]
    expected = [name.replace("_", "-") for name in OPTIONS]
    assert keys == [key for key in expected if key not in ("config", "print-config")]
    help = CliRunner().invoke(vlm2vec, ["serve", "--help"]).output.partition("\nOptions:")[2]
    places = [help.index(f"  --{key}") for key in keys]
    assert places == sorted(places)
    file = tmp_path / "serve.toml"
    repeatable = {key for key in keys if OPTIONS[key.replace("-", "_")].multiple}
    entries = [line for line in lines if " = " in line]
    file.write_text("\n".join(l for l in entries if l.partition(" = ")[0] not in repeatable))
    assert parsed("--config", str(file)).exit_code == 0


def test_help_has_groups_choices_and_units() -> None:
    help = CliRunner().invoke(vlm2vec, ["serve", "--help"]).output
    assert "\nHow the front end serves:\n  --listen HOST:PORT|unix:PATH" in help
    assert "\nTLS for gRPC and HTTP:\n  --tls-certificate FILE" in help
    for part in (
        "--dtype [float32|bfloat16]", "--log-level [debug|info|warning|error|critical]",
        "--max-image-bytes BYTES", "--drain-seconds SECONDS", "--device DEVICE[,DEVICE]",
    ):  # fmt: skip
        assert part in help
    for name, item in FIELDS.items():
        if isinstance(item.default, int | float) and not isinstance(item.default, bool):
            assert f"--{name.replace('_', '-')} {OPTIONS[name].metavar}\n" in help.replace(
                "  ", "\n"
            )
