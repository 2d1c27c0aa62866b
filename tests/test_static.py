"""R35: what the package, the launchers and the recipes never do, found in their text."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    p for folder in ("hcl_jax", "launch", "configs", "benchmarks", "claims") for p in (ROOT / folder).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "runpy", "code"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "pty.spawn"),
    *("torch.load", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle"),
}
IMPORTS = {
    "hcl_jax/__init__.py": "_WHERE[name]",
    "hcl_jax/views/lazy.py": "name",
    "hcl_jax/compat/modules.py": "new",
    "hcl_jax/parts/catalogue.py": "module",
}  # literal names, of the package


def dotted(node):
    """ "os.system" of such an expression; "" of any other."""
    if isinstance(node, ast.Attribute):
        below = dotted(node.value)
        return f"{below}.{node.attr}" if below else ""
    return node.id if isinstance(node, ast.Name) else ""


def found(text, allowed=""):
    """What breaks a rule; `allowed` is the expression that may be imported besides literal names."""
    bad = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            bad += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            bad += [module] if module.split(".")[0] in MODULES else []
            bad += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        bad += [name] if name in CALLS or name.removeprefix("builtins.") in CALLS else []
        if name.endswith("import_module") and not isinstance(node.args[0], ast.Constant):
            bad += [f"import_module({text})"] if (text := ast.unparse(node.args[0])) != allowed else []
        for keyword in node.keywords:
            safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("allow_pickle", "shell") and not safe:
                bad.append(f"{keyword.arg} that is not False")
        # np.load takes pickles only when it is told to; said anyway, so that a reader sees it.
        if name in ("np.load", "numpy.load") and not any(k.arg == "allow_pickle" for k in node.keywords):
            bad.append("np.load without allow_pickle=False")
    return bad


def test_no_code_from_data():
    """R35: every offender of every file."""
    texts = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in FILES}
    bad = {name: found(text, IMPORTS.get(name, "")) for name, text in texts.items()}
    assert {name: what for name, what in bad.items() if what} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from cloudpickle import dumps", "eval('1')", "exec(x)", "compile(x, '', 'exec')", "os.system(x)",
     "from os import system", "np.load(p, allow_pickle=True)", "np.load(p)", "subprocess.run(x, shell=True)",
     "subprocess.run(x, shell=flag)", "yaml.load(f)", "torch.load(p)", "__import__(name)", "builtins.eval(x)",
     "importlib.import_module(config.name)", "def f():\n  import dill.source"],
)  # fmt: skip
def test_the_check_can_fail(text):
    assert found(text)


def test_the_check_lets_other_things_be():
    assert not found("re.compile('a'); lowered.compile(); ast.literal_eval(x); model.eval(); import picklable_not")


def test_there_is_something_to_check():
    assert len(FILES) > 150 and len({p.parts[len(ROOT.parts)] for p in FILES}) >= 4
