"""Starts, steers and questions a simulator from tests and from the launcher. Standard library only.

::

    with Simulator.start(tmp_path, regions=["china", "frankfurt"]) as simulator:
        simulator.add_app("frankfurt", 20000001, {0: "sex", 1: "city"})
        connection = simulator.connection_json("frankfurt", 20000001)
        simulator.fault("bad_gateway", region="frankfurt", times=3)
        ...
        assert simulator.log()[-1].names == {0: "sex", 1: "city"}
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from simulator.child import end_process, start_process
from simulator.control_client import ControlClient
from simulator.files import StateLock, read_json
from simulator.records import LogEntry, NewApp, Truth, fault_as_json, log_entries, moment, slots
from simulator.world import ALL_MEMBER_PUSH, SimulatorError


class Simulator:
    """A simulator that runs. Safe to use from several threads."""

    def __init__(
        self, announcement: Mapping[str, Any], process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._process = process
        self.control = ControlClient(announcement["control"], announcement["token"])
        self._get, self._post = self.control.get, self.control.post
        self.host: str = announcement["host"]
        self.ports: dict[str, int] = dict(announcement["ports"])
        self.ca_bundle: str = announcement["ca"]
        self.pid: int = announcement["pid"]

    @classmethod
    def start(
        cls,
        state_dir: Path,
        *,
        regions: Sequence[str] = ("china",),
        story: bool = False,
        lasting: bool = True,
        new_session: bool = True,
        name: str | None = None,
        timeout: float = 30.0,
    ) -> Simulator:
        """Start one on ``state_dir`` and wait until it serves.

        It ends with ``stop()`` or with this process, however that ends. ``lasting=False`` keeps
        nothing for a later start and is faster. ``new_session``: a Ctrl-C does not reach it.
        ``name``: it serves other hosts too, under this name.
        """
        announcement, process = start_process(
            state_dir,
            options=[
                "--regions",
                ",".join(regions),
                *(["--story"] if story else []),
                *([] if lasting else ["--ephemeral"]),
                *(["--name", name] if name else []),
            ],
            new_session=new_session,
            timeout=timeout,
        )
        return cls(announcement, process)

    @classmethod
    def attach(cls, state_dir: Path) -> Simulator | None:
        """The one that runs on ``state_dir`` already, if any."""
        if not state_dir.is_dir():
            return None
        lock = StateLock(state_dir)
        if lock.acquire():
            lock.release()
            return None
        announcement = read_json(state_dir / "simulator.json")
        return cls(announcement) if announcement else None

    def stop(self) -> None:
        """End it and wait for it; one that was attached to is left alone."""
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self.stop()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Where it is ---------------------------------------------------------------------------------

    def base_url(self, region: str) -> str:
        """``https://host:port`` of a region."""
        return f"https://{self.host}:{self.ports[region]}"

    def key(self, region: str, app_id: int) -> str:
        """The app's current secret key."""
        return str(self._get("/connection", region=region, app_id=app_id)["password"])

    def connection_json(self, region: str, app_id: int, **extra: Any) -> dict[str, Any]:
        """The app as an Airflow Connection in JSON form; ``extra`` is added to, or overrides, it.

        ``None`` as a value leaves that field of the extra out.
        """
        answer = self._get("/connection", region=region, app_id=app_id)
        fields = {
            "region": region,
            "sdk_app_id": app_id,
            "app_group": answer["app_group"],
            "api": answer["api"],
            "ca_bundle": self.ca_bundle,
            **extra,
        }
        return {
            "conn_type": "tencent_im",
            "login": answer["login"],
            "password": answer["password"],
            "host": self.host,
            "port": answer["port"],
            "extra": {name: value for name, value in fields.items() if value is not None},
        }

    # What is true --------------------------------------------------------------------------------

    def add_app(
        self,
        region: str,
        app_id: int,
        names: Mapping[int, str],
        *,
        key: str | None = None,
        admin: str = "administrator",
        app_types: Mapping[int, int] | None = None,
        **settings: Any,
    ) -> None:
        """Add an app, or replace an old one. ``settings``: see ``world.SETTINGS``."""
        self.add_apps([NewApp(region, app_id, names, app_types, key, (admin,), settings)])

    def add_apps(self, apps: Iterable[NewApp]) -> None:
        """Add many apps at once."""
        given = [
            {
                "region": app.region,
                "app_id": app.app_id,
                "names": app.names,
                "types": app.types,
                "key": app.key,
                "admins": list(app.admins),
                **(app.settings or {}),
            }
            for app in apps
        ]
        self._post("/apps", apps=given)

    def remove_app(self, region: str, app_id: int) -> None:
        """From now on the vendor does not know this app."""
        self._post("/apps/remove", region=region, app_id=app_id)

    def configure(self, region: str, app_id: int, **settings: Any) -> None:
        """Change settings of an app (``world.SETTINGS``, ``admins``), e.g. ``push_enabled``."""
        self._post("/apps/configure", region=region, app_id=app_id, settings=settings)

    def set_names(
        self,
        region: str,
        app_id: int,
        names: Mapping[int, str],
        *,
        types: Mapping[int, int] | None = None,
        api: str | None = None,
    ) -> datetime:
        """Make these the app's names, at one moment, which is returned.

        Types stay where not given. ``api``: only what that API family answers.
        """
        answer = self._post(
            "/names", region=region, app_id=app_id, names=names, types=types, api=api
        )
        return moment(answer["since_us"])

    def set_name(
        self, region: str, app_id: int, slot: int, name: str | None, *, api: str | None = None
    ) -> datetime:
        """Change one slot (None: take its name away); the moment it became true."""
        answer = self._post(
            "/name", region=region, app_id=app_id, slot=str(slot), name=name, api=api
        )
        return moment(answer["since_us"])

    def rotate_key(
        self, region: str, app_id: int, key: str | None = None, *, keep_old: bool = False
    ) -> str:
        """Give the app a new key, which is returned; ``keep_old``: both are valid."""
        answer = self._post("/key", region=region, app_id=app_id, key=key, keep_old=keep_old)
        return str(answer["key"])

    def apps(self) -> list[dict[str, Any]]:
        """Every app and what it shows at present, without its keys."""
        return list(self._get("/apps"))

    def truth(self, region: str, app_id: int, *, api: str = ALL_MEMBER_PUSH) -> Truth:
        """What is true at present."""
        return self.history(region, app_id, api=api)[-1]

    def history(self, region: str, app_id: int, *, api: str = ALL_MEMBER_PUSH) -> list[Truth]:
        """What was true, in order, since the app was added (or the simulator started)."""
        answer = self._get("/truth", region=region, app_id=app_id)[api]
        return [
            Truth(moment(each["since_us"]), slots(each["names"]), slots(each["types"]))
            for each in answer
        ]

    # What goes wrong -----------------------------------------------------------------------------

    def fault(
        self,
        kind: str,
        *,
        region: str | None = None,
        app: int | None = None,
        api: str | None = None,
        times: int | None = 1,
        **fields: Any,
    ) -> int:
        """Let the next ``times`` answers (None: all, until cleared) go wrong; the rule's number.

        ``kind`` and ``fields``: see ``faults.KINDS`` and ``faults.Fault``. Where neither region nor
        app is given, every request meets it.
        """
        return self.schedule(
            [{"kind": kind, **fields}], region=region, app=app, api=api, times=times
        )

    def schedule(
        self,
        faults: Sequence[str | Mapping[str, Any]],
        *,
        region: str | None = None,
        app: int | None = None,
        api: str | None = None,
        times: int | None = 1,
    ) -> int:
        """Let the next answers go wrong one by one, e.g. ``["bad_gateway", "ok", "drop"]``."""
        answer = self._post(
            "/faults",
            faults=[fault_as_json(fault) for fault in faults],
            region=region,
            app_id=app,
            api=api,
            times=times,
        )
        return int(answer["rule"])

    def clear_faults(self, *, region: str | None = None, app: int | None = None) -> None:
        """Forget what was planned, and drop the connections that hang. Held answers stay held."""
        self._post("/faults/clear", region=region, app_id=app)

    def planned_faults(self) -> list[dict[str, Any]]:
        """What is still to go wrong."""
        return list(self._get("/faults"))

    def release(self, *, region: str | None = None, app: int | None = None) -> int:
        """Send the answers that are held; how many there were."""
        return int(self._post("/release", region=region, app_id=app)["released"])

    def wait_held(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until this many requests hang or are held."""
        answer = self._get("/held", slow=timeout, count=count, wait=timeout)
        if not answer["reached"]:
            raise SimulatorError(f"only {len(answer['held'])} of {count} requests are held")

    def set_latency(
        self, seconds: float, *, region: str | None = None, app: int | None = None
    ) -> None:
        """Answer that much later from now on (with what was true on arrival)."""
        self._post("/latency", region=region, app_id=app, seconds=seconds)

    def set_failing(self, region: str, failing: bool) -> None:
        """Answer a region's every call with 502, or no longer; outlasts a restart."""
        self._post("/failing", region=region, failing=failing)

    def set_clock(
        self,
        *,
        offset: float | None = None,
        advance: float | None = None,
        date_skew: float | None = None,
        lockout_after: int | None = None,
        lockout_seconds: float | None = None,
    ) -> None:
        """Move the vendor's clock (expiry, lock-out, Date), or only its ``Date`` header.

        Also how many failed signatures within ``lockout_seconds`` (60) lock an app (30). The times
        in the log stay true.
        """
        self._post(
            "/clock",
            clock_offset=offset,
            advance=advance,
            date_skew=date_skew,
            lockout_after=lockout_after,
            lockout_seconds=lockout_seconds,
        )

    def reset(self) -> None:
        """Forget apps, faults and log, set the clock right; ports and certificate stay."""
        self._post("/reset")

    # What happened -------------------------------------------------------------------------------

    def signatures(self) -> list[str]:
        """Every UserSig that came with a request."""
        return list(self._get("/signatures"))

    def log(self, after: int = 0) -> list[LogEntry]:
        """Every request after this ``seq``, in the order of arrival."""
        return log_entries(self._get("/log", after=after))

    def forget_log(self) -> None:
        """Drop the entries so far, as a long test must; later ones keep counting ``seq``."""
        self._post("/log/forget")

    def wait_for_requests(
        self, count: int = 1, *, after: int = 0, ended: bool = True, timeout: float = 10.0
    ) -> list[LogEntry]:
        """Wait for this many requests (``ended``: done with, not just arrived) after a ``seq``."""
        answer = self._get(
            "/log", slow=timeout, after=after, count=count, ended=int(ended), wait=timeout
        )
        entries = log_entries(answer)
        if not answer["reached"]:
            raise SimulatorError(f"waited for {count} requests, {len(entries)} came")
        return entries

    def stats(self) -> dict[str, Any]:
        """TLS ``connections`` ever opened and ``requests`` per region; connections ``open`` now."""
        return dict(self._get("/stats"))

    # The story -----------------------------------------------------------------------------------

    def story(self) -> dict[str, Any] | None:
        """``step``, ``steps``, ``ended_by_hand`` and ``what`` this step is about; None without."""
        answer = self._get("/story")
        return None if answer is None else dict(answer)

    def advance_story(self) -> dict[str, Any]:
        """One step on; the new state as in ``story()``."""
        return dict(self._post("/story/advance"))
