"""The vendor's error codes: what each means, and what to do. Pure; one table.

Four actions, decided here and nowhere else:

========== ======================================================== =======================
action     what the client and the DAG do                           poll outcome
========== ======================================================== =======================
RETRY      nothing at once; Airflow's retry, with growing delays    ``unavailable``
SLOW_DOWN  the same: a limit, which only time lifts                 ``unavailable``
RE_SIGN    a new UserSig and one more request, at once              see ``Code.outcome``
NEVER      nothing: each failed signature check nears the lock-out  ``rejected``
========== ======================================================== =======================

Where the vendor's pages contradict each other the row says so. 60004 and 60005 are a wrong account
or signature on the older pages and "check failed, retry later" on the newest: signed anew once,
then left to the bounded retries. A code that is in no page is judged by its family
(:func:`lookup`). The operations guide and the page are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Action(Enum):
    """What is done after a code, in words that the guide and the page show."""

    RETRY = "retry with backoff"
    SLOW_DOWN = "slow down"
    RE_SIGN = "re-sign once"
    NEVER = "never retry"


@dataclass(frozen=True, slots=True)
class Code:
    """One code of the vendor. ``retriable`` tells what is left when the action did not help."""

    code: int
    action: Action
    meaning: str
    advice: str
    source: str
    retriable: bool
    # A signature that worked before may have been spoilt since: worth one new one. A fresh one
    # that is refused is a wrong key, and asking again only nears the lock-out.
    re_sign_if_cached: bool = False

    @property
    def outcome(self) -> str:
        """The poll's outcome where this code is the last word."""
        return "unavailable" if self.retriable else "rejected"

    @property
    def sentence(self) -> str:
        """What it means and what to do."""
        return f"{self.meaning}. {self.advice}."


# Sources.
_PAGE = "trtc.io/document/34348 (Error Codes)"
_DESK = "cloud.tencent.com/document/product/679/131708 (common REST error codes)"
_OLD = "github.com/tencentyun/qcloud-documents, error codes (2022 and before)"
_CALL = "trtc.io/document/37168 (the call's own page)"
_PUSH = "trtc.io/document/74196 (Push error codes)"
_TIMPUSH = "trtc.io/document/60563 (timpush/set_attr_name)"
_REPORT_70032 = "public report of a reply to a literal usersig=xxx; in no page of the vendor"
_REPORT_70346 = "github.com/imsdk/imsdk_restapi-nodejs-sdk issue 1; in no page of the vendor"
_FAMILY = "no page names this code; judged by its family"

# Advice that several codes share.
_LATER = "The next try may succeed; if it goes on for an hour, ask the vendor"
_SLOWER = "Other clients may use the same app's allowance; poll less often if it stays"
_OURS = "This is a defect of im-attr-audit or of a proxy that alters requests: report it"
_KEY = "Check the connection's password (the app's secret key), sdk_app_id and login"
_REGION = "Check the connection's region (or host) and sdk_app_id against the vendor's console"
_ADMIN = "Use an account with the app administrator role as the connection's login"
_PLAN = "Check the app's plan, balance and status in the vendor's console"
_ELSEWHERE = "Not for this call: if it comes all the same, ask the vendor"


def _rows() -> list[Code]:
    rows: list[Code] = []

    def add(
        action: Action,
        code: int,
        meaning: str,
        advice: str,
        source: str = _PAGE,
        *,
        retriable: bool | None = None,
        re_sign_if_cached: bool = False,
    ) -> None:
        if retriable is None:
            retriable = action in (Action.RETRY, Action.SLOW_DOWN)
        rows.append(Code(code, action, meaning, advice, source, retriable, re_sign_if_cached))

    retry, slow, sign, never = Action.RETRY, Action.SLOW_DOWN, Action.RE_SIGN, Action.NEVER

    add(never, 60002, "The vendor could not parse the HTTP request or its URL", _OURS)
    add(never, 60003, "The vendor could not parse the request's JSON", _OURS)
    for code in (60004, 60005):
        add(
            sign,
            code,
            "The vendor could not check the account or its signature (its pages disagree whether "
            "the signature is wrong or its check failed)",
            "Signed anew once already; if the retries do not help, check the connection's "
            "password, sdk_app_id and login",
            f"{_PAGE}; otherwise: {_DESK} and {_OLD}",
            retriable=True,
        )
    add(never, 60006, "The SDKAppID is invalid", _REGION, _OLD)
    add(slow, 60007, "The REST API's call rate was exceeded", _SLOWER)
    add(
        retry,
        60008,
        "The vendor's service timed out, or the request's format is wrong",
        "The next try may succeed; if it persists, a proxy may be altering requests",
    )
    add(never, 60009, "The URL names no resource of the vendor", "Check host and api of the target")
    add(never, 60010, "The call needs an app administrator", _ADMIN)
    add(slow, 60011, "The SDKAppID's call rate was exceeded", _SLOWER, _OLD)
    add(never, 60012, "The request carries no sdkappid", _OURS)
    add(retry, 60013, "The vendor's own service answered with broken JSON", _LATER)
    add(retry, 60014, "The vendor's account check timed out", _LATER)
    add(never, 60015, "The account in the request is not a string", _OURS)
    add(never, 60016, "The SDKAppID is disabled", _PLAN)
    add(never, 60017, "The request is disabled for this app", _PLAN)
    for code in (60018, 60019):
        add(slow, code, "Requests come too often; try later", _SLOWER)
    add(
        never,
        60020,
        "The plan was not bought, has expired or is in arrears",
        "Pay or renew in the vendor's console; it takes effect after about five minutes",
    )
    add(
        never,
        60021,
        "This machine's IP address is not allowed",
        "Add its outgoing address to the app's allow-list in the vendor's console",
    )
    add(never, 60025, "SDKAppID, identifier, UserSig or contenttype in the URL is wrong", _KEY)
    add(never, 60026, "The app does not belong to this data centre", _REGION)
    add(
        never,
        60027,
        "The app has the push plug-in only; other resources are closed to it",
        "Set the connection's api to timpush",
    )
    add(
        slow,
        60028,
        "The trial edition's volume of REST calls for 24 hours is used up",
        "Nothing helps until the next day; poll less often or move to another edition",
    )

    add(
        sign,
        70001,
        "The UserSig has expired",
        "Signed anew once already: check this machine's clock and the connection's usersig_ttl",
        retriable=False,
    )
    for code, meaning in (
        (70002, "The UserSig is empty"),
        (70003, "The UserSig is illegal or was cut off"),
        (70005, "The UserSig fails the vendor's check"),
    ):
        add(never, code, meaning, _KEY, re_sign_if_cached=True)
    add(never, 70009, "The signature fails the check: the key is another app's", _KEY)
    add(never, 70013, "The identifier differs from the one signed", _OURS)
    add(never, 70014, "The SDKAppID differs from the one signed", _OURS)
    for code in (70016, 70020):
        add(never, code, "This data centre knows no such SDKAppID, or no key of it", _REGION)
    add(
        never,
        70032,
        "The UserSig was refused (the vendor documents no meaning)",
        _KEY,
        _REPORT_70032,
    )
    add(
        never,
        70050,
        "Too many failed signature checks: the vendor has locked the account out for a minute",
        "Mend the connection's password, sdk_app_id or login, then wait at least 60 seconds",
    )
    add(never, 70051, "The account is on the vendor's block-list", "Ask the vendor")
    add(
        sign,
        70052,
        "The UserSig was invalidated",
        "Signed anew once already: if it stays, check in the vendor's console whether the "
        "administrator's login was revoked",
        _OLD,
        retriable=False,
    )
    add(
        never,
        70107,
        "The account does not exist in this app",
        "Import the connection's login as an account and make it an app administrator",
    )
    add(never, 70114, "Restricted by the vendor for security reasons", "Ask the vendor", _OLD)
    for code in (70169, 70202, 70500):
        add(retry, code, "The vendor's server timed out or failed inside", _LATER)
    add(never, 70206, "The batch has an illegal size", _ELSEWHERE)
    add(
        never,
        70346,
        "The UserSig cannot be used (the vendor documents no meaning)",
        _KEY,
        _REPORT_70346,
    )
    add(never, 70398, "The app's quota of accounts is used up", _ELSEWHERE)
    add(never, 70399, "The account was deleted and may not be imported again", _ELSEWHERE)
    add(never, 70402, "A parameter of the request is illegal", _OURS)
    add(never, 70403, "The call needs an app administrator", _ADMIN)
    add(never, 70404, "The vendor asks for a newer SDK", _ELSEWHERE)
    add(never, 71000, "Deleting accounts is switched off for this app", _ELSEWHERE)
    for code in (*range(72000, 72010), 72011, 72012):
        add(
            never,
            code,
            "A quota of active users is used up, or a feature is off for the app",
            _PLAN,
        )
    add(slow, 72010, "Requests come too often", _SLOWER)

    for code in range(80001, 80005):
        add(never, code, "The vendor refused the content or the service", _ELSEWHERE)
    add(never, 80005, "The app's service is deactivated: plan or arrears", _PLAN)

    add(never, 90001, "The vendor could not parse the request's JSON", _OURS, _CALL)
    add(never, 90009, "The identifier is no app administrator", _ADMIN, _CALL)
    add(never, 90018, "Too many accounts in one request", _ELSEWHERE, _CALL)
    for code in (90020, 90022, 90024, 90026, 90032, 90034, 90039, 90040, *range(90049, 90053)):
        add(never, code, "A fault of pushing, tagging or recalling", _ELSEWHERE, _PUSH)
    add(
        never,
        90030,
        "An attribute's length is 0 or more than 50 bytes (newer pages: another field is wrong)",
        _ELSEWHERE,
        f"{_OLD}; otherwise: {_PAGE}",
    )
    add(never, 90033, "An attribute is invalid, or its name exists twice", _ELSEWHERE, _TIMPUSH)
    add(
        never,
        90045,
        "Push to all users is not enabled for this app",
        "Check the app's edition, and switch on Feature Configuration > Login and Message > Push "
        "to all users in the vendor's console",
        _PUSH,
    )
    add(
        slow,
        90047,
        "The day's quota of pushes is used up",
        "Nothing helps until the next day",
        _PUSH,
    )
    for code in (90992, 90994, 90995):
        add(retry, code, "The vendor's service failed inside", _LATER)
    add(retry, 91000, "The vendor's service failed inside", _LATER, _CALL)
    return rows


CODES: Final[Mapping[int, Code]] = MappingProxyType(
    {row.code: row for row in sorted(_rows(), key=lambda row: row.code)}
)


def lookup(code: int) -> Code:
    """The code's row; for a code that no page names, one made from its family.

    Unknown 70xxx (accounts and signatures) are never retried: that family has the lock-out.
    Unknown 7xxxx, 8xxxx and 90xxx say no for good as their known siblings do. Unknown 60xxx
    (gateway), 9099x and 91xxx (internal) and anything else are retried: the call is a pure read
    and Airflow's retries are bounded, after which the run is failed all the same.
    """
    known = CODES.get(code)
    if known is not None:
        return known
    final = 70000 <= code <= 89999 or 90000 <= code <= 90989
    if final:
        advice = "It is not retried: look the code up with the vendor, then mend the target"
        return Code(code, Action.NEVER, "The vendor refused", advice, _FAMILY, retriable=False)
    advice = "It is retried a few times; if it stays, look the code up with the vendor"
    return Code(code, Action.RETRY, "The vendor could not serve", advice, _FAMILY, retriable=True)


def explain(code: int) -> str:
    """What a code means and what to do, for the page, the guide and the run's table."""
    return lookup(code).sentence
