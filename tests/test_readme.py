"""README and docs say what is so: their examples print what they show, their names, links and commands exist."""

from __future__ import annotations

import contextlib
import doctest
import io
import operator
import re
from pathlib import Path

import pytest

import fxprune

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PAGES = {path.name: text for path in (ROOT / "docs").glob("*.md") if "```" in (text := path.read_text())}
SESSIONS = [code for language, code in BLOCKS if language == "pycon"]


def test_the_example_prints_what_is_shown() -> None:
    (_, code), (_, shown) = BLOCKS[:2]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == shown


@pytest.mark.parametrize("session", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session_goes_as_shown(session: str) -> None:
    test = doctest.DocTestParser().get_doctest(session, {}, "README", "README.md", 0)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_session_that_goes_as_shown(name: str) -> None:
    assert {language for language, _ in re.findall(r"```(\w*)\n(.*?)```", PAGES[name], re.DOTALL)} == {"pycon"}
    test = doctest.DocTestParser().get_doctest(PAGES[name], {"__name__": "page"}, name, name, 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_example_of_an_own_op_prints_what_is_shown(registries: None) -> None:
    section = README.partition("## Your own ops\n")[2].partition("\n## ")[0]
    *code, (_, shown) = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(block for _, block in code), "README.md", "exec"), {"__name__": "mine"})
    assert printed.getvalue() == shown


def test_every_name_exists() -> None:
    for name in re.findall(r"\bfxprune\.([A-Za-z_.]+)\(", "".join([README, *PAGES.values()])):
        assert operator.attrgetter(name)(fxprune), name
    for path in re.findall(r"\]\((docs/[\w./-]*)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:tools|tests|passes)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_two_commands_set_everything_up() -> None:
    commands = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if "pip" in line]
    assert len(commands) == 2
    run, test = (command.partition("#")[0].strip() for command in commands)
    assert run.endswith("&& fxprune demo")
    assert test in (ROOT / ".ci" / "run").read_text()
