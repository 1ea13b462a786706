"""The language of code and documents: standard terms, one meaning per name, documented arguments.

`python -m tests.test_style [folder or file ...]` lists every finding and a count per file.
"""

import ast
import collections
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ["waymax_sim", "behavior_models", "examples", "setup.py"]
PROSE = ["docs", "examples", "README.md", "CONTRIBUTING.md"]

# Words of prose that hide the technical noun, with the contexts that are technical terms themselves.
WORDS = re.compile(
    r"\b(so many|so much|whoever|whatever|whichever|who|whom|nobody|everybody|somebody|anybody|anew|afresh|told"
    r"|what|asked"
    r"|made[- ]up|worked off|works? off|hangs? together|hung together|at once|things?|mends?|mended|minds?|besides?"
    r"|judges?|judged|judging|judgements?|nowhere"
    r"|(?<!right of )(?<!right-of-)(?<!one-)(?<!two-)(?<!wrong-)(?<!wrong )ways?"
    r"|(?<!in )(?<!in-)(?<!decimal )places?)\b",
    re.IGNORECASE,
)
BRITISH = re.compile(
    r"(neighbour|colour|behaviour|favour|\bcentred?\b|\bcentres\b|metres?\b|optimis|initialis|normalis|quantis|serialis"
    r"|discretis|vectoris|labell|modell|\bgrey\b)",
    re.IGNORECASE,
)
# Parts of identifiers, between underscores.
PARTS = {"told", "asked", "anew", "nobody", "whoever", "who", "way", "ways", "place", "places", "mine", "minds"}
PARTS |= {"nowhere", "everybody", "judge", "judged", "judgement", "beside", "soon", "mend", "what", "thing", "things"}
# Whole identifiers.
NAMES = {
    "found",
    "seen",
    "kept",
    "there",
    "which",
    "good",
    "anew",
    "listed",
    "numbered",
    "opened",
    "snapped",
    "settled",
}
# Names of earlier versions; CHANGELOG.md lists their successors.
OLD_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
    Aims BESIDE_COST Claims Course Drivers ElementsView Gate HARDEST_BRAKING MapElements Meetings Movers Outlook Plans
    Solids StepOut Terms WrongCall Ways action_of_ego along_lanes as_float32_of_the_world birth bounds_of
    boxes_gap bucketed circumstances central death discomfort driver_of_ego example_of goes_on host_arrays in_batches
    in_turn info_of is_itself judge judge_ego judge_scene judged k_smallest larger_in logged_way lost memberships
    mouths near_pairs numbered of_many_maps of_sdc of_subjects on_device part_of path_ahead pavements plain_metrics
    point_at present_rows proto_of raw_of rides right_of snapped step_told take_from told_of unless_emergency used_up
    walkers work_off wrong_if
    """,
    )
)
# Examples of the style page, which quote the words.
EXAMPLES = re.compile(r"<!-- style examples -->.*<!-- end of style examples -->", re.DOTALL)
TERMS = re.compile(r"(right|one|two|wrong)_?way|right_?of_?way", re.IGNORECASE)


def test_code_uses_standard_terms():
    assert not list(findings(CODE, code_findings))


def test_documents_use_standard_terms():
    assert not list(findings(PROSE, prose_findings))


def test_names_of_tests_use_standard_terms():
    assert not list(findings(["tests"], suite_findings))


def test_a_name_has_one_meaning():
    assert not list(ambiguous_names())


def test_public_functions_document_their_arguments():
    assert not list(findings(["waymax_sim", "behavior_models"], undocumented_arguments))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# so many agents, whoever they are", 2),
        ("# right of way at a one-way street, changed in place", 0),
        ("place = found", 2),
        ("def rows_of_map(): ...", 1),
        ("A, B = 1, 2", 1),
        ("NUM_STEPS = 91", 0),
    ],
)
def test_findings_of_code(text: str, expected: int):
    assert len(list(code_findings(text))) == expected


def findings(names: list[str], check) -> Iterator[str]:
    """`file:line: reason` of every finding in the files below `names`."""
    for path in files(names, ".md" if check is prose_findings else ".py"):
        for line, reason in check(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(ROOT)}:{line}: {reason}"


def files(names: list[str], suffix: str) -> list[Path]:
    roots = [ROOT / name for name in names]
    listed = [[root] if root.is_file() else sorted(root.rglob(f"*{suffix}")) for root in roots]
    return [path for group in listed for path in group if path.suffix == suffix and path.name != "test_style.py"]


def code_findings(text: str) -> Iterator[tuple[int, str]]:
    """Words of comments and strings, identifiers, names of functions, tuple assignments of constants."""
    text = text.replace("shutil.which", "shutil.find")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            for offset, line in enumerate(token.string.split("\n")):
                yield from ((token.start[0] + offset, reason) for reason in words(line))
        elif token.type == tokenize.NAME:
            yield from ((token.start[0], reason) for reason in identifier_parts(token.string))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and re.search(r"(^of_|_of_|_of$)", TERMS.sub("", node.name)):
            yield node.lineno, f"`{node.name}`: name the result or the action, not `x_of_y`"
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ) and all(isinstance(name, ast.Name) and name.id.isupper() for name in node.targets[0].elts):
            yield node.lineno, "constants in a tuple assignment: one line, unit and meaning each"


def prose_findings(text: str) -> Iterator[tuple[int, str]]:
    text = EXAMPLES.sub(lambda match: "\n" * match.group().count("\n"), text)
    for number, line in enumerate(text.split("\n"), 1):
        yield from ((number, reason) for reason in words(line))


def words(line: str) -> Iterator[str]:
    line = re.sub(r"https?://\S+", "", line)
    for match in [*WORDS.finditer(line), *BRITISH.finditer(line)]:
        yield f"'{match.group()}' in: {line.strip()[:100]}"


def identifier_parts(name: str) -> Iterator[str]:
    parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", TERMS.sub("", name)).lower().split("_")
    if name in OLD_NAMES or name.lower().strip("_") in NAMES or PARTS & set(parts) or BRITISH.search(name):
        yield f"identifier `{name}`"


def suite_findings(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for reason in words(TERMS.sub("", node.name).replace("_", " ")):
                yield node.lineno, reason


def ambiguous_names() -> Iterator[str]:
    """Module constants with several values, and classes with several definitions."""
    constants, classes = collections.defaultdict(dict), collections.defaultdict(list)
    for path in files(["waymax_sim", "behavior_models"], ".py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(path)
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for name in targets:
                if isinstance(name, ast.Name) and name.id.strip("_").isupper() and node.value is not None:
                    constants[name.id].setdefault(ast.dump(node.value), path)
    for kind, meanings in [("constant", {k: list(v.values()) for k, v in constants.items()}), ("class", classes)]:
        for name, paths in meanings.items():
            if len(paths) > 1:
                yield f"{kind} {name}: " + ", ".join(str(path.relative_to(ROOT)) for path in paths)


def undocumented_arguments(text: str) -> Iterator[tuple[int, str]]:
    """Public functions of three and more arguments without `Args:`; methods of a protocol are documented there."""
    tree = ast.parse(text)
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
    for scope in scopes:
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name in PROTOCOL_METHODS:
                continue
            if any(isinstance(name, ast.Name) and name.id == "overload" for name in node.decorator_list):
                continue
            arguments = [arg.arg for arg in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
            num_arguments = len([name for name in arguments if name not in ("self", "cls")])
            if num_arguments >= 3 and "Args:" not in (ast.get_docstring(node) or ""):
                yield node.lineno, f"`{node.name}` has no `Args:`"


PROTOCOL_METHODS = {"act", "__call__", "reset", "step", "main"}


if __name__ == "__main__":
    chosen = [str(Path(name).resolve().relative_to(ROOT)) for name in sys.argv[1:]] or [
        "waymax_sim",
        "behavior_models",
        "examples",
        "docs",
        "tests",
        "README.md",
        "CONTRIBUTING.md",
    ]
    everything = [
        *findings([c for c in chosen if not c.startswith(("tests", "docs"))], code_findings),
        *findings(chosen, prose_findings),
        *findings([c for c in chosen if c.startswith("tests")], suite_findings),
        *findings([c for c in chosen if c.startswith(("waymax_sim", "behavior_models"))], undocumented_arguments),
        *(line for line in ambiguous_names() if any(c in line for c in chosen)),
    ]
    print("\n".join(everything))
    counts = collections.Counter(line.split(":")[0] for line in everything)
    print(
        "\n".join(f"{count:5d} {name}" for name, count in counts.most_common()),
        f"\n{len(everything)} findings",
        file=sys.stderr,
    )
