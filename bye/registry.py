"""Methods are files: one is found by its kind, and its source says what it takes and what it needs.

A method of one of the SORTS lies in `bye/methods/`, in a file named by its kind, or in a file of the user's, whose path
is then its kind. It is a public function (of families, a class): its keyword-only parameters are its settings, with
their types and defaults; constants in capitals say the rest. All this is read from the syntax of the file, so that a
configuration is checked without importing what the method needs; `Method.load` imports it.
"""

import ast
import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from bye.errors import ByeError

GIVEN = ("seed",)  # keyword parameters that the suite fills in: no settings ...
SEEDED = ("detect", "apply", "answer", "attach", "load")  # ... of these functions
TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "None": "null", "dict": "object"}
REQUIRED = object()  # default of a setting that has none
NO_LITERAL = object()  # value of a constant that only a run of the file would tell

# What a defence may act on, its public function there, and what that may read.
ACTIONS = {"training set": "detect", "test images": "purifier", "generation": "guard", "nothing": None}
# What a defence may read: columns of attention.parquet, or one of the others; and the parameter that brings it.
COLUMNS = ("entropy", "system_mass", "image_mass", "text_mass", "head_entropy", "head_token", "hidden", "nll")
READABLE = {
    **dict.fromkeys(COLUMNS, "features"),
    **{name: name for name in ("samples", "labels", "reference", "model")},
}


READABLE_AT = {"training set": tuple(READABLE), "generation": ("reference", "model")}
# Options of the stages that run a method, and arguments of their functions: no names of settings.
RESERVED = {
    "defence": (
        *("kind", "attention", "samples", "images", "labels", "reference", "reference_images", "model", "adapter"),
        *(
            "family",
            "quantization",
            "dtype",
            "tuning",
            "batch_size",
            "seed",
            "threads",
            "flags",
            "out_samples",
            "out_images",
        ),
        *("clean", "clean_images", "triggered", "triggered_images", "target", "guard", "metric", "predictions", "out"),
        *("max_new_tokens", "validate", "processes", "data", "cores", "configfile", "profile", "unjudged"),
        *("follow_links", "sizes", "draws", "rounds"),
    ),
    "trigger": ("samples", "images", "trigger", "rate", "target", "seed", "out", "labels"),
    "target": ("kind",),
    "tuning method": (
        *("model", "family", "quantization", "tuning", "samples", "images", "out", "log", "epochs", "batch_size"),
        *(
            "micro_batch_size",
            "learning_rate",
            "warmup",
            "adam_epsilon",
            "cache_features",
            "cache_layers",
            "gradient_checkpointing",
        ),
        *("plain_samples", "plain_adapter", "plain_log", "validate", "seed", "processes", "threads", "checkpoints"),
        *("checkpoint_folder", "device", "dtype", "entries"),
    ),
    "dataset format": (
        "format",
        "root",
        "images",
        "train",
        "test",
        "metric",
        "max_new_tokens",
        "seed",
        "out",
        "headers",
        "pictures",
        "unjudged",
        "reference",
    ),
}


@dataclass(frozen=True)
class Sort:
    """A sort of methods: folder below bye/methods, the config key that holds the kind, and the public functions that a
    file must have (or a class, of this base), those that it may have, and the defaults of its constants."""

    name: str
    folder: str
    key: str
    functions: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    base: str | None = None
    constants: dict = field(default_factory=dict)


SORTS = {
    sort.name: sort
    for sort in (
        Sort(
            "defence",
            "defences",
            "kind",
            optional=("passes",),
            constants={"ACTS_ON": "training set", "READS": (), "WRITES": (), "FOLDERS": {}, "TOLD": ()},
        ),
        Sort("trigger", "triggers", "trigger", ("apply",)),
        Sort("target", "targets", "target", ("answer", "hit"), ("check",)),
        Sort("tuning method", "tuning", "tuning", ("attach", "save", "load", "count"), ("check",)),
        Sort("family", "families", "family", base="Family"),
        Sort(
            "dataset format",
            "datasets",
            "format",
            ("load",),
            ("parts",),
            constants={"DIVIDED": True, "ROOT": "root", "MINI": False, "FETCHED": False},
        ),
    )
}


@dataclass(frozen=True)
class Setting:
    """A setting of a method: its JSON schema, its default (or REQUIRED) and its meaning, from the docstring."""

    name: str
    schema: dict
    default: object
    text: str

    @property
    def required(self):
        return self.default is REQUIRED


@dataclass(frozen=True)
class Function:
    """A public function: its given parameters in order, its settings by name, which of GIVEN it takes, its text."""

    name: str
    given: tuple[str, ...]
    settings: dict
    fillable: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Method:
    """A method as its file tells it. kind: as the config has it; functions: by name; constants: those of the file, over
    the defaults of the sort."""

    sort: Sort
    kind: str
    path: Path
    functions: dict
    constants: dict
    text: str

    @property
    def settings(self):
        """The settings by name: those of the first public function."""
        return next(iter(self.functions.values())).settings if self.functions else {}

    @property
    def is_own(self):
        """Whether it is a file of the user's."""
        return _is_path(self.kind)

    @property
    def runs_model(self):
        """Whether it is a detector that runs the model."""
        return self.constants.get("ACTS_ON") == "training set" and "model" in self.constants["READS"]

    def __getattr__(self, name):
        constants = object.__getattribute__(self, "constants")
        if name.upper() in constants:
            return constants[name.upper()]
        raise AttributeError(name)

    def load(self):
        """Import the file; return its module. Raises ByeError where that fails."""
        return _import(self.path, self.kind if not self.is_own else self.path.stem, self.sort.folder, self.is_own)

    def fill(self, values):
        """Return all settings: those among `values`, and the defaults of the others."""
        return {name: values.get(name, setting.default) for name, setting in self.settings.items()}

    def check(self, values):
        """Raise ByeError unless `values` are settings of the method, and those without a default are among them."""
        for name in values:
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise ByeError(f"{self.sort.name} {self.kind} has no setting {name}; its settings: {known}")
        for name, setting in self.settings.items():
            if setting.required and name not in values:
                raise ByeError(f"{self.sort.name} {self.kind} needs the setting {name}; give it")
            if name in values:
                self._check_value(setting, values[name])

    def _check_value(self, setting, value):
        from jsonschema import Draft202012Validator

        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        for error in Draft202012Validator(setting.schema).iter_errors(value):
            raise ByeError(f"{self.sort.name} {self.kind}: setting {setting.name}: {error.message}; correct it")

    def bind(self, name, values, **given):
        """Import the file; return its public function `name` with the settings among `values`, or their defaults.

        given: what the suite fills in where the function takes it (see GIVEN). Raises ByeError as `check` does.
        """
        self.check(values)
        function, filled = self.functions[name], self.fill(values)
        arguments = {setting: filled[setting] for setting in function.settings}
        arguments |= {key: value for key, value in given.items() if key in function.fillable}
        return partial(getattr(self.load(), name), **arguments)


def kinds(sort):
    """Return the kinds of a sort that the suite has, in the order of the alphabet."""
    return sorted(path.stem for path in _folder(sort).glob("*.py") if path.stem != "__init__")


def find(sort, kind):
    """Return the Method of a kind: a name, or the path of a .py file.

    Raises ByeError for an unknown kind and for a file that does not say what it must.
    """
    if _is_path(kind):
        path = Path(kind).expanduser()
        if not path.is_file():
            raise ByeError(f"there is no file {kind} for a {sort}; correct the path")
        return read(sort, str(kind), path.resolve())
    if not isinstance(kind, str) or kind not in kinds(sort):
        raise ByeError(f"unknown {sort} {kind!r}; known: {', '.join(kinds(sort))}, or the path of a .py file")
    return read(sort, kind, _folder(sort) / f"{kind}.py")


def read(sort, kind, path):
    """Return the Method that a file describes. Raises ByeError, naming the file, where it does not say what it must."""
    return _read(sort, kind, path, _changed(path))


@cache
def _read(sort, kind, path, changed):
    wanted = SORTS[sort]
    tree = _parse(path, changed)
    constants = wanted.constants | _constants(tree.body)
    for name in wanted.constants:
        if constants[name] is NO_LITERAL:
            raise ByeError(f"{path}: {name} is no literal; write the value itself")
    if wanted.base:
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        if len(classes) != 1:
            raise ByeError(
                f"{path} must have exactly one public class, a subclass of {wanted.base}; it has {len(classes)}"
            )
        constants |= {name.upper(): value for name, value in _constants(classes[0].body, lower=True).items()}
        if "MODEL_TYPE" not in constants:
            raise ByeError(f"{path}: class {classes[0].name} has no model_type; give it that of config.json")
        return Method(wanted, kind, path, {}, {**constants, "CLASS": classes[0].name}, ast.get_docstring(tree) or "")
    names = wanted.functions
    if sort == "defence":
        names = _check_defence(path, constants)
    functions = {name: signature(path, name, typed=name == names[0]) for name in names}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    functions |= {name: signature(path, name, typed=False) for name in wanted.optional if name in defined}
    _check_functions(path, sort, functions)
    if sort == "defence" and names:
        _check_given(path, functions[names[0]], constants["READS"])
        for constant in ("FOLDERS", "TOLD"):
            for setting in set(constants[constant]) - set(functions[names[0]].settings):
                raise ByeError(f"{path}: {constant} names {setting!r}, which is no setting; correct it")
    return Method(wanted, kind, path, functions, constants, ast.get_docstring(tree) or "")


def _check_defence(path, constants):
    """Return the names of the public functions that a defence must have, after a look at its constants."""
    acts_on, reads = constants["ACTS_ON"], constants["READS"]
    if acts_on not in ACTIONS:
        raise ByeError(f"{path}: ACTS_ON is {acts_on!r}; it can be {', '.join(map(repr, ACTIONS))}")
    readable = READABLE_AT.get(acts_on, ())
    unknown = [name for name in reads if name not in readable]
    if not isinstance(reads, tuple | list) or unknown:
        known = ", ".join(readable) or "nothing"
        raise ByeError(f"{path}: READS names {', '.join(map(repr, unknown))}; on the {acts_on} it can name {known}")
    return (ACTIONS[acts_on],) if ACTIONS[acts_on] else ()


def _check_given(path, function, reads):
    wanted = list(dict.fromkeys(READABLE[name] for name in reads))
    if sorted(wanted) != sorted(function.given):
        raise ByeError(
            f"{path}: {function.name}({', '.join(function.given)}, *, ...) must take what READS asks for, "
            f"{function.name}({', '.join(wanted)}, *, ...); correct one of them"
        )


def _check_functions(path, sort, functions):
    """Raise ByeError where settings have names of the suite's own, or functions take what nobody gives them."""
    first = next(iter(functions.values()), None)
    for function in functions.values():
        for name in function.settings:
            if name in RESERVED.get(sort, ()):
                raise ByeError(f"{path}: setting {name} has the name of an option of the suite; choose another")
            if name not in first.settings:
                raise ByeError(f"{path}: setting {name} of {function.name} is none of {first.name}; add it there")
        if function.fillable and function.name not in SEEDED:
            raise ByeError(f"{path}: {function.name} is given no seed; leave it out")


def signature(path, name, typed=True):
    """Return the Function of that name in a Python file, read from its syntax.

    typed: whether it is the home of its settings' types. Raises ByeError where there is no such function.
    """
    tree = _parse(path, _changed(path))
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(nodes) != 1:
        raise ByeError(
            f"{path} must have one function {name}, and has {len(nodes)}; docs/adding.md shows what it takes"
        )
    arguments, text = nodes[0].args, ast.get_docstring(nodes[0]) or ""
    settings, fillable = {}, []
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.arg in GIVEN:
            fillable.append(argument.arg)
        else:
            settings[argument.arg] = _setting(path, argument, default, text, typed)
    return Function(name, tuple(argument.arg for argument in arguments.args), settings, tuple(fillable), text)


def _setting(path, argument, default, text, typed):
    where = f"{path}: setting {argument.arg}"
    value = REQUIRED if default is None else _literal(default, where)
    value = list(value) if isinstance(value, tuple) else value  # a configuration has lists
    if not typed:
        schema = {}
    elif argument.annotation is not None:
        schema = _schema(argument.annotation, where)
    elif type(value).__name__ in TYPES:
        schema = {"type": TYPES[type(value).__name__]}
    else:
        raise ByeError(f"{where} has no type; write {argument.arg}: int, or what it is")
    nullable = "null" in _as_list(schema.get("type")) or None in schema.get("enum", ())
    if nullable and value is not None:
        raise ByeError(f"{where} may be None, so that must be its default; None is what is left out")
    return Setting(argument.arg, schema, value, _meaning(argument.arg, text))


def _schema(node, where):
    """The JSON schema of a type annotation."""
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.Name) and node.id in TYPES:
        return {"type": TYPES[node.id]} | ({"minLength": 1} if node.id == "str" else {})
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union(_schema(node.left, where), _schema(node.right, where), where)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = node.slice
        if node.value.id == "list" and "boolean" not in _as_list(_schema(inner, where).get("type")):
            return {"type": "array", "minItems": 1, "items": _schema(inner, where)}
        if node.value.id == "Literal":
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return {"enum": [_literal(part, where) for part in parts]}
        if node.value.id == "Annotated" and isinstance(inner, ast.Tuple) and isinstance(inner.elts[1], ast.Dict):
            return _schema(inner.elts[0], where) | _literal(inner.elts[1], where)
    raise ByeError(
        f"{where} has the type {ast.unparse(node)}; it can be int, float, str, bool, list[...], Literal[...], "
        "one of these or None, a union of numbers and texts, or Annotated[type, {JSON schema}]"
    )


def _union(left, right, where):
    """The schema of a union: of any type with None, or of numbers and texts."""
    kinds = [kind for part in (left, right) for kind in _as_list(part.get("type", []))]
    choices = [*left.get("enum", []), *right.get("enum", [])]
    others = [kind for kind in kinds if kind != "null"]
    if choices and not others:
        return {"enum": [*choices, None]}
    if choices or len(others) > 1 and not set(others) <= {"integer", "number", "string"}:
        raise ByeError(f"{where} is of a union that no option can tell apart; take one type, or one of them or None")
    return left | right | {"type": kinds}


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _literal(node, where):
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ByeError(f"{where}: {ast.unparse(node)} is no literal; write the value itself") from None


def _constants(body, lower=False):
    """{name: value} of what a body assigns to names in capitals (in a class, to any); NO_LITERAL where it is none."""
    found = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and len(targets) == 1 and isinstance(targets[0], ast.Name):
            name = targets[0].id
            if lower or name.isupper():
                try:
                    found[name] = ast.literal_eval(node.value)
                except (ValueError, TypeError):
                    found[name] = NO_LITERAL
    return found


def _meaning(name, text):
    """What a docstring says of a parameter: the text from "name: ", "name : " or "name, another: " to a semicolon or
    full stop."""
    found = re.search(rf"(?<!\w){name}(?:, \w+)* ?: (.*?)(?:;|\. (?!\d)|\.?$)", " ".join(text.split()))
    return found[1] if found else ""


def _changed(path):
    return path.stat().st_mtime_ns if path.exists() else 0


@cache
def _parse(path, changed):
    try:
        return ast.parse(Path(path).read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ByeError(f"{path} is not valid Python ({error}); mend the file there") from None
    except OSError as error:
        raise ByeError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None


def _folder(sort):
    return Path(__file__).with_name("methods") / SORTS[sort].folder


def _is_path(kind):
    return isinstance(kind, str) and kind.endswith(".py")


def _import(path, kind, folder, own):
    if not own:
        return importlib.import_module(f"bye.methods.{folder}.{kind}")
    name = f"bye_own_{abs(hash(str(path)))}_{kind}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ByeError(f"{path} cannot be imported ({type(error).__name__}: {error}); mend the file") from error
    return sys.modules[name]
