"""The runbooks: one for each alert, word, finding and rule; tests/test_operations.py runs them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from im_attr_audit.commands.verify import CATEGORIES
from im_attr_audit.messages import notify
from im_attr_audit.page.checks import WORDS
from im_attr_audit.record.seals import checks, folds, listed, listed_folds, log, verify

from tests import grafana
from tests.airflow_process import ROOT
from tests.operations import RUNBOOKS

RULES = ROOT / "bi" / "prometheus" / "alerts.yml"
PARTS = ["Means", "Affects", "Look", "Do", "Wake"]


def sections() -> dict[str, str]:
    """Heading of the third level → the text below it."""
    _, *parts = re.split(r"^### (.+)\n", RUNBOOKS.read_text("utf-8"), flags=re.MULTILINE)
    texts = (re.split(r"^## ", text, flags=re.MULTILINE)[0] for text in parts[1::2])
    return dict(zip(parts[::2], texts, strict=True))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def rules() -> list[dict[str, object]]:
    [group] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    found: list[dict[str, object]] = group["rules"]
    return found


def test_whatever_can_call_somebody_has_a_runbook_and_there_are_no_others() -> None:
    expected = {f"Alert: {kind}" for kind in notify.KINDS}
    expected |= {f"healthz: {word}" for word in WORDS}
    expected |= {f"verify: {category}" for category in CATEGORIES}
    expected |= {str(rule["alert"]) for rule in rules()}
    assert {name for name in sections() if not name.startswith("Sealed: ")} == expected


@pytest.mark.parametrize("name", sections())
def test_a_runbook_says_what_it_means_whom_it_affects_where_to_look_what_to_do_whom_to_wake(
    name: str,
) -> None:
    parts = re.findall(r"^\*\*(\w+)\*\* \S", sections()[name], re.MULTILINE)
    assert [part for part in parts if part != "Printed"] == PARTS


def sentences_of_findings() -> Iterator[str]:
    """The literal parts of each finding of `verify --checkpoints`, with … for what is filled in."""
    for module in (listed, listed_folds, checks, folds, log, verify):
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="append", value=owner), args=[sentence]):
                    if ast.unparse(owner).endswith("findings"):
                        yield literal(sentence)
                case ast.Call(func=ast.Attribute(attr="_find"), args=[_, sentence]):
                    yield literal(sentence)
                case ast.FunctionDef(name="compare" | "_first_difference" | "_gone"):
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Return) and inner.value is not None:
                            of = inner.value
                            yield literal(of.elt if isinstance(of, ast.ListComp) else of)


def literal(sentence: ast.expr) -> str:
    if isinstance(sentence, ast.JoinedStr):
        return "".join(map(literal, sentence.values))
    return str(sentence.value) if isinstance(sentence, ast.Constant) else "…"


def test_each_finding_of_the_checkpoints_is_printed_in_one_runbook() -> None:
    printed = {
        name: re.findall(r"`([^`]+)`", re.findall(r"\*\*Printed\*\* ((?:.+\n)+)", text)[0])
        for name, text in sections().items()
        if name.startswith("Sealed: ")
    }
    # "…: …" passes on what another function returns; so does a variable.
    findings = [text for text in sentences_of_findings() if re.search(r"\w", text)]
    assert len(findings) >= 20
    used = set()
    for finding in findings:
        of = {(name, part) for name, parts in printed.items() for part in parts if part in finding}
        assert len({name for name, _ in of}) == 1, (finding, of)
        used |= of
    assert used == {(name, part) for name, parts in printed.items() for part in parts}


def test_each_metric_alert_names_its_runbook() -> None:
    for rule in rules():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        page, _, anchor = annotations["runbook"].partition("#")
        assert ROOT / page == RUNBOOKS
        assert anchor == str(rule["alert"]).lower()
        assert anchor in anchors(RUNBOOKS)


def test_each_alert_rule_for_grafana_names_a_runbook() -> None:
    for title, rule in grafana.RULES.items():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert ROOT / page == RUNBOOKS, title
        assert anchor in anchors(RUNBOOKS), title


def test_every_link_of_the_runbooks_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", RUNBOOKS.read_text("utf-8"))
    assert len(links) >= 20
    for path, anchor in links:
        page = (RUNBOOKS.parent / path).resolve() if path else RUNBOOKS
        assert page.exists(), path
        assert not anchor or anchor in anchors(page), (path, anchor)


def test_the_page_names_sections_that_exist() -> None:
    script = (ROOT / "plugins/im_attr_audit/page/static/health.js").read_text("utf-8")
    named = re.findall(r'runbook\(health, "([^"]+)"\)', script)
    assert len(named) == 2
    assert set(named) <= set(sections())
