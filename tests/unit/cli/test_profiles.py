"""Which service, which token, who pays: who is heard first, and where a token is never sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Run
from fakes_service import TOKEN, FakeService
from longshore.discovery import ServiceAddress, find_service, write_service_file
from longshore.errors import AuthError, NotFound, UsageError
from longshore.profiles import config_file, credentials_file, read_toml, setting

A, B, C, D = ("a:1", "b:2", "c:3", "d:4")


@pytest.fixture
def config(folders: Path) -> Path:
    file = config_file()
    file.parent.mkdir(parents=True)
    file.write_text(
        "# mine\n"
        'default_profile = "prod"\n'
        f'[profile.prod]\nendpoint = "{A}"\nbilling_project = "genomics"  # pays\n'
        f'[profile.other]\nendpoint = "{B}"\n'
    )
    return file


def test_each_source_is_heard_before_the_next(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def heard() -> tuple[str, str]:
        found = setting("endpoint")
        assert found
        return found.value, found.origin

    assert heard() == (A, "profile prod")
    Path(".longshore.toml").write_text(f'endpoint = "{C}"\n')
    assert heard() == (C, "./.longshore.toml")
    monkeypatch.setenv("LONGSHORE_HOME", "/somewhere")
    assert heard() == ("local", "LONGSHORE_HOME")
    monkeypatch.setenv("LONGSHORE_PROFILE", "other")
    assert heard() == (B, "profile other")
    monkeypatch.setenv("LONGSHORE_ENDPOINT", D)
    assert heard() == (D, "LONGSHORE_ENDPOINT")


def test_a_flag_is_heard_before_the_environment(
    config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_ENDPOINT", D)
    monkeypatch.setenv("LONGSHORE_TOKEN", "for d only")

    def endpoint(*flags: str) -> str:
        document = run(*flags, "config", "show", "-o", "json").document
        return str(next(row["value"] for row in document["settings"] if row["key"] == "endpoint"))

    assert endpoint() == D
    assert endpoint("--profile", "other") == B
    assert endpoint("--endpoint", C) == C
    assert os.environ["LONGSHORE_ENDPOINT"] == D, "a flag is for one command"
    assert run("--endpoint", C, "ls").code == 4, "the token came with another endpoint"


def test_what_a_profile_does_not_set_comes_from_elsewhere(config: Path) -> None:
    Path(".longshore.toml").write_text('endpoint = "c:3"\n')
    project = setting("billing_project")
    assert project and (project.value, project.origin) == ("genomics", "profile prod")


def test_the_service_of_this_machine_is_found_when_nobody_says_anything(folders: Path) -> None:
    home = folders / "state" / "longshore" / "up"
    home.mkdir(parents=True)
    write_service_file(home, ServiceAddress("127.0.0.1:9", "t"), os.getpid())
    assert find_service().endpoint == "127.0.0.1:9"


def test_the_profile_local_is_always_there(
    config: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folders / "state" / "longshore" / "up"
    home.mkdir(parents=True)
    write_service_file(home, ServiceAddress("127.0.0.1:9", "t"), os.getpid())
    monkeypatch.setenv("LONGSHORE_PROFILE", "local")
    assert find_service().endpoint == "127.0.0.1:9"


def test_the_token_of_the_environment_is_not_sent_where_a_folder_says(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".longshore.toml").write_text('endpoint = "evil.example.org:443"\n')
    monkeypatch.setenv("LONGSHORE_TOKEN", "secret")
    with pytest.raises(AuthError, match="not sent to evil.example.org:443"):
        find_service()
    credentials_file().parent.mkdir(parents=True, exist_ok=True)
    credentials_file().write_text('[x]\nendpoint = "evil.example.org:443"\ntoken = "given to it"\n')
    assert find_service().token == "given to it"


def test_a_stored_token_is_only_for_its_endpoint(config: Path) -> None:
    credentials_file().write_text(f'[prod]\nendpoint = "{B}"\ntoken = "of b"\n')
    with pytest.raises(AuthError, match=f"no token for the service at {A}"):
        find_service()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('token = "secret"\n', "'token' cannot be set there"),
        ("endpoint = 7\n", "must be a text"),
        ("endpoint =\n", "is not TOML"),
    ],
)
def test_a_folder_may_set_little_and_errors_name_the_file(folders: Path, text: str, says: str) -> None:
    Path(".longshore.toml").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        setting("endpoint")
    assert ".longshore.toml" in str(caught.value)


def test_an_unknown_profile_names_those_that_there_are(config: Path, run: Run) -> None:
    ran = run("--profile", "dev", "ls")
    assert ran.code == 3 and "local, prod, other" in ran.err
    with pytest.raises(NotFound):
        setting("endpoint", {**os.environ, "LONGSHORE_PROFILE": "dev"})


def test_changing_a_setting_keeps_the_comments(config: Path, run: Run) -> None:
    assert run("config", "set", "billing_project", "proteins").code == 0
    assert run("--profile", "new", "config", "set", "endpoint", D).code == 0
    assert run("config", "use", "new").code == 0
    text = config.read_text()
    assert "# mine" in text and "# pays" in text
    settings = read_toml(config)
    assert settings["default_profile"] == "new"
    assert settings["profile"]["prod"]["billing_project"] == "proteins"
    assert settings["profile"]["new"] == {"endpoint": D}


def test_a_profile_is_in_use_also_when_it_is_the_first_word_in_the_file(folders: Path, run: Run) -> None:
    run("--profile", "prod", "config", "set", "endpoint", A)
    assert run("config", "use", "prod").code == 0
    assert read_toml(config_file())["default_profile"] == "prod"
    assert run("config", "use", "nobody").code == 3


def test_a_link_to_the_file_stays_a_link(config: Path, folders: Path, run: Run) -> None:
    dotfile = folders / "dotfile.toml"
    config.rename(dotfile)
    config.symlink_to(dotfile)
    assert run("config", "set", "endpoint", C).code == 0
    assert config.is_symlink() and C in dotfile.read_text()


def test_config_tells_where_each_comes_from_and_never_a_token(
    config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_TOKEN", "very-secret")
    ran = run("config", "show", "--origin")
    assert b"very-secret" not in ran.out
    rows = {line.split()[0]: line for line in ran.lines}
    assert "profile prod" in rows["endpoint"] and "LONGSHORE_TOKEN" in rows["token"]
    assert run("config", "path").out.decode().strip() == str(config)


def test_login_keeps_a_valid_token_for_its_owner_alone(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = service.endpoint
    ran = run("--profile", "lab", "--endpoint", endpoint, "login", "--token", TOKEN)
    assert ran.code == 0 and f"logged in to {endpoint} as ada" in ran.err
    assert credentials_file().stat().st_mode & 0o777 == 0o600
    for variable in ("LONGSHORE_ENDPOINT", "LONGSHORE_TOKEN"):
        monkeypatch.delenv(variable)
    assert run("--profile", "lab", "ls").code == 0
    assert run("--profile", "lab", "whoami", "-o", "json").document["user"]["user"] == "ada"
    assert run("--profile", "lab", "logout").code == 0
    assert TOKEN not in credentials_file().read_text()
    assert run("--profile", "lab", "auth", "user").code == 4


def test_login_takes_the_token_from_the_environment_and_refuses_a_wrong_one(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_TOKEN", "stolen")
    ran = run("auth", "login")
    assert ran.code == 4 and not credentials_file().exists()
    monkeypatch.setenv("LONGSHORE_TOKEN", TOKEN)
    assert run("auth", "login").code == 0
    assert read_toml(config_file())["profile"]["default"]["endpoint"] == service.endpoint


def test_login_to_another_service_asks_for_another_profile(service: FakeService, run: Run) -> None:
    run("config", "set", "endpoint", A)
    ran = run("login", "--token", TOKEN)
    assert ran.code == 6 and "--profile NAME" in ran.err


def test_no_login_is_needed_on_ones_own_machine(folders: Path, run: Run) -> None:
    ran = run("login")
    assert ran.code == 0 and "no login is needed" in ran.err
