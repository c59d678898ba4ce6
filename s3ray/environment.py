"""Makes up for what Ray wants of this process's environment and does not find: short paths, a home, a way past proxies.

Only variables of this process and of those that it starts are set.
"""

import atexit
import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

from s3ray.errors import InputError

_MOST_BYTES = 40
"""The longest folder for Ray's files: 107 bytes are the most for a socket (sockaddr_un, unix(7)), and Ray appends
/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store, which are up to 67."""
_PLAIN = re.compile(r"[A-Za-z0-9/._+=,@-]+")
"""Paths that survive Ray's command lines, which it takes apart at blanks."""
_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108: the folder made there is this user's alone


def temporary_folder() -> tuple[str, str]:
    """Where the files of a Ray that is started here go, and a note for the user, empty if that is the usual place.

    A place whose path is too long for sockets, or has blanks, gets a short second name, which ``TMPDIR`` names from
    then on: engines and train workers put sockets there too.

    Raises:
        InputError: nothing can be written there.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    place = Path(os.environ[variable] if variable else _SHORT_PLACES[0]).absolute()
    folder = place / "ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_ours = os.access(folder, os.W_OK | os.X_OK)
        problem = "cannot be written: Permission denied"
    except OSError as error:
        is_ours, problem = False, f"cannot be written: {error.strerror}"
    if not is_ours and variable:
        hint = f"Ray's files and sockets go there. Set {variable} to a folder that you can write, such as /tmp."
        raise InputError(problem, where=variable, value=str(place), hint=hint)
    fits = len(os.fsencode(folder)) <= _MOST_BYTES and _PLAIN.fullmatch(str(folder))
    if is_ours and fits:
        return str(folder), ""
    short = _short_name(place if is_ours else None, variable or "TMPDIR")
    os.environ["TMPDIR"] = short
    if not is_ours:
        return f"{short}/ray", f"; its files are in {short}, since {folder} belongs to somebody else"
    why = "has signs that Ray does not take" if len(os.fsencode(folder)) <= _MOST_BYTES else "is too long for sockets"
    return f"{short}/ray", f"; {variable} {why}, so its files have a second name: {short}"


def _short_name(place: Path | None, variable: str) -> str:
    """A folder with a short path, for this user alone and for as long as this process lives; a link to ``place``."""
    for parent in (*_SHORT_PLACES, os.environ.get("XDG_RUNTIME_DIR", "")):
        with contextlib.suppress(OSError):
            if not parent or len(os.fsencode(parent)) > _MOST_BYTES // 2:
                continue
            own = Path(tempfile.mkdtemp(prefix="s3ray-", dir=parent))
            atexit.register(shutil.rmtree, own, ignore_errors=True)
            if place is None:
                return str(own)
            (own / "t").symlink_to(place)
            return str(own / "t")
    hint = f"Set {variable} to a short path that you can write, such as /tmp."
    raise InputError(
        f"no place for Ray's sockets (their path may have 107 bytes) in {', '.join(_SHORT_PLACES)}",
        where=variable,
        value=str(place or ""),
        hint=hint,
    )


def bring_own_token() -> None:
    """Give a Ray that is started here a token if it could not keep one in the home folder, as it does since 2.60."""
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not os.environ.get("RAY_AUTH_TOKEN"):
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        if not (named and os.access(named, os.R_OK)) and not _can_keep_token():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _can_keep_token() -> bool:
    try:
        folder = Path.home() / ".ray"
    except RuntimeError:  # no HOME, and a user without an entry
        return False
    token = folder / "auth_token"
    # os.access, since the methods of Path raise where a folder may not be looked into.
    if os.access(token, os.F_OK):
        return os.access(token, os.R_OK)
    return os.access(folder if os.access(folder, os.F_OK) else folder.parent, os.W_OK | os.X_OK)


def proxy_between(url: str, host: str) -> str:
    """The variable and proxy that stand between this process and ``host``: ``http_proxy=http://...``; else empty.

    A proxy between this machine and itself helps nobody: it is passed by from now on, and so not returned.
    """
    scheme = url.partition("://")[0]
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all", "")
    if not proxy or proxy_bypass(host):
        return ""
    if not _is_this_machine(host):
        kind = scheme if proxies.get(scheme) else "all"
        return f"{kind}_proxy={proxy}"
    passed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{passed},{host}" if passed else host
    return ""


def _is_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
