"""How pages are read: a command that is overlooked would never be run."""

from tests.docs.pages import Command, File, Shown, steps, without_comment

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
"""


def test_steps_come_in_order() -> None:
    assert list(steps(PAGE)) == [
        File(path="mine.yaml", text="name: mine\n"),
        Command(text='one --with "# no comment"'),
        Command(text="two      lines"),
        Command(text="three"),
        Shown(text="what four prints\n"),
    ]


def test_comments_end_at_quotes() -> None:
    assert without_comment("echo 'a # b' \"# c\" d#e # f") == "echo 'a # b' \"# c\" d#e"
