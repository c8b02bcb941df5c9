"""The examples do what the pages say about them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smi_adapter.cli import offline

EXAMPLES = Path(__file__).parent.parent.parent / "docs" / "examples"
SHOP = EXAMPLES / "shop"
FINDINGS = sorted((EXAMPLES / "findings").glob("*.yaml"))


def answer(command: Any, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*arguments, "-o", "json"])
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def explain(*arguments: str) -> tuple[str, dict[str, float]]:
    data = answer(offline.explain, "-f", str(SHOP), *arguments)
    return data["access"], {arm["service"]: arm["share"] for arm in data["arms"]}


def test_nothing_is_wrong_with_the_shop() -> None:
    assert answer(offline.analyze, "-f", str(SHOP))["findings"] == []


@pytest.mark.parametrize("example", FINDINGS, ids=lambda path: path.stem)
def test_an_example_of_a_finding_shows_it_and_not_much_else(example: Path) -> None:
    found = {item["code"] for item in answer(offline.analyze, "-f", str(example))["findings"]}
    assert example.stem in found
    assert len(found) <= 2


@pytest.mark.parametrize(
    ("path", "arms"),
    [
        ("/user", {"shop/api-v1": 1.0}),
        ("/user/7", {"shop/api-v1": 1.0}),
        ("/order/42", {"shop/api-v2": 1.0}),
        ("/users", {"shop/api": 1.0}),
        ("/", {"shop/api": 1.0}),
    ],
)
def test_user_goes_to_version_1_and_order_to_version_2(path: str, arms: dict[str, float]) -> None:
    assert explain("--from", "shop/frontend", "--to", "shop/api", "--path", path)[1] == arms


def test_firefox_gets_version_2_and_the_weights_divide_the_rest() -> None:
    to_web = ("--from", "shop/frontend", "--to", "shop/web")
    firefox = explain(*to_web, "--header", "user-agent=Mozilla Firefox/130")
    assert firefox == ("allowed", {"shop/web-v2": 1.0})
    assert explain(*to_web) == ("allowed", {"shop/web-v1": 0.9, "shop/web-v2": 0.1})


@pytest.mark.parametrize(
    ("request_", "access"),
    [
        ("frontend api GET /user/7", "allowed"),
        ("frontend api POST /order", "allowed"),
        ("frontend api POST /order/42", "denied"),
        ("frontend api DELETE /user/7", "denied"),
        ("frontend api GET /users", "denied"),
        ("batch api GET /user/7", "denied"),
        ("api ledger:5432 GET /", "allowed"),
        ("frontend ledger:5432 GET /", "denied"),
    ],
)
def test_access_is_what_the_page_says(request_: str, access: str) -> None:
    source, service, method, path = request_.split()
    arguments = ("--from", f"shop/{source}", "--to", f"shop/{service}", "--method", method, "--path", path)
    assert explain(*arguments)[0] == access


@pytest.mark.parametrize(("stage", "status"), [("mesh", 0), ("envoy", 0), ("gateway-api", 1)])
def test_a_translation_that_lacks_something_says_so_by_its_status(stage: str, status: int) -> None:
    done = CliRunner().invoke(offline.translate, ["-f", str(SHOP), "--to", stage], standalone_mode=False)
    assert done.return_value == status
    assert ("error SMI0601" in done.stderr) == bool(status)


@pytest.mark.parametrize(("caller", "note"), [("shop/frontend", ""), ("shop/frontnd", "did you mean shop/frontend?")])
def test_a_caller_that_nobody_is_is_pointed_out(caller: str, note: str) -> None:
    done = CliRunner().invoke(offline.explain, ["-f", str(SHOP), "--from", caller, "--to", "shop/api"])
    assert note in done.stderr
    assert ("note:" in done.stderr) == bool(note)
