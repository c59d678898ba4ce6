"""Files in scripts of their own, from `s3ray init` to the end of a run; our own sentences, made from word lists."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

import s3ray
from s3ray.storage.run_folder import RunStore
from s3ray.tasks.draft import draft
from s3ray.text import valid_text
from tests.models import make_bert

# Things, what is said of them by label, and how a sentence is put together.
Lists = tuple[Sequence[str], dict[str, Sequence[str]], str]
SCRIPTS: dict[str, tuple[tuple[str, str], Lists]] = {
    "hindi": (
        ("समीक्षा", "भाव"),
        (
            ("केतली", "घड़ी", "कुर्सी", "मेज़", "किताब", "साइकिल"),
            {
                "सकारात्मक": ("बहुत अच्छी निकली", "समय पर पहुँची 👍🏽", "पैसे वसूल है"),
                "नकारात्मक": ("दो दिन में टूट गई", "देर से पहुँची 👎", "किसी काम की नहीं"),
            },
            "मैंने {n} तारीख़ को जो {thing} मँगाई थी, वह {said}।",
        ),
    ),
    "thai": (
        ("ความคิดเห็น", "ความรู้สึก"),
        (
            ("กาน้ำ", "นาฬิกา", "เก้าอี้", "โต๊ะ", "หนังสือ", "จักรยาน"),
            {"ดี": ("ใช้ดีมาก", "ส่งเร็ว😀", "คุ้มราคา"), "แย่": ("พังในสองวัน", "ส่งช้ามาก😡", "ใช้ไม่ได้เลย")},
            "{thing}ที่สั่งไปครั้งที่ {n} {said}จริงๆ",
        ),
    ),
    "chinese": (
        ("评论", "评价"),
        (
            ("水壶", "手表", "椅子", "桌子", "书", "自行车"),
            {"好评": ("质量很好", "送货很快👍", "物有所值"), "差评": ("两天就坏了", "送货太慢😡", "完全不能用")},
            "第{n}次买的{thing}{said}。",
        ),
    ),
    "arabic": (
        ("التعليق", "الرأي"),
        (
            ("الغلاية", "الساعة", "الطاولة", "الدراجة", "الحقيبة", "السجادة"),
            {
                "إيجابي": ("ممتازة جدًّا", "وصلت في وقتها 👨‍👩‍👧", "تستحق ثمنها"),
                "سلبي": ("تعطلت بعد يومين", "وصلت متأخرة 💔", "لا تنفع لشيء"),
            },
            "طلبت رقم {n}: {thing} {said}.",
        ),
    ),
}
SETTINGS = {
    "generator.engine": "fake",
    "generator.engines": 1,
    "strategy.rounds": 1,
    "strategy.seed_examples": 12,
    "strategy.rows": 18,
    "student.workers": 1,
    "student.epochs": 1,
    "student.min_steps": 1,
}


def sentences(lists: Lists, num: int = 200) -> list[tuple[str, str]]:
    """Texts and their labels; the same each time."""
    things, said, pattern = lists
    draw = random.Random(0)
    labels = sorted(said)
    rows = []
    for number in range(num):
        label = labels[number % 2]
        text = pattern.format(n=number + 1, thing=draw.choice(things), said=draw.choice(said[label]))
        rows.append((text, label))
    return rows


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_in_another_script_is_drafted_and_run_with_no_text_changed(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (text_name, label_name), lists = SCRIPTS[script]
    rows = sentences(lists)
    with Path("mine.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([(text_name, label_name), *rows])
    made = draft(Path("mine.csv"))
    made.write()
    Path("student").mkdir()
    job = s3ray.load_job("mine-job.yaml", {**SETTINGS, "student.model": str(make_bert(Path("student")).resolve())})
    assert f"Write one {valid_text(text_name)} whose {valid_text(label_name)}" in made.files["mine-task.yaml"]

    run = s3ray.run(job, local=True)

    assert run.metrics.test is not None
    labels = {valid_text(text): valid_text(label) for text, label in rows}
    store = RunStore(run.folder)
    for part in ("extrapolate", "select", "test"):
        gold = store.read_table(store.gold(part)).to_pylist()
        field = next(name for name in gold[0] if name not in ("id", "label", "answers", "source", "round", "parent"))
        assert {row[field]: row["label"] for row in gold}.items() <= labels.items()
    assert {label for _, label in rows} == {row["label"] for row in run.dataset()}
