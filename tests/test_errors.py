import pickle

import pytest

from s3ray.errors import InputError, RunError, located


def passed_through(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught, located("grid.yaml"), located("job.yaml"):
        raise error
    assert caught.value is error
    return caught.value


def test_the_innermost_place_is_named_and_said_first() -> None:
    error = passed_through(InputError("is missing", field="student.model", value="''", hint="Name one."))
    assert str(error) == "job.yaml: student.model: is missing (got '')\n  Name one."


@pytest.mark.parametrize("where", ["--set", ""])
def test_what_has_said_its_place_keeps_it(where: str) -> None:
    error = InputError("is wrong", where=where, field="store")
    told = str(error)
    assert str(passed_through(error)) == told


def test_other_errors_pass_as_they_are() -> None:
    assert str(passed_through(RunError("is full", "Make room."))) == "is full\n  Make room."


def test_a_place_survives_pickling_before_and_after_it_is_filled_in() -> None:
    error = pickle.loads(pickle.dumps(InputError("is missing", field="name")))
    filled = passed_through(error)
    again = pickle.loads(pickle.dumps(filled))
    assert isinstance(again, InputError)
    assert (again.where, again.field, str(again)) == ("job.yaml", "name", "job.yaml: name: is missing")
