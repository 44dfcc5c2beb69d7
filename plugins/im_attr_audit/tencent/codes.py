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
or signature on the older pages and "check failed, retry later" on the newest: signed again once,
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
    """One code of the vendor. ``retriable``: what is left when the action did not help."""

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
_OLD = "github.com/tencentyun/qcloud-documents, error codes (2022 and before)"
_CALL = "trtc.io/document/37168 (the call's own page)"
_PUSH = "trtc.io/document/74196 (Push error codes)"
_TIMPUSH = "trtc.io/document/60563 (timpush/set_attr_name)"
_REPORT_70032 = "public report of a reply to a literal usersig=xxx; in no page of the vendor"
_REPORT_70346 = "github.com/imsdk/imsdk_restapi-nodejs-sdk issue 1; in no page of the vendor"
_FAMILY = "no page names this code; judged by its family"

# Advice that several codes share.
_LATER = "The next try may succeed; if it continues for an hour, contact the vendor"
_SLOWER = "Other clients may use the same app's allowance; poll less often if it persists"
_OURS = "This is a defect of im-attr-audit or of a proxy that alters requests: report it"
_KEY = "Check the connection's password (the app's secret key), sdk_app_id and login"
_REGION = "Check the connection's region (or host) and sdk_app_id against the vendor's console"
_ADMIN = "Use an account with the app administrator role as the connection's login"
_PLAN = "Check the app's plan, balance and status in the vendor's console"
_ELSEWHERE = "Not expected for this call; contact Tencent if you see it"


_RETRY, _SLOW, _SIGN, _NEVER = Action.RETRY, Action.SLOW_DOWN, Action.RE_SIGN, Action.NEVER

# Code, action, meaning, advice, source, whether a retry may help.
# fmt: off
_ROWS: Final = (
    Code(60002, _NEVER, "The vendor could not parse the HTTP request or its URL", _OURS, _PAGE, False),
    Code(60003, _NEVER, "The vendor could not parse the request's JSON", _OURS, _PAGE, False),
    Code(60004, _SIGN, "The vendor could not check the account or its signature (its pages disagree on whether the signature is wrong or its check failed)", "Signed again once already; if the retries do not help, check the connection's password, sdk_app_id and login", "trtc.io/document/34348 (Error Codes); otherwise: cloud.tencent.com/document/product/679/131708 (common REST error codes) and github.com/tencentyun/qcloud-documents, error codes (2022 and before)", True),
    Code(60005, _SIGN, "The vendor could not check the account or its signature (its pages disagree on whether the signature is wrong or its check failed)", "Signed again once already; if the retries do not help, check the connection's password, sdk_app_id and login", "trtc.io/document/34348 (Error Codes); otherwise: cloud.tencent.com/document/product/679/131708 (common REST error codes) and github.com/tencentyun/qcloud-documents, error codes (2022 and before)", True),
    Code(60006, _NEVER, "The SDKAppID is invalid", _REGION, _OLD, False),
    Code(60007, _SLOW, "The REST API's call rate was exceeded", _SLOWER, _PAGE, True),
    Code(60008, _RETRY, "The vendor's service timed out, or the request's format is wrong", "The next try may succeed; if it persists, a proxy may be altering requests", _PAGE, True),
    Code(60009, _NEVER, "The URL names no resource of the vendor", "Check the connection's host and api", _PAGE, False),
    Code(60010, _NEVER, "The call needs an app administrator", _ADMIN, _PAGE, False),
    Code(60011, _SLOW, "The SDKAppID's call rate was exceeded", _SLOWER, _OLD, True),
    Code(60012, _NEVER, "The request carries no sdkappid", _OURS, _PAGE, False),
    Code(60013, _RETRY, "The vendor's own service answered with broken JSON", _LATER, _PAGE, True),
    Code(60014, _RETRY, "The vendor's account check timed out", _LATER, _PAGE, True),
    Code(60015, _NEVER, "The account in the request is not a string", _OURS, _PAGE, False),
    Code(60016, _NEVER, "The SDKAppID is disabled", _PLAN, _PAGE, False),
    Code(60017, _NEVER, "The request is disabled for this app", _PLAN, _PAGE, False),
    Code(60018, _SLOW, "Requests come too often; try later", _SLOWER, _PAGE, True),
    Code(60019, _SLOW, "Requests come too often; try later", _SLOWER, _PAGE, True),
    Code(60020, _NEVER, "The plan was not bought, has expired or is in arrears", "Pay or renew in the vendor's console; it takes effect after about five minutes", _PAGE, False),
    Code(60021, _NEVER, "This machine's IP address is not allowed", "Add its outgoing address to the app's allow-list in the vendor's console", _PAGE, False),
    Code(60025, _NEVER, "SDKAppID, identifier, UserSig or contenttype in the URL is wrong", _KEY, _PAGE, False),
    Code(60026, _NEVER, "The app does not belong to this data centre", _REGION, _PAGE, False),
    Code(60027, _NEVER, "The app has the push plug-in only; other resources are closed to it", "Set the connection's api to timpush", _PAGE, False),
    Code(60028, _SLOW, "The trial edition's volume of REST calls for 24 hours is used up", "Wait until the next day; poll less often or move to another edition", _PAGE, True),
    Code(70001, _SIGN, "The UserSig has expired", "Signed again once already: check this machine's clock and the connection's usersig_ttl", _PAGE, False),
    Code(70002, _NEVER, "The UserSig is empty", _KEY, _PAGE, False, re_sign_if_cached=True),
    Code(70003, _NEVER, "The UserSig is illegal or was cut off", _KEY, _PAGE, False, re_sign_if_cached=True),
    Code(70005, _NEVER, "The UserSig fails the vendor's check", _KEY, _PAGE, False, re_sign_if_cached=True),
    Code(70009, _NEVER, "The signature fails the check: the key is another app's", _KEY, _PAGE, False),
    Code(70013, _NEVER, "The identifier is not the signed one", _OURS, _PAGE, False),
    Code(70014, _NEVER, "The SDKAppID is not the signed one", _OURS, _PAGE, False),
    Code(70016, _NEVER, "This data centre does not have the SDKAppID, or no key for it", _REGION, _PAGE, False),
    Code(70020, _NEVER, "This data centre does not have the SDKAppID, or no key for it", _REGION, _PAGE, False),
    Code(70032, _NEVER, "The UserSig was refused (the vendor documents no meaning)", _KEY, _REPORT_70032, False),
    Code(70050, _NEVER, "Too many failed signature checks: the vendor has locked the account out for a minute", "Fix the connection's password, sdk_app_id or login, then wait at least 60 seconds", _PAGE, False),
    Code(70051, _NEVER, "The account is on the vendor's block-list", "Ask the vendor", _PAGE, False),
    Code(70052, _SIGN, "The UserSig was invalidated", "Signed again once already: if it stays, check in the vendor's console whether the administrator's login was revoked", _OLD, False),
    Code(70107, _NEVER, "The account does not exist in this app", "Import the connection's login as an account and make it an app administrator", _PAGE, False),
    Code(70114, _NEVER, "Restricted by the vendor for security reasons", "Ask the vendor", _OLD, False),
    Code(70169, _RETRY, "The vendor's server timed out or failed internally", _LATER, _PAGE, True),
    Code(70202, _RETRY, "The vendor's server timed out or failed internally", _LATER, _PAGE, True),
    Code(70206, _NEVER, "The batch has an illegal size", _ELSEWHERE, _PAGE, False),
    Code(70346, _NEVER, "The UserSig cannot be used (the vendor documents no meaning)", _KEY, _REPORT_70346, False),
    Code(70398, _NEVER, "The app's quota of accounts is used up", _ELSEWHERE, _PAGE, False),
    Code(70399, _NEVER, "The account was deleted and may not be imported again", _ELSEWHERE, _PAGE, False),
    Code(70402, _NEVER, "A parameter of the request is illegal", _OURS, _PAGE, False),
    Code(70403, _NEVER, "The call needs an app administrator", _ADMIN, _PAGE, False),
    Code(70404, _NEVER, "The vendor asks for a newer SDK", _ELSEWHERE, _PAGE, False),
    Code(70500, _RETRY, "The vendor's server timed out or failed internally", _LATER, _PAGE, True),
    Code(71000, _NEVER, "Deleting accounts is switched off for this app", _ELSEWHERE, _PAGE, False),
    Code(72000, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72001, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72002, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72003, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72004, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72005, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72006, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72007, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72008, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72009, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72010, _SLOW, "Requests come too often", _SLOWER, _PAGE, True),
    Code(72011, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(72012, _NEVER, "A quota of active users is used up, or a feature is off for the app", _PLAN, _PAGE, False),
    Code(80001, _NEVER, "The vendor refused the content or the service", _ELSEWHERE, _PAGE, False),
    Code(80002, _NEVER, "The vendor refused the content or the service", _ELSEWHERE, _PAGE, False),
    Code(80003, _NEVER, "The vendor refused the content or the service", _ELSEWHERE, _PAGE, False),
    Code(80004, _NEVER, "The vendor refused the content or the service", _ELSEWHERE, _PAGE, False),
    Code(80005, _NEVER, "The app's service is deactivated: plan or arrears", _PLAN, _PAGE, False),
    Code(90001, _NEVER, "The vendor could not parse the request's JSON", _OURS, _CALL, False),
    Code(90009, _NEVER, "The identifier is not an app administrator", _ADMIN, _CALL, False),
    Code(90018, _NEVER, "Too many accounts in one request", _ELSEWHERE, _CALL, False),
    Code(90020, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90022, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90024, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90026, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90030, _NEVER, "An attribute's length is 0 or more than 50 bytes (newer pages: another field is wrong)", _ELSEWHERE, "github.com/tencentyun/qcloud-documents, error codes (2022 and before); otherwise: trtc.io/document/34348 (Error Codes)", False),
    Code(90032, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90033, _NEVER, "An attribute is invalid, or its name exists twice", _ELSEWHERE, _TIMPUSH, False),
    Code(90034, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90039, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90040, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90045, _NEVER, "Push to all users is not enabled for this app", "Check the app's edition, and switch on Feature Configuration > Login and Message > Push to all users in the vendor's console", _PUSH, False),
    Code(90047, _SLOW, "The day's quota of pushes is used up", "Wait until the next day", _PUSH, True),
    Code(90049, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90050, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90051, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90052, _NEVER, "A failure of pushing, tagging or recalling", _ELSEWHERE, _PUSH, False),
    Code(90992, _RETRY, "The vendor's service failed internally", _LATER, _PAGE, True),
    Code(90994, _RETRY, "The vendor's service failed internally", _LATER, _PAGE, True),
    Code(90995, _RETRY, "The vendor's service failed internally", _LATER, _PAGE, True),
    Code(91000, _RETRY, "The vendor's service failed internally", _LATER, _CALL, True),
)
# fmt: on

CODES: Final[Mapping[int, Code]] = MappingProxyType({row.code: row for row in _ROWS})


@dataclass(frozen=True, slots=True)
class Family:
    """A range of codes, ends included, and what a code in it means that no page names."""

    first: int
    last: int
    action: Action
    meaning: str
    advice: str
    retriable: bool


_UNKNOWN_RETRIED: Final = (
    Action.RETRY,
    "The vendor could not serve",
    "It is retried a few times; if it persists, look the code up with the vendor",
    True,
)
#: Every 32-bit integer is in one of them. 70xxx (accounts and signatures) are never retried: that
#: family has the lock-out; 7xxxx, 8xxxx and 90xxx refuse for good as their known codes do. 60xxx
#: (gateway), 9099x and 91xxx (internal) and anything else are retried: the call is a pure read
#: and Airflow's retries are bounded, after which the run is failed all the same.
FAMILIES: Final = (
    Family(-(2**31), 69999, *_UNKNOWN_RETRIED),
    Family(
        70000,
        90989,
        Action.NEVER,
        "The vendor refused",
        "It is not retried: look the code up with the vendor, then fix the connection",
        False,
    ),
    Family(90990, 2**31 - 1, *_UNKNOWN_RETRIED),
)


def lookup(code: int) -> Code:
    """The code's row; for a code that no page names, one made from its family."""
    known = CODES.get(code)
    if known is not None:
        return known
    family = next((f for f in FAMILIES if f.first <= code <= f.last), FAMILIES[-1])
    return Code(
        code, family.action, family.meaning, family.advice, _FAMILY, retriable=family.retriable
    )


def explain(code: int) -> str:
    """What a code means and what to do, for the page, the guide and the run's table."""
    return lookup(code).sentence
