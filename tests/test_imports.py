"""The part of the rule of imports that import-linter cannot see: torch, wherever it is imported from, takes seconds."""

import subprocess
import sys

ROOMS = ("errors", "environment", "metrics", "config", "runs", "data.augment", "data.decoding", "data.sets", "startup")


def test_what_help_and_mistakes_need_imports_no_torch() -> None:
    imports = "".join(f"import imgcls.{room}\n" for room in ROOMS)
    code = f"import sys\n{imports}print({{'torch', 'torchvision'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set()\n"
