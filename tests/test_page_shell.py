"""The frame of a view: its script as one file, and what is fetched with it."""

from __future__ import annotations

import pytest
from im_attr_audit.page import shell
from im_attr_audit.page.bundle import bundle

MODULES = {
    "view.js": 'import { f, K } from "./one.js";\nimport { g } from "./two.js";\nf(g(K));\n',
    "one.js": 'import { g } from "./two.js";\nexport async function f(x) {}\nexport const K = 1;\n',
    "two.js": "export function g(x) { return x; }\nexport class C {}\nconst hidden = 1;\n",
}


def test_a_bundle_has_each_module_once_and_after_those_that_it_imports() -> None:
    text = bundle(MODULES, "view.js")
    places = [text.index(f'modules["{name}"] = ') for name in ("two.js", "one.js", "view.js")]
    assert places == sorted(places)
    assert text.count("function g(x)") == 1
    assert 'const { f, K } = modules["one.js"];' in text
    assert "return { g, C };" in text
    assert "import " not in text
    assert "export " not in text


@pytest.mark.parametrize(
    "text",
    [
        'import * as two from "./two.js";',
        'import { g as h } from "./two.js";',
        "export default function f() {}",
        "export { f };",
        "export let f = 1;",
        'import { f } from "./view.js";',
    ],
)
def test_a_module_that_a_bundle_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"another form|imports itself"):
        bundle({**MODULES, "view.js": text + "\n"}, "view.js")


def test_every_view_has_its_script_as_one_file() -> None:
    for view in shell.VIEWS:
        content, kind = shell.static_files()[f"views/{view}.js"]
        assert kind == "text/javascript"
        assert f'modules["{view}.js"]'.encode() in content


@pytest.mark.parametrize(
    ("view", "query", "asked"),
    [
        ("overview", {}, ["api/overview"]),
        ("timeline", {"slot": "2", "group": "a b", "x": "1", "app": ""},
         ["api/setup", "api/timeline?group=a+b&slot=2"]),
        ("changes", {"name": "~*é&", "before": "1.2"},
         ["api/setup", "api/changes?name=%7E*%C3%A9%26&before=1.2&limit=25"]),
        ("changes", {"app": "seoul/1", "seq": "7", "name": "x"},
         ["api/change?region=seoul&sdk_app_id=1&seq=7"]),
    ],
)  # fmt: skip
def test_what_a_view_asks_first_is_fetched_with_its_script(
    view: str, query: dict[str, str], asked: list[str]
) -> None:
    assert list(shell.questions(view, query)) == asked
    page = shell.shell(view, query)
    assert all(each.replace("&", "&amp;") in page for each in asked)


def test_no_address_breaks_out_of_the_frame() -> None:
    page = shell.shell("changes", {"name": '"><script>alert(1)</script>'})
    assert "<script>" not in page
