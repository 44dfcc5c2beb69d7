"""A Connection becomes a target, or an error that says which field to fix and how."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.errors import Misconfigured
from im_attr_audit.tencent.regions import REGION_HOSTS
from im_attr_audit.tencent.target import Target, target_from_connection
from im_attr_audit.tencent.urls import check_base_url, is_loopback

KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"


def target(extra: Any = None, /, **changed: Any) -> Target:
    fields: dict[str, Any] = {"login": "administrator", "password": KEY, "host": None, "port": None}
    extra = {"region": "singapore", "sdk_app_id": 1400000000} | (extra or {})
    return target_from_connection("chat_sg", **(fields | {"extra": extra} | changed))


def refusal(extra: Any = None, /, **changed: Any) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        target(extra, **changed)
    assert isinstance(caught.value, Misconfigured)
    assert "'chat_sg'" in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def test_the_least_connection_gets_the_defaults() -> None:
    assert target() == Target(
        conn_id="chat_sg",
        region="singapore",
        sdk_app_id=1400000000,
        app_group="default",
        api="all_member_push",
        identifier="administrator",
        secret_key=KEY,
        base_url="https://adminapisgp.im.qcloud.com",
        ca_bundle=None,
        timeout=10.0,
        usersig_ttl=86400,
    )


@pytest.mark.parametrize("region", REGION_HOSTS)
def test_every_label_of_ours_has_a_host(region: str) -> None:
    assert target({"region": region}).base_url == f"https://{REGION_HOSTS[region]}"


def test_everything_may_come_as_text_as_from_a_uri() -> None:
    read = target({"sdk_app_id": "1400000000", "timeout": "2.5", "usersig_ttl": "3600"})
    assert (read.sdk_app_id, read.timeout, read.usersig_ttl) == (1400000000, 2.5, 3600)


def test_optional_fields_that_are_empty_or_null_are_not_set() -> None:
    optional = ("app_group", "api", "ca_bundle", "timeout", "usersig_ttl")
    for nothing in (None, ""):
        assert target(dict.fromkeys(optional, nothing)) == target()


def test_the_extra_may_be_the_connections_raw_text() -> None:
    raw = json.dumps({"region": "china", "sdk_app_id": 7, "api": "timpush"})
    read = target(extra=raw)
    assert (read.region, read.sdk_app_id, read.path) == ("china", 7, "/v4/timpush/get_attr_name")


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("example.com", None, "https://example.com"),
        ("example.com", 0, "https://example.com"),
        ("example.com", 443, "https://example.com"),
        ("example.com", 8443, "https://example.com:8443"),
        ("example.com:8443", None, "https://example.com:8443"),
        ("example.com:8443", 8443, "https://example.com:8443"),
        ("https://Example.COM/", None, "https://example.com"),
        ("https://example.com:8443", None, "https://example.com:8443"),
        ("127.0.0.1", 8443, "https://127.0.0.1:8443"),
        ("::1", 8443, "https://[::1]:8443"),
        ("[::1]:8443", None, "https://[::1]:8443"),
        ("http://127.0.0.1:8080", None, "http://127.0.0.1:8080"),
        ("http://127.9.9.9", 8080, "http://127.9.9.9:8080"),
        ("http://[::1]:8080", None, "http://[::1]:8080"),
        ("http://localhost", None, "http://localhost"),
        (None, 8443, "https://adminapisgp.im.qcloud.com:8443"),
        (" example.com ", None, "https://example.com"),
    ],
)
def test_host_and_port_override_the_regions(
    host: str | None, port: int | None, expected: str
) -> None:
    assert target(host=host, port=port).base_url == expected


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        pytest.param("http://example.com", None, "https://", id="plain_http"),
        pytest.param("http://128.0.0.1", None, "https://", id="plain_http_beside_loopback"),
        pytest.param("http://localhost.example.com", None, "https://", id="like_localhost"),
        pytest.param("http://127.0.0.1.example.com", None, "https://", id="like_loopback"),
        pytest.param("http://127.0.0.1@example.com", None, "user name", id="loopback_as_user"),
        pytest.param("ftp://example.com", None, "https://", id="other_scheme"),
        pytest.param("https://user:hidden@example.com", None, "user name", id="userinfo"),
        pytest.param("https://example.com/v4", None, "path", id="path"),
        pytest.param("https://example.com?usersig=hidden", None, "query", id="query"),
        pytest.param("https://example.com#x", None, "fragment", id="fragment"),
        pytest.param("https://", None, "host name", id="no_host"),
        pytest.param("https://exa mple.com", None, "host name", id="blank_in_host"),
        pytest.param("exa\nmple.com", None, "URL", id="newline_in_host"),
        pytest.param("пример.рф", None, "xn--", id="not_ascii"),
        pytest.param("https://[::1", None, "URL", id="broken_ipv6"),
        pytest.param("https://example.com:99999", None, "URL", id="port_out_of_range"),
        pytest.param("https://example.com:x", None, "URL", id="port_no_number"),
        pytest.param("https://example.com:1", 2, "keep one", id="two_ports"),
        pytest.param("example.com", 70000, "port", id="port_field_out_of_range"),
    ],
)
def test_a_host_that_cannot_be_used_is_reported_without_quoting_it(
    host: str, port: int | None, expected: str
) -> None:
    error = refusal(host=host, port=port)
    assert expected in str(error)
    assert "hidden" not in str(error)
    assert (error.region, error.sdk_app_id) == ("singapore", 1400000000)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"login": None}, "login is empty", id="no_login"),
        pytest.param({"login": ""}, "login is empty", id="empty_login"),
        pytest.param({"login": "a" * 33}, "32 bytes", id="long_login"),
        pytest.param({"login": "员" * 11}, "32 bytes", id="long_login_in_bytes"),
        pytest.param({"login": "a\nTLS.expire:1"}, "printed", id="login_with_newline"),
        pytest.param({"login": "a\ud800"}, "printed", id="login_with_surrogate"),
        pytest.param({"login": " admin"}, "white space", id="login_with_blank"),
        pytest.param({"password": None}, "password is empty", id="no_password"),
        pytest.param({"password": KEY + "\n"}, "white space", id="password_with_newline"),
        pytest.param({"password": f'"{KEY}"'}, "quotation marks", id="password_in_quotes"),
        pytest.param({"password": f"'{KEY}'"}, "quotation marks", id="password_in_single_quotes"),
        pytest.param(
            {"password": f"\u201c{KEY}\u201d"}, "quotation marks", id="typographic_quotes"
        ),
        pytest.param({"password": f"{KEY}'"}, "quotation marks", id="half_of_the_quotes"),
        pytest.param(
            {"password": f"-----BEGIN PRIVATE KEY----- {KEY} -----END PRIVATE KEY-----"},
            "PEM file",
            id="one_line_pem",
        ),
        pytest.param({"password": KEY[:9] + "\x00"}, "printed", id="password_with_nul"),
    ],
)
def test_login_and_password_are_checked(changed: dict[str, Any], expected: str) -> None:
    assert expected in str(refusal(**changed))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param({"region": None}, "'region' is missing", id="no_region"),
        pytest.param({"region": "Singapore"}, "not one we know the host of", id="capital"),
        pytest.param({"region": "a/b"}, "not a label", id="slash"),
        pytest.param({"region": " eu"}, "not a label", id="blank_before"),
        pytest.param({"region": "e\u202eu"}, "not a label", id="reordering"),
        pytest.param({"region": "a" * 65}, "not a label", id="long_label"),
        pytest.param({"region": "new\n"}, "not a label", id="newline"),
        pytest.param({"region": 7}, "not a label", id="number"),
        pytest.param({"region": "riyadh"}, "'riyadh' is not one we know", id="unknown_label"),
        pytest.param({"sdk_app_id": None}, "'sdk_app_id' is missing", id="no_app"),
        pytest.param({"sdk_app_id": 0}, "'sdk_app_id'", id="zero"),
        pytest.param({"sdk_app_id": -1}, "'sdk_app_id'", id="negative"),
        pytest.param({"sdk_app_id": True}, "'sdk_app_id'", id="boolean"),
        pytest.param({"sdk_app_id": 1.0}, "'sdk_app_id'", id="float"),
        pytest.param({"sdk_app_id": "1e9"}, "'sdk_app_id'", id="exponent"),
        pytest.param({"sdk_app_id": "\uff11"}, "'sdk_app_id'", id="fullwidth"),
        pytest.param({"sdk_app_id": 2**63}, "'sdk_app_id'", id="too_big"),
        pytest.param({"sdk_app_id": "9" * 5000}, "'sdk_app_id'", id="far_too_big"),
        pytest.param({"app_group": 7}, "'app_group'", id="group_number"),
        pytest.param({"app_group": " "}, "'app_group'", id="group_blank"),
        pytest.param({"app_group": "a\x00"}, "'app_group'", id="group_nul"),
        pytest.param({"api": "im_push"}, "'api'", id="unknown_api"),
        pytest.param({"api": ["timpush"]}, "'api'", id="api_list"),
        pytest.param({"ca_bundle": "/no/such/file"}, "'ca_bundle'", id="no_file"),
        pytest.param({"ca_bundle": "/"}, "'ca_bundle'", id="folder"),
        pytest.param({"ca_bundle": "a\x00b"}, "'ca_bundle'", id="nul_in_path"),
        pytest.param({"ca_bundle": 7}, "'ca_bundle'", id="ca_number"),
        pytest.param({"ca_bundle": __file__}, "'ca_bundle'", id="no_certificates"),
        pytest.param({"timeout": 0}, "'timeout'", id="timeout_zero"),
        pytest.param({"timeout": 60.5}, "'timeout'", id="timeout_long"),
        pytest.param({"timeout": "nan"}, "'timeout'", id="timeout_nan"),
        pytest.param({"timeout": True}, "'timeout'", id="timeout_boolean"),
        pytest.param({"timeout": 10**400}, "'timeout'", id="timeout_huge"),
        pytest.param({"usersig_ttl": 59}, "'usersig_ttl'", id="ttl_short"),
        pytest.param({"usersig_ttl": 51 * 365 * 86400}, "'usersig_ttl'", id="ttl_long"),
        pytest.param({"usersig_ttl": 86400.0}, "'usersig_ttl'", id="ttl_float"),
    ],
)
def test_every_extra_field_is_checked(extra: dict[str, Any], expected: str) -> None:
    assert expected in str(refusal(extra))


@pytest.mark.parametrize("extra", ["{", "[]", "7", '"x"', "null", "[" * 100_000])
def test_an_extra_that_is_not_a_json_object_is_reported(extra: str) -> None:
    error = refusal(extra=extra)
    assert "extra is" in str(error)
    assert (error.region, error.sdk_app_id) == (None, None)


def test_an_error_names_the_app_as_far_as_it_is_readable() -> None:
    error = refusal({"region": "riyadh", "sdk_app_id": "7"})
    assert (error.region, error.sdk_app_id) == ("riyadh", 7)
    error = refusal({"region": "a/b", "sdk_app_id": 7})
    assert (error.region, error.sdk_app_id) == (None, 7)
    error = refusal({"sdk_app_id": None})
    assert (error.region, error.sdk_app_id) == ("singapore", None)


@pytest.mark.parametrize("label", ["mine", "EU", "hk.1", "Hong Kong", "香港"])
def test_a_label_of_ones_own_needs_a_host_and_nothing_else(label: str) -> None:
    own = target({"region": label}, host="https://im.example.com")
    assert (own.region, own.base_url) == (label, "https://im.example.com")


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    expected = str(refusal({"region": None, "timeout": -1}, login="", password=""))
    for field in ("login", "password", "'region'", "'timeout'"):
        assert field in expected


@pytest.mark.parametrize("misspelt", ["sdkappid", "sdkAppId", "sdk_appid", "SDK_APP_ID"])
def test_a_misspelt_field_is_pointed_at_when_the_right_one_is_missing(misspelt: str) -> None:
    expected = str(refusal({"sdk_app_id": None, misspelt: 7}))
    assert repr(misspelt) in expected
    assert "is 'sdk_app_id' meant?" in expected


def test_unknown_fields_are_ignored_otherwise() -> None:
    assert target({"sdkappid": "x", "junk": [1]}) == target()


def test_a_key_pasted_into_the_region_is_not_shown() -> None:
    assert refusal({"region": KEY}).region is None


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"extra": {"region": KEY, "sdk_app_id": 1}, "host": "https://example.org"}, "'region'"),
        ({"extra": {"region": "tokyo", "sdk_app_id": 1, "app_group": f"a {KEY}"}}, "'app_group'"),
        ({"host": f"{KEY}.example.org"}, "host"),
        ({"login": KEY[:20], "password": KEY[:20]}, "login"),
    ],
    ids=["region", "app_group", "host", "login"],
)
def test_a_field_that_is_shown_may_not_hold_the_key(changed: dict[str, Any], field: str) -> None:
    error = refusal(**changed)
    assert f"{field} holds the password" in str(error)
    assert error.region != KEY


def test_a_label_of_the_operators_own_needs_a_host() -> None:
    assert target({"region": "riyadh"}, host="example.com").region == "riyadh"


def test_a_target_shows_no_key() -> None:
    assert KEY not in repr(target())
    assert KEY not in str(target())
    assert KEY in str(dataclasses.asdict(target())["secret_key"])


def test_a_ca_bundle_may_be_given(tmp_path: Path) -> None:
    import requests.utils

    bundle = tmp_path / "ca.pem"
    bundle.write_text(Path(requests.utils.DEFAULT_CA_BUNDLE_PATH).read_text())
    assert target({"ca_bundle": str(bundle)}).ca_bundle == str(bundle)
    # What was read before does not answer for another file of the same path.
    bundle.write_text("no certificate")
    with pytest.raises(Misconfigured, match="'ca_bundle'"):
        target({"ca_bundle": str(bundle)})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.1", "::1", "localhost"])
def test_loopback_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "128.0.0.1", "10.0.0.1", "::", "127.1", "0x7f.1", ""])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_base_url_is_normal_form() -> None:
    assert check_base_url("HTTPS://EXAMPLE.com:443/") == "https://example.com"
