"""The order in which the page shows groups and apps."""

from __future__ import annotations

from im_attr_audit.page.order import app_order, group_order


def test_groups_are_in_the_order_of_their_numbers() -> None:
    names = ["group 10", "group 2", "Group 3", "a10b2", "a10b10", "a9", "", "7", "07", "²", "x" * 9]
    assert sorted(names, key=group_order) == [
        "", "07", "7", "Group 3", "a9", "a10b2", "a10b10", "group 2", "group 10", "x" * 9, "²",
    ]  # fmt: skip


def test_a_number_of_any_length_is_no_error() -> None:
    long = "1" * 10_000
    assert sorted([long, "2"], key=group_order) == ["2", long]


def test_apps_of_a_group_are_in_the_order_of_the_vendors_regions() -> None:
    apps = [
        {"app_group": group, "region": region, "sdk_app_id": number}
        for group, region, number in (
            ("group 10", "china", 1), ("group 2", "own", 1), ("group 2", "silicon_valley", 1),
            ("group 2", "china", 2), ("group 2", "china", 1),
        )
    ]  # fmt: skip
    assert [
        (app["app_group"], app["region"], app["sdk_app_id"]) for app in sorted(apps, key=app_order)
    ] == [
        ("group 2", "china", 1), ("group 2", "china", 2), ("group 2", "silicon_valley", 1),
        ("group 2", "own", 1), ("group 10", "china", 1),
    ]  # fmt: skip
