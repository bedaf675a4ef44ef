"""Settings: which service, which token, who pays; where each is set, and which of several counts.

Whoever comes first is heard: the environment (where flags of the command line are put), the profile that
LONGSHORE_PROFILE names, `.longshore.toml` of the working directory, the default profile. Profiles lie in
`config.toml`, tokens in `credentials.toml` beside it, which only its owner can read. The profile `local`
is always there: the service of `longshore up`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NotFound, UsageError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

PROJECT_KEYS = ("endpoint", "billing_project")
"""What `.longshore.toml` may set."""
KEYS = (*PROJECT_KEYS, "ca_file")
"""What a profile may set. `ca_file`: who vouches for the service, where it is none of the system's."""
LOCAL = "local"
"""The name of the profile, and the endpoint, of the service of `longshore up`."""
DEFAULT = "default"
"""The profile that counts when none is named."""
PROJECT_FILE = ".longshore.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and who said so."""

    value: str
    origin: str
    """For people, e.g. ``LONGSHORE_ENDPOINT`` or ``profile prod``."""
    of_project: bool = False
    """It comes with a folder that may be somebody else's: no secret is sent where it says."""


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """LONGSHORE_CONFIG, or ``longshore/config.toml`` in XDG_CONFIG_HOME or ``~/.config``."""
    if file := environ.get("LONGSHORE_CONFIG"):
        return Path(file)
    return _folder(environ, "XDG_CONFIG_HOME", ".config") / "config.toml"


def credentials_file(environ: Mapping[str, str] = os.environ) -> Path:
    return config_file(environ).with_name("credentials.toml")


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """``longshore`` in XDG_CACHE_HOME or ``~/.cache``; what lies there can be made again."""
    return _folder(environ, "XDG_CACHE_HOME", ".cache")


def active_profile(environ: Mapping[str, str] = os.environ) -> Setting:
    """The profile that counts, whether or not there is anything in it.

    Raises NotFound when LONGSHORE_PROFILE names one that is not there.
    """
    if name := environ.get("LONGSHORE_PROFILE"):
        have = profiles(environ)
        if name not in have:
            raise NotFound(
                f"there is no profile {name!r}: {config_file(environ)} has {', '.join(have)}",
                hint=f"longshore --profile {name} config set endpoint HOST:PORT makes it",
            )
        return Setting(name, "LONGSHORE_PROFILE")
    name = read_toml(config_file(environ)).get("default_profile")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{config_file(environ)}: default_profile must be a name, not {name!r}")
    return Setting(name, str(config_file(environ))) if name else Setting(DEFAULT, "default")


def profiles(environ: Mapping[str, str] = os.environ) -> dict[str, dict[str, str]]:
    """All profiles by name, with what they set."""
    file = config_file(environ)
    found = read_toml(file).get("profile", {})
    if not isinstance(found, dict):
        raise UsageError(f"{file}: profiles are tables, e.g. [profile.prod]")
    return {LOCAL: {"endpoint": LOCAL}} | {
        name: _settings_of(values, f"{file}: profile {name!r}") for name, values in found.items()
    }


def setting(key: str, environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Setting | None:
    """What counts for one of KEYS; None when nobody sets it. `folder` holds the `.longshore.toml`.

    Raises UsageError for a file that cannot be understood, naming it, NotFound for an unknown profile.
    """
    assert key in KEYS
    return next((found for found in _sources(key, environ, folder or Path()) if found), None)


def _sources(key: str, environ: Mapping[str, str], folder: Path) -> Iterator[Setting | None]:
    """Who may have set it, in the order in which they are heard."""
    variable = f"LONGSHORE_{key.upper()}"
    yield _some(environ.get(variable), variable)
    chosen = bool(environ.get("LONGSHORE_PROFILE"))
    if chosen:
        yield _of_profile(key, environ)
    if key == "endpoint" and environ.get("LONGSHORE_HOME"):
        yield Setting(LOCAL, "LONGSHORE_HOME")
    if (file := folder / PROJECT_FILE).exists():
        of_project = _settings_of(read_toml(file), str(file), only=True)
        yield _some(of_project.get(key), f"./{PROJECT_FILE}", of_project=True)
    if not chosen:
        yield _of_profile(key, environ)


def _of_profile(key: str, environ: Mapping[str, str]) -> Setting | None:
    name = active_profile(environ).value
    return _some(profiles(environ).get(name, {}).get(key), f"profile {name}")


def _some(value: str | None, origin: str, *, of_project: bool = False) -> Setting | None:
    return Setting(value, origin, of_project) if value else None


def stored_token(endpoint: str, environ: Mapping[str, str] = os.environ) -> Setting | None:
    """The token that `longshore login` stored for this endpoint: the active profile's, else another's.

    Raises UsageError when the file cannot be understood.
    """
    file = credentials_file(environ)
    stored = read_toml(file)
    active = active_profile(environ).value
    for name in sorted(stored, key=lambda name: name != active):
        login = stored[name]
        if isinstance(login, dict) and login.get("endpoint") == endpoint and login.get("token"):
            return Setting(str(login["token"]), f"{file}, profile {name}")
    return None


def change_config(change: Callable[[TOMLDocument], None], environ: Mapping[str, str] = os.environ) -> Path:
    """Change `config.toml`, whose comments stay; the file. Its first writer makes it."""
    return _change(config_file(environ), change, mode=None)


def change_credentials(
    change: Callable[[TOMLDocument], None], environ: Mapping[str, str] = os.environ
) -> Path:
    """Change `credentials.toml`; the file, which only its owner can read from then on."""
    return _change(credentials_file(environ), change, mode=0o600)


def set_in_profile(document: TOMLDocument, profile: str, values: Mapping[str, str]) -> None:
    """Set these in [profile.<name>], which is made when it is missing."""
    import tomlkit

    table = document.setdefault("profile", tomlkit.table(is_super_table=True))
    if profile not in table:
        table[profile] = tomlkit.table()
    for key, value in values.items():
        table[profile][key] = value


def read_toml(file: Path) -> dict[str, Any]:
    """What stands in it; nothing when it is not there. Raises UsageError, saying where it is wrong."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        raise UsageError(f"{file} is not TOML: {error}", hint="longshore config edit") from error


def _settings_of(values: object, where: str, *, only: bool = False) -> dict[str, str]:
    """Those of KEYS; with `only`, others are refused."""
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a table")
    keys = PROJECT_KEYS if only else KEYS
    for key, value in values.items():
        if key in keys and not isinstance(value, str):
            raise UsageError(f"{where}: {key} must be a text in quotes, not {value!r}")
        if only and key not in keys:
            raise UsageError(f"{where}: {key!r} cannot be set there", hint=f"only {' and '.join(keys)}")
    return {key: value for key, value in values.items() if key in keys}


def _change(file: Path, change: Callable[[TOMLDocument], None], mode: int | None) -> Path:
    import tempfile

    import tomlkit

    read_toml(file)  # Says what is wrong in better words.
    target = file.resolve()  # What a link points to is replaced, not the link.
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = tomlkit.parse(target.read_text() if target.exists() else "")
        change(document)
        if mode is None:
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with open(descriptor, "w") as out:
            os.fchmod(descriptor, mode)
            out.write(tomlkit.dumps(document))
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    return file


def _folder(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    return Path(environ.get(variable) or Path.home() / otherwise) / "longshore"
