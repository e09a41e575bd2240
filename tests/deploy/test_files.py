"""What the files in deploy/ and docs/fleet.md name exists, and is the same in all of them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from mitmproxy import options
from mitmproxy.options import CONF_BASENAME
from ruamel.yaml import YAML

from codexpool import addon
from codexpool.cli.main import main
from codexpool.local.ca_files import KEY
from codexpool.members.client_addresses import WORKS_FOR
from codexpool.proxy.mitm.options import SILENCE
from codexpool.proxy.mitm.shutdown import BOUND
from codexpool.web import site
from tests.running import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FLEET = ROOT / "docs" / "fleet.md"
RUNNING = ROOT / "docs" / "running.md"
FILES = sorted(path for path in (*DEPLOY.rglob("*"), FLEET) if path.is_file())

SERVING = ("/etc/codexpool", "/var/lib/codexpool", "/var/lib/codexpool/mitmproxy")
SPARE = 5.0
"""Seconds after the turns that a proxy has to write what is left, before it is killed."""


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


@cache
def containerfile() -> dict[str, str]:
    """What the Containerfile says, by its instruction."""
    whole = text_of(DEPLOY / "Containerfile").replace("\\\n", " ")
    return {line.split()[0]: line for line in whole.splitlines() if line and not line.startswith("#")}


def services() -> dict[str, Any]:
    """The services of compose.fleet.yaml that run a proxy."""
    found: dict[str, Any] = yaml(DEPLOY / "compose.fleet.yaml")["services"]
    return {name: service for name, service in found.items() if name.startswith("proxy-")}


def single() -> Any:
    """The proxy of compose.yaml."""
    return yaml(DEPLOY / "compose.yaml")["services"]["proxy"]


def pod() -> Any:
    return yaml(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]


def container() -> Any:
    (container,) = pod()["containers"]
    return container


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


# -- names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_variable_of_ours_is_one_that_the_code_reads(path: Path) -> None:
    code = "".join(text_of(module) for module in (ROOT / "codexpool").rglob("*.py"))
    ours = set(re.findall(r"CODEXPOOL_[A-Z_]+", text_of(path))) - {"CODEXPOOL_ARGUMENTS"}  # The unit's own.
    assert [name for name in sorted(ours) if not re.search(rf"[\"']{name}[\"']", code)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_option_of_the_proxy_exists(path: Path) -> None:
    known = {"proxyauth", *options.Options().keys(), *(name for name, _, _ in addon.OPTIONS)}
    assert set(re.findall(r"--set[\", ]+(\w+)=", text_of(path))) <= known


def commands(path: Path) -> Iterator[list[str]]:
    """The words after `codexpool`, or after the service `admin`, in what a document shows as code."""
    for code in re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", text_of(path), re.DOTALL):
        for found in re.finditer(r"(?:\bcodexpool|\badmin) ([a-z][^#|>)\n]*)", "".join(code)):
            if (words := found[1].split())[0] != "codexpool":  # The image, and then its command.
                yield words


def problem(words: list[str]) -> str:
    """Return what is wrong with a command; empty if nothing is."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no such command: {words[0]}"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    if command.ignore_unknown_options:
        return ""
    return ", ".join(word for word in words if word.startswith("--") and word.partition("=")[0] not in known)


@pytest.mark.parametrize("path", [FLEET, RUNNING], ids=lambda path: path.name)
def test_each_command_in_the_documentation_exists(path: Path) -> None:
    found = list(commands(path))
    assert len(found) > 10
    assert [(words, said) for words in found if (said := problem(words))] == []


def test_the_image_has_the_driver_of_the_database() -> None:
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", text_of(DEPLOY / "Containerfile"))) == {"postgres"} <= extras.keys()


# -- the same everywhere


def test_all_use_the_user_of_the_image() -> None:
    user, group = re.findall(r"\d+", containerfile()["USER"])
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (int(user), int(group), int(group))
    for service in services().values():
        assert service["tmpfs"] == [f"/var/lib/codexpool:uid={user},gid={group},mode=0700"]


def test_all_use_the_port_of_the_image() -> None:
    port = int(containerfile()["EXPOSE"].split()[1])
    (service_port,) = yaml(KUBERNETES / "service.yaml")["spec"]["ports"]
    servers = re.findall(r"^ +server (\S+) (\S+):(\d+)", text_of(DEPLOY / "haproxy.cfg"), re.MULTILINE)
    assert f'"--listen-port", "{port}"' in containerfile()["ENTRYPOINT"]
    assert [p["containerPort"] for p in container()["ports"]] == [port]
    assert single()["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert service_port["port"] == port
    assert service_port["targetPort"] == container()["ports"][0]["name"]
    assert servers == [(name, name, str(port)) for name in services()]


def test_all_mount_where_the_image_looks() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", containerfile()["ENV"]))
    confdir = re.search(r"confdir=([^\"]+)", containerfile()["ENTRYPOINT"])
    assert confdir is not None
    config, data = f"{environment['XDG_CONFIG_HOME']}/codexpool", f"{environment['XDG_STATE_HOME']}/codexpool"
    assert (config, data, confdir[1]) == SERVING
    assert {mount["mountPath"] for mount in container()["volumeMounts"]} == {config, data, confdir[1]}
    for service in services().values():
        mounted = [volume.split(":")[1:] for volume in service["volumes"]]
        assert mounted == [[config, "ro"], [confdir[1], "ro"]]
    volumes = dict(volume.split(":") for volume in single()["volumes"])
    assert volumes == {"pool": config, "state": data}
    assert yaml(DEPLOY / "compose.yaml")["volumes"].keys() == volumes.keys()


def test_the_ca_is_mounted_as_a_whole() -> None:
    """mitmproxy would write the second file, which a read-only folder refuses."""
    (generated,) = [
        s for s in yaml(KUBERNETES / "kustomization.yaml")["secretGenerator"] if s["name"] == "codexpool-ca"
    ]
    assert generated["files"] == [f"secrets/{KEY}", f"secrets/{CONF_BASENAME}-dhparam.pem"]


def test_all_ask_the_page_of_the_proxy_for_its_health() -> None:
    host = {"name": "Host", "value": site.HOST}
    for probe, path in (("readiness", site.READY), ("liveness", site.HEALTH), ("startup", site.HEALTH)):
        get = container()[f"{probe}Probe"]["httpGet"]
        assert (get["path"], get["httpHeaders"]) == (path, [host])
    assert f"uri {site.READY} ver HTTP/1.1 hdr Host {site.HOST}" in text_of(DEPLOY / "haproxy.cfg")
    image = containerfile()["HEALTHCHECK"]
    assert f"{site.HEALTH}'" in image
    assert f"{{'Host': '{site.HOST}'}}" in image


# -- times


def test_turns_may_finish_before_a_proxy_is_killed() -> None:
    (_, before) = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod()["terminationGracePeriodSeconds"] >= float(before) + BOUND + SPARE
    for service in (*services().values(), single()):
        assert seconds(service["stop_grace_period"]) >= BOUND + SPARE
    unit = re.search(r"TimeoutStopSec=(\d+)", text_of(DEPLOY / "codexpool.service"))
    assert unit is not None
    assert float(unit[1]) >= BOUND + SPARE


def test_the_balancer_closes_no_connection_that_a_proxy_keeps() -> None:
    sides = dict(re.findall(r"timeout (client|server) (\S+)", text_of(DEPLOY / "haproxy.cfg")))
    assert sides.keys() == {"client", "server"}
    assert min(map(seconds, sides.values())) > SILENCE


def test_an_address_stays_with_a_proxy_for_as_long_as_that_remembers_its_member() -> None:
    spec = yaml(KUBERNETES / "service.yaml")["spec"]
    assert spec["sessionAffinity"] == "ClientIP"
    assert spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] >= WORKS_FOR
    assert "balance source" in text_of(DEPLOY / "haproxy.cfg")


# -- whole


def test_every_file_that_is_needed_is_made_somewhere_and_never_in_git() -> None:
    compose = yaml(DEPLOY / "compose.fleet.yaml")
    needed = {secret["file"] for secret in compose["secrets"].values()}
    needed |= {v.split(":")[0] for s in compose["services"].values() for v in s.get("volumes", ()) if v[0] == "."}
    for path in needed - {"./haproxy.cfg"}:
        assert path.startswith("./secrets/")
        assert path.removeprefix("./") in text_of(FLEET)
    assert {"deploy/secrets/", "deploy/kubernetes/secrets/"} <= set(text_of(ROOT / ".gitignore").splitlines())


def test_the_kustomization_makes_what_the_pods_need() -> None:
    kustomization = yaml(KUBERNETES / "kustomization.yaml")
    assert {f"{name}" for name in kustomization["resources"]} == {
        path.name for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml"
    }
    wanted = {volume["secret"]["secretName"] for volume in pod()["volumes"] if "secret" in volume}
    wanted |= {source["secretRef"]["name"] for source in container()["envFrom"]}
    assert {generator["name"] for generator in kustomization["secretGenerator"]} == wanted
    assert [image["name"] for image in kustomization["images"]] == [container()["image"]]


def test_no_part_runs_as_root_or_with_a_writable_root() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    context = container()["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    services_of_all = [*yaml(DEPLOY / "compose.fleet.yaml")["services"].items(), ("proxy", single())]
    for name, service in services_of_all:
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
