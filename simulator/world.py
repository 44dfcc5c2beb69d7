"""What is true at the simulator: its apps, their names over time, and who may read them.

No sockets in here. ``World.judge`` is the vendor's list of checks; the clock is given.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from simulator.files import read_json, write_private
from simulator.signature import Refusal, refusal_of

ALL_MEMBER_PUSH = "all_member_push"
TIMPUSH = "timpush"
APIS = (ALL_MEMBER_PUSH, TIMPUSH)
PATHS = {
    "/v4/all_member_push/im_get_attr_name": ALL_MEMBER_PUSH,
    "/v4/timpush/get_attr_name": TIMPUSH,
}
EMPTY_SHAPES = ("object", "absent", "null", "array")
_PARAMETERS = ("sdkappid", "identifier", "usersig", "random", "contenttype")
_SIGNATURE_FAILURES = frozenset({70002, 70003, 70005, 70009, 70013, 70014})


class SimulatorError(Exception):
    """The simulator was asked for something that cannot be."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An app's names (and types) as they are from a moment on; never altered, only followed."""

    since_us: int
    names: Mapping[str, str]
    types: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return {"since_us": self.since_us, "names": self.names, "types": self.types}


@dataclass(slots=True)
class App:
    """One SDKAppID in one region. The last key is the current one; earlier ones are valid still."""

    region: str
    app_id: int
    keys: list[str] = field(repr=False)
    admins: list[str]
    history: dict[str, list[Shown]]
    app_group: str = "default"
    api: str = ALL_MEMBER_PUSH
    push_enabled: bool = True
    timpush_enabled: bool = True
    rate_limit: int | None = 100
    empty_as: str = "object"
    not_admin_code: int = 60010
    admitted: deque[float] = field(default_factory=deque, repr=False)
    failures: deque[float] = field(default_factory=deque, repr=False)
    locked_until: float = 0.0

    def shown(self, api: str) -> Shown:
        return self.history[api][-1]


SETTINGS = (
    "app_group",
    "api",
    "push_enabled",
    "timpush_enabled",
    "rate_limit",
    "empty_as",
    "not_admin_code",
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A request after all checks: whom it is about, and why it is refused (None: it is not)."""

    app_id: int | None
    api: str | None
    app: App | None
    refusal: Refusal | None
    usersig: str = field(default="", repr=False)


def now_us() -> int:
    """Wall clock in microseconds since 1970 UTC; the unit of every time in the log."""
    return time.time_ns() // 1000


class World:
    """All apps, and the clock the vendor goes by (``clock_offset`` seconds off the true one)."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self.clock_offset = 0.0
        self.date_skew = 0.0
        self.lockout_after = 30
        self.lockout_seconds = 60.0
        self.apps: dict[tuple[str, int], App] = {}
        self.failing: set[str] = set()
        self.ports: dict[str, int] = {}
        #: Every UserSig that came: a test looks for traces of them elsewhere.
        self.signatures: set[str] = set()

    def now(self) -> float:
        """The vendor's clock: expiry and lock-out go by it."""
        return self._clock() + self.clock_offset

    # What is true ------------------------------------------------------------------------------

    def app(self, region: str, app_id: int) -> App:
        """The app; SimulatorError where there is none."""
        try:
            return self.apps[region, app_id]
        except KeyError:
            raise SimulatorError(f"no app {app_id} in region {region}") from None

    def add_app(
        self,
        region: str,
        app_id: int,
        names: Mapping[str, str],
        *,
        types: Mapping[str, int] | None = None,
        key: str | None = None,
        admins: Iterable[str] = ("administrator",),
        **settings: Any,
    ) -> App:
        """A new app, or an old one replaced; a key is made up where none is given."""
        first = Shown(now_us(), dict(names), dict(types or {}))
        app = App(
            region=region,
            app_id=app_id,
            keys=[key or secrets.token_hex(32)],
            admins=list(admins),
            history={api: [first] for api in APIS},
        )
        self._configure(app, settings)
        self.apps[region, app_id] = app
        return app

    def configure(self, region: str, app_id: int, settings: Mapping[str, Any]) -> None:
        """Change an app's settings (``SETTINGS``) or its ``admins``."""
        self._configure(self.app(region, app_id), settings)

    @staticmethod
    def _configure(app: App, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if name == "admins":
                app.admins = list(value)
            elif name not in SETTINGS:
                raise SimulatorError(f"no such setting: {name}")
            elif (name == "empty_as" and value not in EMPTY_SHAPES) or (
                name == "api" and value not in APIS
            ):
                raise SimulatorError(f"{name} cannot be {value!r}")
            else:
                setattr(app, name, value)

    def remove_app(self, region: str, app_id: int) -> None:
        """From now on the vendor does not know it."""
        self.app(region, app_id)
        del self.apps[region, app_id]

    def set_names(
        self,
        region: str,
        app_id: int,
        names: Mapping[str, str],
        *,
        types: Mapping[str, int] | None = None,
        api: str | None = None,
    ) -> Shown:
        """All names at once, for both APIs or one; types stay as they are where not given."""
        app = self.app(region, app_id)
        at = now_us()
        for each in APIS if api is None else (api,):
            if each not in APIS:
                raise SimulatorError(f"no such api: {each}")
            before = app.shown(each)
            kept = {slot: type_ for slot, type_ in before.types.items() if slot in names}
            # Two changes in one microsecond still follow one another.
            since = max(at, before.since_us + 1)
            after = Shown(since, dict(names), kept if types is None else dict(types))
            if (after.names, after.types) != (before.names, before.types):
                app.history[each].append(after)
        return app.shown(api or ALL_MEMBER_PUSH)

    def set_name(
        self, region: str, app_id: int, slot: str, name: str | None, *, api: str | None = None
    ) -> Shown:
        """One slot's name; None takes it away."""
        for each in APIS if api is None else (api,):
            names = dict(self.app(region, app_id).shown(each).names)
            if name is None:
                names.pop(slot, None)
            else:
                names[slot] = name
            in_order = dict(sorted(names.items(), key=lambda item: (len(item[0]), item[0])))
            self.set_names(region, app_id, in_order, api=each)
        return self.app(region, app_id).shown(api or ALL_MEMBER_PUSH)

    def rotate_key(
        self, region: str, app_id: int, key: str | None = None, *, keep_old: bool = False
    ) -> str:
        """A new key; the old ones stay valid beside it only if asked."""
        app = self.app(region, app_id)
        new = key or secrets.token_hex(32)
        app.keys = [*app.keys, new] if keep_old else [new]
        return new

    def describe(self) -> list[dict[str, Any]]:
        """Every app and what it shows, without its keys."""
        return [
            {
                "region": app.region,
                "app_id": app.app_id,
                "app_group": app.app_group,
                "failing": app.region in self.failing,
                "names": {api: app.shown(api).names for api in APIS},
                "types": {api: app.shown(api).types for api in APIS},
            }
            for app in self.apps.values()
        ]

    # What the vendor checks --------------------------------------------------------------------

    def judge(self, region: str, method: str, path: str, query: str, body: bytes) -> Judged:
        """Every check the vendor makes, in order; the first that fails is the answer."""
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        given = dict(pairs)
        api = PATHS.get(path)
        text = given.get("sdkappid", "")
        app_id = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None
        usersig = given.get("usersig", "")
        self.signatures.add(usersig)

        def judged(refusal: Refusal | None, app: App | None = None) -> Judged:
            return Judged(app_id, api, app, refusal, usersig)

        if method != "POST":
            return judged(Refusal(60002, "HTTP parse Error"))
        if api is None:
            return judged(Refusal(60009, "Request resource or URL error"))
        refusal = _refused_parameters(pairs, given, app_id) or _refused_body(body)
        if refusal or app_id is None:
            return judged(refusal)
        app = self.apps.get((region, app_id))
        if app is None:
            elsewhere = any(known == app_id for _, known in self.apps)
            return judged(
                Refusal(60026, "Domain name or SDKAppID mismatched with the application station")
                if elsewhere
                else Refusal(70020, "SDKAppID not found, please check the data center")
            )
        return judged(self._refused_account(app, api, given["identifier"], usersig), app)

    def _refused_account(self, app: App, api: str, identifier: str, usersig: str) -> Refusal | None:
        now = self.now()
        if now < app.locked_until:
            return Refusal(70050, "UserSig check failed too many times, try again in 1 minute")
        refusal = refusal_of(
            usersig, app_id=app.app_id, identifier=identifier, keys=app.keys, now=now
        )
        if refusal is not None:
            if refusal.code in _SIGNATURE_FAILURES:
                _forget_older_than(app.failures, now - self.lockout_seconds)
                app.failures.append(now)
                if len(app.failures) >= self.lockout_after:
                    app.locked_until = now + self.lockout_seconds
                    app.failures.clear()
            return refusal
        if identifier not in app.admins:
            return Refusal(app.not_admin_code, "This API requires the app administrator account")
        if app.rate_limit is not None:
            at = self._monotonic()
            _forget_older_than(app.admitted, at - 1.0)
            if len(app.admitted) >= app.rate_limit:
                return Refusal(60007, "REST API call frequency exceeds the limit")
            app.admitted.append(at)
        if api == TIMPUSH and not app.timpush_enabled:
            return Refusal(60027, "Access to non-TPush product resources is not allowed")
        if not app.push_enabled:
            return Refusal(90045, "Push to all users is not enabled for this app")
        return None

    # What lasts --------------------------------------------------------------------------------

    def save(self, state_dir: Path) -> None:
        """Write what is true now; the keys in a file of their own, so no other holds a secret."""
        apps = [
            {
                "region": app.region,
                "app_id": app.app_id,
                "admins": app.admins,
                "shown": {api: app.shown(api).as_json() for api in APIS},
                **{name: getattr(app, name) for name in SETTINGS},
            }
            for app in self.apps.values()
        ]
        state = {"ports": self.ports, "failing": sorted(self.failing), "apps": apps}
        keys = {f"{app.region}/{app.app_id}": app.keys for app in self.apps.values()}
        # Keys first: an app without its keys could not be read back.
        write_private(state_dir / "keys.json", json.dumps(keys))
        write_private(state_dir / "state.json", json.dumps(state, indent=1))

    @classmethod
    def load(cls, state_dir: Path) -> World:
        """What was true when last saved; an empty world where nothing was."""
        world = cls()
        state = read_json(state_dir / "state.json") or {}
        keys = read_json(state_dir / "keys.json") or {}
        world.ports = dict(state.get("ports", {}))
        world.failing = set(state.get("failing", ()))
        for saved in state.get("apps", ()):
            app_keys = keys.get(f"{saved['region']}/{saved['app_id']}")
            if app_keys is None:  # killed between the two files while it was being removed
                continue
            app = App(
                region=saved["region"],
                app_id=saved["app_id"],
                keys=list(app_keys),
                admins=list(saved["admins"]),
                history={api: [Shown(**saved["shown"][api])] for api in APIS},
            )
            world._configure(app, {name: saved[name] for name in SETTINGS})
            world.apps[app.region, app.app_id] = app
        return world


def _refused_parameters(
    pairs: list[tuple[str, str]], given: Mapping[str, str], app_id: int | None
) -> Refusal | None:
    if "sdkappid" not in given:
        return Refusal(60012, "sdkappid is required in the URL")
    counts = [name for name, _ in pairs]
    random = given.get("random", "")
    if any(counts.count(name) != 1 for name in _PARAMETERS):
        wrong = "a parameter is missing or given twice"
    elif app_id is None:
        wrong = "sdkappid"
    elif not given["identifier"]:
        wrong = "identifier"
    elif given["contenttype"] != "json":
        wrong = "contenttype"
    elif not _is_unsigned_32_bit(random):
        wrong = "random"
    else:
        return None
    return Refusal(60025, f"SDKAppID, Identifier, UserSig or ContentType in URL is wrong: {wrong}")


def _is_unsigned_32_bit(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFF


def _refused_body(body: bytes) -> Refusal | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(60003, "Request JSON parse error")
    if not isinstance(content, dict):
        return Refusal(90001, "Fail to Parse json data of body, Please check it")
    return None


def _forget_older_than(times: deque[float], moment: float) -> None:
    while times and times[0] <= moment:
        times.popleft()
