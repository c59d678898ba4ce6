"""Prompt templates of a task that somebody else wrote."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import TemplateError

from s3ray.errors import InputError
from s3ray.tasks import load_task
from s3ray.tasks.templates import MAX_CHARS, compile_template
from tests.tasks.samples import TOPICS

DOUBLED = "{% set x = 'a' %}" + "{% set x = [x, x] %}" * 60
OUT_OF_THE_SANDBOX = [
    "{{ label.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(label) }}",
    "{{ labels|map(attribute='__class__')|list }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% for k in context.update({'title': 'changed'}) or [] %}{% endfor %}",
]
BURNERS = [
    "{{ 'a' * 10**10 }}",
    "{{ 9**9**9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'|center(10000000000) }}",
    "{{ 1|round(1000000000, 'ceil') }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ lipsum(n=1000000) }}",
    "{% for a in labels %}" * 12 + "{% endfor %}" * 12,
    "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 60,
    "{% set x %}aa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "{% set x = 'a' %}" + "{% set x = [x, x]|join %}" * 60,
    f"{DOUBLED}{{{{ x }}}}",
    f"{DOUBLED}{{{{ x|upper }}}}",
    "{{ 'a'" + "|replace('a', 'aaaaaaaaaaaaaaaa')" * 20 + " }}",
    "{{ 'aaaaaaaaaaaaaaaa'" + "|join('bbbbbbbbbbbbbbbb')" * 20 + " }}",
    "{% set labels = 'aaaaaaaaaaaaaaaa' %}{% for a in labels %}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    f"{{{{ {'9' * 5000} }}}}",
]


@pytest.mark.parametrize("source", OUT_OF_THE_SANDBOX + BURNERS)
@pytest.mark.timeout(60)
def test_a_template_neither_leaves_its_sandbox_nor_burns_the_machine(source: str, tmp_path: Path) -> None:
    spec: dict[str, Any] = copy.deepcopy(TOPICS)
    spec["prompts"]["completion"]["seed"] = {"text": source}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(InputError) as refusal:
        load_task(str(tmp_path / "task.yaml"))
    assert "template" in refusal.value.problem


def test_a_prompt_has_an_end() -> None:
    labels = ["a" * 1000] * 2000
    with pytest.raises(TemplateError, match=f"longer than {MAX_CHARS}"):
        compile_template("{% for label in labels %}{{ label }}{% endfor %}").render(labels=labels)
    with pytest.raises(TemplateError, match=f"longer than {MAX_CHARS}"):
        compile_template("{{ labels | join }}").render(labels=labels)


def test_what_a_model_or_gold_says_is_no_template() -> None:
    said = "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}"
    assert compile_template("{{ parent.text }}").render(parent={"text": said}) == said
