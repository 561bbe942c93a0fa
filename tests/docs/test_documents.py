"""What the documents say is run, and what there is is documented."""

import inspect
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import segstore
from segstore.cli.app import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
CLI_PAGE = (ROOT / "docs/reference/cli.md").read_text()
SECTIONS = dict(re.findall(r"^## `segstore ([a-z-]+)`\n(.*?)(?=^## |\Z)", CLI_PAGE, re.M | re.S))
API_PAGE = (ROOT / "docs/reference/api.md").read_text()
BLOCKS = re.compile(r"^```(python|sh)\n(.*?)^```", re.M | re.S)


def options_of(command):
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts + parameter.secondary_opts
    }


def test_every_command_is_documented_and_every_documented_command_exists():
    assert set(SECTIONS) == set(cli.commands)
    assert {command.name for command in COMMANDS} == set(cli.commands)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_options_of_a_command_are_those_of_its_page(name):
    rows = re.findall(r"^\| (`-.*?) \|", SECTIONS[name], re.M)
    documented = {option for row in rows for option in re.findall(r"`(--?[a-z][a-z-]*)", row)}
    assert documented == options_of(cli.commands[name])


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_usage_of_a_command_is_that_of_its_page(name):
    arguments = [
        parameter.metavar
        for parameter in cli.commands[name].params
        if parameter.param_type_name == "argument"
    ]
    assert f"`segstore {name} [OPTIONS] {' '.join(arguments)}`" in SECTIONS[name]


@pytest.mark.parametrize("document", ["README.md", "docs/tutorial.md", "docs/how-to.md"])
def test_the_examples_of_a_document_work_one_after_another(document, tmp_path):
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    blocks = BLOCKS.findall((ROOT / document).read_text())
    assert len(blocks) >= 2
    for language, text in blocks:
        if "make " in text:  # this test is run by it
            continue
        command = (
            [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        )
        done = subprocess.run(
            [*command, text],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_the_examples_of_testing_are_a_test_module_that_passes(tmp_path):
    blocks = BLOCKS.findall((ROOT / "docs/testing.md").read_text())
    text = "\n".join(text for language, text in blocks if language == "python")
    (tmp_path / "test_example.py").write_text(text)
    # On a busy machine hypothesis would otherwise complain of the time that drawing takes.
    (tmp_path / "conftest.py").write_text(
        "from hypothesis import HealthCheck, settings\n"
        "checks = list(HealthCheck)\n"
        "settings.register_profile('busy', suppress_health_check=checks, deadline=None)\n"
        "settings.load_profile('busy')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 5


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


def defaults_of(function):
    """Name to default, or to `...` where there is none, and which of them are keywords only."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [
        (
            p.name,
            p.kind is p.KEYWORD_ONLY,
            ... if p.default is p.empty else p.default,
        )
        for p in parameters
    ]


def documented_signatures(section):
    """Name to parameters of every `name(...)` that stands in the first cells of a section."""
    found = {}
    for row in re.findall(r"^\| (`.*?`) \|", section, re.M):
        for name, parameters in re.findall(r"(?:`|, )([a-z_]+)(\([^`()]*\))", row):
            exec(f"def {name}{parameters}: ...", scope := {})
            found[name] = scope[name]
    return found


def section_of(heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", API_PAGE, re.M | re.S)[1]


def public_of(owner):
    return {name for name in vars(owner) if not name.startswith("_")}


def test_every_public_name_is_documented():
    for name in segstore.__all__:
        assert re.search(rf"\b{name}\b", API_PAGE), name


def test_every_method_of_a_log_is_documented_with_its_signature():
    section = section_of("Log")
    documented = documented_signatures(section)
    documented.pop("len", None)
    documented.pop("iter", None)
    methods = {
        name for name in public_of(segstore.Log) if inspect.isfunction(vars(segstore.Log)[name])
    }
    assert set(documented) == methods
    for name in methods:
        assert defaults_of(documented[name]) == defaults_of(getattr(segstore.Log, name)), name
    for name in public_of(segstore.Log) - methods:
        assert f"`{name}`" in section, name


def test_every_member_of_a_batch_a_follower_and_a_consumer_is_documented():
    rows = dict(re.findall(r"^\| `([A-Za-z]+)` \| (.*) \|$", section_of("Values"), re.M))
    for owner in (segstore.RecordBatch, segstore.Follower, segstore.Consumer):
        for name in public_of(owner):
            assert re.search(rf"`{name}\b", rows[owner.__name__]), (owner, name)
    for name in segstore.Record._fields:
        assert name in re.search(r"`Record\((.*?)\)`", API_PAGE)[1].split(", ")
    poll = re.search(r"`poll(\(.*?\))`", rows["Consumer"])[1]
    exec(f"def poll{poll}: ...", scope := {})
    assert defaults_of(scope["poll"]) == defaults_of(segstore.Consumer.poll)


def test_every_option_is_documented_with_its_default():
    rows = re.findall(r"^\| `([a-z_]+)` \| `(.*?)` \|", section_of("Opening"), re.M)
    documented = {name: eval(default) for name, default in rows}
    assert set(documented) == set(segstore.LogConfig._fields)
    assert segstore.LogConfig.of(documented, environment={}) == segstore.LogConfig()


def test_every_error_is_documented_where_it_stands():
    lines = re.search(r"^```\n(SegstoreError\n.*?)^```", API_PAGE, re.M | re.S)[1].splitlines()
    parents, documented = [], set()
    for line in lines:
        depth, name, bases = re.match(r"([│├└─ ]*)(\w+)(?: \((\w+)\))?", line).groups()
        del parents[len(depth) // 4 :]
        error = getattr(segstore, name)
        assert not parents or parents[-1] in error.__bases__, name
        assert bases is None or bases in {base.__name__ for base in error.__mro__}, name
        for attribute in re.findall(r" \.(\w+)", line):
            assert attribute in inspect.signature(error.__init__).parameters or hasattr(
                error, attribute
            ), (name, attribute)
        parents.append(error)
        documented.add(name)
    assert documented == {
        name
        for name in segstore.__all__
        if inspect.isclass(getattr(segstore, name))
        and issubclass(getattr(segstore, name), segstore.SegstoreError)
    }
