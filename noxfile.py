"""
The same make targets as CONTRIBUTING.md names, each in a fresh environment and on several Pythons.

    nox -s check                everything a change must pass, on the default Python
    nox -s test-3.13            the tests on one Python
    nox -s test-3.13 -- unit    some of them
    nox -s oldest               the tests with the oldest dependencies that pyproject.toml allows
"""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["check", "test", "oldest"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OLDEST = {"attrs": "23.1.0", "typing-extensions": "4.10.0"}
TESTS = ("unit", "property", "integration")


def install(session: nox.Session, *groups: str) -> None:
    """Install the package and the named dependency groups."""
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", ".[all]", *wanted)


def make(session: nox.Session, *targets: str) -> None:
    """Run targets of the Makefile with the Python of this session; nothing is skipped silently."""
    required = {"FIBACKUP_REQUIRE": "1"}
    session.run("make", *targets, f"PYTHON={session.bin}/python", external=True, env=required)


@nox.session
def check(session: nox.Session) -> None:
    """Lint, types, tests and docs: what a change must pass."""
    install(session, "dev")
    make(session, "check")


@nox.session(python=PYTHONS)
def test(session: nox.Session) -> None:
    """Run the tests."""
    install(session, "test")
    make(session, *(session.posargs or TESTS))


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that we promise to work with."""
    install(session, "test")
    session.install(*(f"{name}=={version}" for name, version in OLDEST.items()))
    make(session, *(session.posargs or TESTS))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and spelling."""
    install(session, "lint")
    make(session, "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with both checkers."""
    install(session, "types", "test")
    make(session, "types")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages; a warning is an error."""
    install(session, "docs")
    make(session, "docs")
