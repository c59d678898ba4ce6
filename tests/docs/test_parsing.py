"""How pages are read: a command that is overlooked would never be run."""

import pytest

from tests.docs.pages import Change, Command, File, Shown, changed, steps, without_comment

PAGE = """\
# Title

`mine.yaml`:

```yaml
name: mine
```

```yaml
no: file
```

Then:

```bash
one --with "# no comment"   # a comment
two \\
    lines
# nothing
```

```console
$ three
what it prints
```

```text
what four prints
```

Put this into `a/b.py`:

```diff
 x = 1
-y = 2
+y = 3
```
"""


def test_steps_come_in_order() -> None:
    assert list(steps(PAGE)) == [
        File(path="mine.yaml", text="name: mine\n"),
        Command(text='one --with "# no comment"'),
        Command(text="two      lines"),
        Command(text="three"),
        Shown(text="what four prints\n"),
        Change(path="a/b.py", text=" x = 1\n-y = 2\n+y = 3\n"),
    ]


def test_a_change_needs_its_place() -> None:
    change = " x = 1\n-y = 2\n+y = 3\n"
    assert changed("w\nx = 1\ny = 2\n", change) == "w\nx = 1\ny = 3\n"
    for text in ("x = 1\ny = 4\n", "x = 1\ny = 2\n" * 2):
        with pytest.raises(ValueError, match="times"):
            changed(text, change)


def test_comments_end_at_quotes() -> None:
    assert without_comment("echo 'a # b' \"# c\" d#e # f") == "echo 'a # b' \"# c\" d#e"
