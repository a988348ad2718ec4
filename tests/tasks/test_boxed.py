r"""\boxed{} as models write it: nested, escaped, bare, in thinking, cut off."""

from __future__ import annotations

import random

import pytest

from qwick.tasks import boxed

CASES = [
    # plain
    (r"so the answer is $\boxed{5}$.", "5"),
    (r"\boxed{ 5 }", "5"),
    (r"\boxed {5}", "5"),
    ("\\boxed\n{5}", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed{1}, no: \boxed{2}", "2"),
    (r"\boxed{1}, no: \fbox{2}", "2"),
    (r"\fbox{1}, no: \boxed{2}", "2"),
    # nested braces
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\frac{1}{\sqrt{2}}} and so on {}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{x^{2^{n}}+{a}}", "x^{2^{n}}+{a}"),
    (r"\boxed{\text{Tuesday}}", r"\text{Tuesday}"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    # escaped braces
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
    (r"\boxed{\}}", r"\}"),
    (r"\boxed{a \\{b}}", r"a \\{b}"),  # a line break, then a group
    (r"\boxed{50\%}", r"50\%"),
    (r"\boxed{\$5}", r"\$5"),
    # boxes in boxes
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{ \fbox{ \boxed{7} } }", "7"),
    (r"\boxed{x = \fbox{5} + 1}", r"x = \fbox{5} + 1"),
    (r"\boxed{\fbox{5} + \fbox{6}}", r"\fbox{5} + \fbox{6}"),
    # without braces
    (r"$\boxed 5$", "5"),
    (r"$\boxed 42$.", "42"),
    (r"\boxed -3.5 and more", "-3.5"),
    (r"\boxed5", "5"),
    (r"\boxed 1,234,", "1,234"),
    (r"\boxed 3/4.", "3/4"),
    (r"\boxed 12\% of it", r"12\%"),
    (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
    (r"$\boxed \pi$", r"\pi"),
    (r"\boxed x.", "x"),
    # thinking
    (r"<think>\boxed{1}</think>\boxed{2}", "2"),
    (r"\boxed{1}</think>so it is 2", None),
    (r"<think>\boxed{1}</think>so it is 2", None),
    (r"\boxed{2}<think>\boxed{1}", "2"),
    (r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}", "2"),
    # what is none
    ("", None),
    ("5", None),
    (r"put your final answer within \boxed{}.", None),
    (r"within \boxed{}: \boxed{3}", "3"),
    (r"\boxed{3} is within \boxed{}", "3"),
    (r"\boxed{  }", None),
    (r"\boxedfoo{5}", None),
    (r"boxed{5}", None),
    (r"\boxed", None),
    (r"\boxed ", None),
    (r"\boxed{", None),
    (r"\boxed{5", None),
    (r"\boxed{\frac{1}{2}", None),
    (r"\boxed{4} and then \boxed{5", "4"),
    (r"\boxed{5 \text{ and \boxed{6}", "6"),
    # as JSON and other languages have it
    (r"\\boxed{5}", "5"),
    (r"答案是\boxed{三}。", "三"),
    (r"\boxed{-\infty < x \le 3}", r"-\infty < x \le 3"),
    (r"\boxed{(1, 2]}", "(1, 2]"),
    ("\\boxed{a\nb}", "a\nb"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_box(text: str, expected: str | None) -> None:
    assert boxed(text) == expected


def test_any_nested_group_comes_back_as_it_was() -> None:
    chance = random.Random(3)

    def group(depth: int) -> str:
        parts = [r"\{", r"\}", r"\\", "x", "1", r"\frac", " "]
        if depth:
            parts += ["{" + group(depth - 1) + "}"] * 3
        return "".join(chance.choice(parts) for _ in range(chance.randint(1, 6)))

    for _ in range(300):
        inner = f"a{group(4)}a"
        assert boxed(rf"\boxed{{1}} then $\boxed{{{inner}}}$ \}} {{ ") == inner


def test_a_long_text_takes_no_time() -> None:
    # quadratic where a scan for the end of each box begins again: seconds, then minutes
    assert boxed(r"\boxed{5} " + r"\boxed{" * 3000) == "5"
