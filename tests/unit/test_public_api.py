"""
The public door: four lists of names that agree, names that can be imported, docstrings that answer.

    __all__  ==  imports under TYPE_CHECKING  ==  _HOMES  ==  dir(fibackup)
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from attrs import fields, has

import fibackup
import fibackup.testing

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fibackup"
DOOR = SOURCE / "__init__.py"
ERRORS_PAGE = ROOT / "docs" / "errors.md"

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")
SAYS_WHAT_IT_RETURNS = ("Return ", "Tell ", "Iterate ")
DELEGATES = re.compile(r"See `[A-Z]\w+\.\w+`")
NOTHING = {"None", "NoReturn"}


def typed_imports() -> Mapping[str, tuple[str, ...]]:
    """Map modules to the names that type checkers import from them."""
    found: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(DOOR.read_text("utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for each in node.body:
                assert isinstance(each, ast.ImportFrom), ast.unparse(each)
                assert each.module is not None
                assert not any(alias.asname for alias in each.names)
                found[each.module] = tuple(alias.name for alias in each.names)
    return found


def test_every_list_of_public_names_is_the_same() -> None:
    """`__all__`, what type checkers see, the table of homes and `dir()` have the same names."""
    homes = [name for names in fibackup._HOMES.values() for name in names]
    seen = [name for names in typed_imports().values() for name in names]
    assert len(set(fibackup.__all__)) == len(fibackup.__all__)
    assert sorted(homes) == sorted(seen) == sorted(fibackup.__all__) == sorted(dir(fibackup))


def test_type_checkers_and_the_door_agree_on_the_homes() -> None:
    """Each name is imported at run time from the module from which type checkers import it."""
    assert dict(typed_imports()) == fibackup._HOMES


@pytest.mark.parametrize("name", fibackup.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """The door gives the object of the module in which the name lives, and keeps it."""
    home = next(module for module, names in fibackup._HOMES.items() if name in names)
    value = getattr(fibackup, name)
    assert value is getattr(importlib.import_module(home), name)
    assert vars(fibackup)[name] is value


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    """A misspelled name is what it is with any module."""
    with pytest.raises(AttributeError, match="'fibackup' has no attribute 'no_such_name'"):
        getattr(fibackup, "no_such_name")  # noqa: B009 - for type checkers too it is a mere string


def printed_by(code: str) -> str:
    """Return what a process prints that has imported nothing yet."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_missing_libvirt_says_what_to_install() -> None:
    """Without libvirt's bindings only the names that need them fail, and tell the remedy."""
    code = """
        import sys
        sys.modules["libvirt"] = None
        import fibackup
        fibackup.Executor, fibackup.Store, fibackup.plan_backup
        try:
            fibackup.LibvirtHost
        except fibackup.RequirementError as error:
            print(error)
    """
    assert "libvirt-python" in printed_by(code)


def test_who_reads_a_store_does_not_import_every_plan() -> None:
    """A list starts without what takes backups, draws pictures or reads a domain's XML."""
    code = """
        import sys
        import fibackup
        fibackup.StoreReader, fibackup.list_points, fibackup.CancelToken
        print(*(name for name in sys.modules if name.startswith("fibackup.")))
    """
    found = set(printed_by(code).split())
    assert "fibackup.plan.listing" in found
    others = {"plan.steps", "plan.backup", "model.pictures", "render.text", "parse.domain_xml"}
    assert not found & {f"fibackup.{name}" for name in others}


@pytest.mark.parametrize(
    "name", ["BackingChain", "Domain", "RestorePoint", "History", "Plan", "Report"]
)
def test_a_value_has_a_picture_whatever_else_was_imported(name: str) -> None:
    """Who asks for nothing but the value can draw it: its layer says what is to be seen."""
    code = f"""
        import contextlib
        import fibackup
        kind = fibackup.{name}
        draw = fibackup.picture_of
        with contextlib.suppress(AttributeError):  # of a value whose fields are not set
            draw(object.__new__(kind))
        print(draw.dispatch(kind) is not draw.dispatch(object))
    """
    assert printed_by(code) == "True\n"


# --- docstrings ---------------------------------------------------------------------------------


class Sections(NamedTuple):
    """A docstring, cut at its headings."""

    summary: str
    parts: Mapping[str, str]


def sections(text: str) -> Sections:
    """Cut a Google docstring at its headings."""
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):[ ]*$", inspect.cleandoc(text), flags=re.MULTILINE)
    return Sections(pieces[0].strip(), dict(zip(pieces[1::2], pieces[2::2], strict=True)))


def public_objects() -> Iterator[tuple[str, object]]:
    """Yield every public class and function, of the door and of `fibackup.testing`."""
    for module in (fibackup, fibackup.testing):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value


def public_functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield every public function, and every public method that a public class defines itself."""
    for name, value in public_objects():
        if isinstance(value, type):
            for key, member in vars(value).items():
                plain = (
                    member.__func__ if isinstance(member, classmethod | staticmethod) else member
                )
                if inspect.isfunction(plain) and not key.startswith("_"):
                    yield f"{name}.{key}", plain
        elif inspect.isfunction(value):
            yield name, value


def public_properties() -> Iterator[tuple[str, property]]:
    """Yield every public property that a public class defines itself."""
    for name, value in public_objects():
        for key, member in vars(value).items() if isinstance(value, type) else ():
            if isinstance(member, property) and not key.startswith("_"):
                yield f"{name}.{key}", member


OBJECTS = dict(public_objects())
FUNCTIONS = dict(public_functions())
PROPERTIES = dict(public_properties())


def complaints(function: Callable[..., object]) -> list[str]:
    """List what the docstring of a function leaves unanswered."""
    doc = function.__doc__ or ""
    if DELEGATES.match(doc.strip()):
        return []
    summary, parts = sections(doc)
    body = _definition(function)
    found = [] if summary else ["no summary"]
    found += [f"Args: {name}" for name in _parameters(function) if not _lists(parts, "Args", name)]
    if _returns(body) and not {"Returns", "Yields"} & set(parts):
        found += [] if summary.startswith(SAYS_WHAT_IT_RETURNS) else ["Returns"]
    found += [f"Raises: {name}" for name in _raised(body) if not _raises(parts, name)]
    if "Source" not in parts and (set(parts) or _parameters(function)):
        found.append("Source")
    return found


def _definition(function: Callable[..., object]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    node = tree.body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def _parameters(function: Callable[..., object]) -> list[str]:
    names = list(inspect.signature(function).parameters)
    return [name for name in names if name not in {"self", "cls"} and not name.startswith("_")]


def _lists(parts: Mapping[str, str], section: str, name: str) -> bool:
    return re.search(rf"^[ ]+\*{{0,2}}{name}: ", parts.get(section, ""), re.MULTILINE) is not None


def _returns(node: ast.FunctionDef) -> bool:
    return node.returns is not None and ast.unparse(node.returns) not in NOTHING


def _raised(node: ast.FunctionDef) -> list[str]:
    """Name the classes that the function's own statements raise."""
    calls = [
        each.exc.func
        for each in ast.walk(node)
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call)
    ]
    return sorted({call.id for call in calls if isinstance(call, ast.Name)})


def _raises(parts: Mapping[str, str], name: str) -> bool:
    """Tell whether an error, or a class that it is of, is listed."""
    kind = getattr(fibackup, name, None)
    names = [each.__name__ for each in kind.__mro__] if isinstance(kind, type) else [name]
    return any(_lists(parts, "Raises", each) for each in names)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_class_and_function_has_a_docstring(name: str) -> None:
    """What is public says what it is; a docstring that attrs or Enum invented does not count."""
    assert re.search(r"\w", vars(OBJECTS[name]).get("__doc__") or OBJECTS[name].__doc__ or "")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_answers_its_questions(name: str) -> None:
    """Arguments, result, what it raises itself, and the rule it follows are in the docstring."""
    assert complaints(FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_public_property_has_a_docstring(name: str) -> None:
    """A property says what it is."""
    assert re.search(r"\w", PROPERTIES[name].__doc__ or "")


@pytest.mark.parametrize("name", [n for n, v in OBJECTS.items() if isinstance(v, type) and has(v)])
def test_every_field_of_a_public_value_is_described(name: str) -> None:
    """The `Attributes` of a value, and of the classes it is of, are its fields."""
    kind = OBJECTS[name]
    assert isinstance(kind, type)
    parts = (sections(each.__doc__ or "").parts for each in kind.__mro__)
    described = re.findall(
        r"^[ ]+(\w+): ", "".join(p.get("Attributes", "") for p in parts), re.MULTILINE
    )
    names = {field.name for field in fields(kind) if not field.name.startswith("_")}
    assert names <= {*described, *_only_field(names)}


def _only_field(names: set[str]) -> set[str]:
    """Return the field of a class such as `TakeSnapshot`, whose summary says what it is."""
    return names if len(names) == 1 else set()


def test_the_checker_finds_what_is_missing() -> None:
    """A function that answers nothing is complained about, question by question."""

    def silent(path: str) -> int:
        """Count."""
        raise ValueError(path)

    assert complaints(silent) == ["Args: path", "Returns", "Raises: ValueError", "Source"]


def test_the_checker_accepts_what_is_complete() -> None:
    """A function that answers everything passes, and so does one that refers to its protocol."""

    def complete(path: str) -> int:
        """
        Count.

        Args:
            path: What.

        Returns:
            A number.

        Raises:
            ValueError: Never counted.

        Source:
            The book.
        """
        raise ValueError(path)

    def delegated(path: str) -> int:
        """See `Host.count`."""
        raise ValueError(path)

    assert complaints(complete) == complaints(delegated) == []


def pages_that_docstrings_name() -> set[str]:
    """Return the pages and schemas to which the source refers."""
    text = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    return set(re.findall(r"\bdocs/[\w/.-]+\.(?:md|json)\b", text))


@pytest.mark.parametrize("page", sorted(pages_that_docstrings_name()))
def test_every_page_that_a_docstring_names_exists(page: str) -> None:
    """A `Source` that is a page of ours leads somewhere."""
    assert (ROOT / page).is_file()


@pytest.mark.parametrize("name", [n for n in fibackup.__all__ if n.endswith("Error")])
def test_every_error_is_on_the_page_of_errors(name: str) -> None:
    """`docs/errors.md` says of each error what happened and what to do."""
    assert re.search(rf"`{name}`", ERRORS_PAGE.read_text("utf-8"))
